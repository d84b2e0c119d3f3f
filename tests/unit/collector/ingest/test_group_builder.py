"""One group: duplicates removed, garbage quarantined with its reason, order kept, nothing raised."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.ingest import group_builder as module
from collector.ingest.group_builder import GroupBuilder, acks
from collector.ingest.repeat_evidence import AGAIN_MS, RepeatEvidence
from collector.ingest.share_limits import NodeShares, Shares
from collector.ingest.shares import ContentShares
from collector.ledger import ledger as ledger_module
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store import chunk
from collector.store.clock_skew import Offset
from collector.store.group import HEAD_BYTES
from wire.codec import decode, encode, seal
from wire.messages import MAX_BODY, Ack, Batch
from wire.ranges import Ranges
from wire.topics import parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
DATA = f"tb1/{NODE}/data/arm/joints"
EVENT = f"tb1/{NODE}/event/arm/alarm"


def received(body: bytes, topic: str = DATA, recv: int = T0) -> Received:
    return Received(topic, body, recv, False, (1, 1), parsed=parse(topic))


def build(
    items: list[Received],
    ledger: Ledger | None = None,
    *,
    skew: int = 0,
    evidence: RepeatEvidence | None = None,
) -> Any:
    builder = GroupBuilder(ledger or Ledger(), lambda _node: Offset(skew), T0, evidence=evidence)
    return builder.build(items)


@given(st.lists(st.binary(max_size=300)))
@example([b"", b"{}", b"null", b"[]", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b'{"v":1}'])
def test_any_bytes_end_in_the_quarantine(bodies: list[bytes]) -> None:
    for topic in (DATA, EVENT):
        found = build([received(body, topic) for body in bodies])
        assert len(found.group.quarantine) == len(bodies)
        assert all(one.why for one in found.group.quarantine)
        assert not found.group.rows
        assert not found.group.events


BAD = {
    "not numbered": encode(Batch(t0=1, per=1, n=1, f={"x": [1]})),
    "truncated": b'{"t0":1,',
    "has 2 values for 1 rows": b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{"x":[1,2]}}',
    "before 1970": b'{"ep":"00112233","seq":5,"t0":1,"dt":[-100],"f":{"x":[1]}}',
    "a batch without fields": b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{}}',
    "not [a-z]": b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{"X":[1]}}',
    "60000 are allowed": b" " * (MAX_BODY + 1),
    "unpacks to more": gzip.compress(b" " * 20_000_000),
}


def bad(recv: int, *, body: bytes = b"", topic: str = DATA, dup: bool = False) -> Received:
    return Received(
        topic, body or BAD["a batch without fields"], recv, False, (1, 1), dup, parsed=parse(topic)
    )


@pytest.mark.parametrize("why", BAD)
def test_the_reason_is_recorded(why: str) -> None:
    (found,) = build([received(BAD[why])]).group.quarantine
    assert why in found.why
    assert (found.topic, found.size) == (DATA, len(BAD[why]))
    assert found.head == BAD[why][:HEAD_BYTES]


def test_a_bad_message_with_a_number_is_declared_lost_when_it_comes_again_as_it_was() -> None:
    ledger = Ledger()
    evidence = RepeatEvidence()
    first = build([bad(T0)], ledger, evidence=evidence)
    assert (first.acked, first.drafts, len(first.group.quarantine)) == ({}, [], 1)
    again = build([bad(T0 + AGAIN_MS)], ledger, evidence=evidence)
    assert {key: list(ranges) for key, ranges in again.acked.items()} == {(NODE, "00112233"): [(5, 5)]}
    ledger.accept(again.drafts)
    (entry,) = ledger.entries()
    assert (entry.stored, entry.gap_count) == (0, 1)
    assert entry.gaps[0][2].startswith("quarantined: not a Batch")


@pytest.mark.parametrize(
    ("why", "second"),
    [
        ("the broker repeats what was not acknowledged in time", bad(T0 + 60_000, dup=True)),
        ("a killed broker repeats and does not know it", bad(T0 + 2_000)),
        ("damaged, but otherwise", bad(T0 + 60_000, body=BAD["a batch without fields"] + b" ")),
        ("another stream", bad(T0 + 60_000, topic=EVENT)),
        ("another node", bad(T0 + 60_000, topic=DATA.replace("cobot-01", "cobot-02"))),
    ],
)
def test_a_message_that_may_be_damaged_on_the_way_is_not_acknowledged(why: str, second: Received) -> None:
    ledger, evidence = Ledger(), RepeatEvidence()
    for one in (bad(T0), second):
        found = build([one], ledger, evidence=evidence)
        assert (found.acked, found.drafts) == ({}, []), why


def test_a_good_copy_after_a_damaged_one_is_stored_and_nothing_is_lost(batch: Any) -> None:
    ledger = Ledger()
    evidence = RepeatEvidence()
    good = batch(5, ep="00112233")
    build([bad(T0)], ledger, evidence=evidence)
    found = build([good, bad(T0 + AGAIN_MS)], ledger, evidence=evidence)
    assert list(found.acked[(NODE, "00112233")]) == [(5, 5)]
    ledger.accept(found.drafts)
    late = build([bad(T0 + 2 * AGAIN_MS)], ledger, evidence=evidence)
    assert list(late.acked[(NODE, "00112233")]) == [(5, 5)], "it is stored: another copy is not needed"
    (entry,) = ledger.entries()
    assert (entry.stored, entry.gap_count, late.drafts) == (1, 0, [])


def test_a_body_whose_checksum_does_not_fit_never_counts_as_sent_so(batch: Any) -> None:
    sound = seal(batch(5).body)
    assert build([received(sound)]).stored == 1
    ledger, evidence = Ledger(), RepeatEvidence()
    for at in range(3):
        damaged = sound.replace(b"5.0", b"6.0")
        found = build([bad(T0 + at * AGAIN_MS, body=damaged)], ledger, evidence=evidence)
        assert "checksum" in found.group.quarantine[0].why
        assert (found.stored, found.acked) == (0, {})


def test_a_bad_message_does_not_affect_others(batch: Any) -> None:
    items = [batch(1), received(b"garbage"), batch(2), received(b"{}", EVENT), batch(3)]
    found = build(items)
    assert (found.stored, len(found.group.quarantine)) == (3, 2)
    assert list(found.acked[(NODE, EP)]) == [(1, 3)]


def test_a_duplicate_within_a_group_and_of_the_ledger(batch: Any, event: Any, numbers: Any) -> None:
    found = build([batch(1), batch(2), batch(2), event(2), batch(5)], numbers([1]))
    assert (found.stored, found.duplicates) == (2, 3)
    assert list(found.acked[(NODE, EP)]) == [(1, 2), (5, 5)], "duplicates are acknowledged again"


def test_the_topic_names_the_node(batch: Any) -> None:
    found = build([batch(1, node="acme/trial/hall/n1"), batch(1, node="acme/trial/hall/n2")])
    assert (found.stored, found.duplicates) == (2, 0)


def test_rows_of_a_stream_keep_their_order_in_one_chunk(batch: Any) -> None:
    found = build([batch(seq, {"x": [seq, seq + 0.5]}, t0=T0 + seq * 40) for seq in (1, 2, 3)])
    (only,) = found.group.rows
    assert only.messages == [(1, 2), (2, 2), (3, 2)]
    assert only.columns["x"] == [1, 1.5, 2, 2.5, 3, 3.5]
    assert only.times_us().tolist() == [(T0 + seq * 40 + at) * 1000 for seq in (1, 2, 3) for at in (0, 20)]


def test_other_fields_are_another_chunk(batch: Any) -> None:
    found = build([batch(1, {"x": [1.0]}), batch(2, {"y": [1.0]}), batch(3, {"x": [1.0], "y": [2.0]})])
    assert len(found.group.rows) == 3


def test_a_chunk_is_never_larger_than_one_can_read(batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 100)
    found = build([batch(seq, {"x": [1.0] * 60}) for seq in range(1, 8)])
    assert [part.count for part in found.group.rows] == [120, 120, 120, 60]
    assert chunk.MAX_UNPACKED > 20_000 * 8 * 100


@pytest.mark.parametrize(
    ("delay", "skew", "late"),
    [(9_000, 0, False), (11_000, 0, True), (11_000, 5_000, False), (2_000, -9_000, True)],
)
def test_late_is_measured_on_the_nodes_clock(batch: Any, delay: int, skew: int, late: bool) -> None:
    found = build([batch(1, t0=T0, recv=T0 + delay)], skew=skew)
    assert found.group.rows[0].late is late


def test_gap_events_declare(event: Any) -> None:
    ledger = Ledger()
    found = build([event(10, "gap", device="_", lost=[(3, 7)], why="disk full")], ledger)
    ledger.accept(found.drafts)
    assert ledger.entries()[0].gaps == [(3, 7, "disk full")]


def test_without_room_a_message_is_neither_kept_nor_acknowledged(
    batch: Any, event: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_RANGES", 2)
    found = build([batch(1), batch(3), batch(5), event(7, lost=[(1, 1)]), event(2, lost=[(8, 8)])])
    assert (found.stored, len(found.refused), found.group.quarantine) == (3, 2, [])
    assert list(found.acked[(NODE, EP)]) == [(1, 3)]
    assert [one.seq for one in found.group.events] == [2]
    (account,) = found.drafts
    assert list(account.stored) == [(1, 3)]


def test_a_gap_declared_twice_is_one_gap(event: Any) -> None:
    ledger = Ledger()
    for _ in range(3):
        found = build([event(10, "gap", device="_", lost=[(3, 7)], why="full")], ledger)
        ledger.accept(found.drafts)
    (entry,) = ledger.entries()
    assert (entry.gaps, entry.duplicates) == ([(3, 7, "full")], 2)


def test_acks_are_ranges_of_a_size_any_broker_takes(batch: Any) -> None:
    found = build([batch(seq) for seq in range(1, 5_001, 2)])
    bodies = list(acks(found.acked, "collector-1", T0, lambda _: 0))
    assert {topic for topic, _ in bodies} == {f"tb1/{NODE}/ack"}
    assert all(len(body) <= MAX_BODY for _, body in bodies)
    read = [decode(body, Ack) for _, body in bodies]
    assert [pair for ack in read for pair in ack.ok] == [(seq, seq) for seq in range(1, 5_001, 2)]
    assert (read[0].by, read[0].ep) == ("collector-1", EP)


def test_a_group_ends_with_the_message_that_fills_it(batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_VALUES", 1_000)
    items = [batch(seq, {"x": [1.5] * 400}) for seq in range(1, 8)]
    first = build(items)
    assert (first.taken, first.stored) == (3, 3)
    monkeypatch.setattr(module, "GROUP_VALUES", 10**9)
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    assert build(items).taken == 1


def test_what_exceeds_a_share_is_neither_stored_nor_quarantined_nor_acknowledged(batch: Any) -> None:
    shares = ContentShares(Shares(node=NodeShares(names_per_stream=100, values_per_s=500)))
    evil, acme = "evil/pilot/hall/bad", "acme/pilot/hall/victim"
    items = [
        batch(1, {f"a{n}": [1] for n in range(101)}, node=evil),
        batch(2, {f"b{n}": [1] for n in range(100)}, node=evil),
        *(batch(seq, {"b1": [1] * 2_000}, node=evil) for seq in (3, 4)),
        batch(1, {"heart_rate": [72.0]}, node=acme),
    ]
    ledger = Ledger()

    def again() -> Any:
        return GroupBuilder(ledger, lambda _node: Offset(0), T0, shares=shares).build(items)

    found = again()
    assert [(refusal.key, refusal.scope) for _, refusal in found.exceeded] == [
        ("names_per_stream", "node"),
        ("values_per_s", "node"),
    ]
    assert not found.group.quarantine
    assert {key[0]: list(ranges) for key, ranges in found.acked.items()} == {evil: [(2, 3)], acme: [(1, 1)]}
    ledger.accept(found.drafts)
    assert ledger.account((evil, EP)).lost == []  # type: ignore[union-attr]  # it has an account


def test_a_copy_of_a_stored_message_is_acknowledged_whatever_it_exceeds(batch: Any, event: Any) -> None:
    shares = ContentShares(Shares(node=NodeShares(disk_mb_per_day=1)))
    ledger = Ledger()
    for at in range(2):
        found = GroupBuilder(ledger, lambda _node: Offset(0), T0, shares=shares).build([batch(1), event(2)])
        assert [list(ranges) for ranges in found.acked.values()] == [[(1, 2)]]
        assert found.duplicates == 2 * at
        ledger.accept(found.drafts)
        shares.stored(NODE, 1_000_000)
    found = GroupBuilder(ledger, lambda _node: Offset(0), T0, shares=shares).build([batch(3), event(4)])
    assert [refusal.key for _, refusal in found.exceeded] == ["disk_mb_per_day"] * 2


@pytest.mark.parametrize(("highest", "ahead"), [(0, None), (7, None), (8, 8), (5_000, 5_000)])
def test_an_ack_states_the_highest_number_where_it_is_higher(highest: int, ahead: int | None) -> None:
    ((topic, body),) = acks({(NODE, EP): Ranges([(3, 4), (7, 7)])}, "collector-1", T0, lambda _: highest)
    ack = decode(body, Ack)
    assert topic == f"tb1/{NODE}/ack"
    assert (ack.ok, ack.ahead if isinstance(ack.ahead, int) else None) == ([(3, 4), (7, 7)], ahead)
