"""Signed statements at the collector: what is believed, what is not, and the proof per day and stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.ingest.group_builder import GroupBuilder
from collector.ingest.inbox import Received
from collector.ledger import statements as module
from collector.ledger.accepted_keys import FILE, AcceptedKeys, accept
from collector.ledger.ledger import Ledger
from collector.ledger.report import DayLine, ReportFilter, account, day_lines, pilot_lines
from collector.ledger.statements import StatedPart, stored_rows
from collector.mqtt.connection import Incoming
from collector.store import marks
from collector.store.clock_skew import Offset
from collector.store.marks import Claim, Mark
from collector.store.store import SqliteStore, aside, day_files, peek
from edgebed.cli import command as edgebed
from wire.codec import encode
from wire.custody import digest, key_id, signed_form
from wire.errors import EdgebedError
from wire.messages import Batch, Event
from wire.ranges import Ranges
from wire.topics import parse

NODE, OTHER, EP = "acme/trial/hall/cobot-01", "acme/trial/hall/cobot-02", "00112233aabbccdd"
T0 = 1_795_356_000_000
KEY = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
NEW_KEY = Ed25519PrivateKey.from_private_bytes(b"2" * 32)


class Node:
    """Speaks as an agent does: numbers, rows, statements; every message is given back to be sent or not."""

    def __init__(self, *, node: str = NODE, ep: str = EP, key: Ed25519PrivateKey = KEY, run: int = 1) -> None:
        self.node, self.ep, self.key = node, ep, key
        self.restart(run)

    def restart(self, run: int = 0) -> None:
        self.seq = run - 1 if run else self.seq
        self.run = self.seq + 1
        self.n, self.prev, self.rows = 0, "", dict[str, int]()
        self.turn("2026-11-22")

    def turn(self, day: str) -> None:
        self.day, self.first, self.streams = day, self.seq + 1, dict[str, list[int]]()

    def number(self, stream: str, rows: int) -> tuple[int, tuple[int, int]]:
        self.seq += 1
        first = self.rows.get(stream, 0) + 1
        self.rows[stream] = first + rows - 1
        known = self.streams.setdefault(stream, [0, first, 0])
        known[0], known[2] = known[0] + 1, first + rows - 1
        return self.seq, (self.run, first)

    def data(self, rows: int = 10, stream: str = "joints") -> Received:
        seq, no = self.number(f"data/arm/{stream}", rows)
        body = encode(Batch(ep=self.ep, seq=seq, no=no, t0=T0, per=20, n=rows, f={"j1": [1.0] * rows}))
        return received(f"tb1/{self.node}/data/arm/{stream}", body, T0 + seq)

    def detail(self, **changes: Any) -> dict[str, Any]:
        self.n += 1
        said: dict[str, Any] = {
            "v": 1, "n": self.n, "prev": self.prev, "key": self.key.public_key().public_bytes_raw().hex(),
            "boot": "00ff00ff", "run": self.run, "day": self.day, "first": self.first, "upto": self.seq,
            "streams": {name: list(three) for name, three in self.streams.items()}, "clk": 1, **changes,
        }  # fmt: skip
        form = signed_form(said, self.node, self.ep)
        self.prev = digest(form)
        return {**said, "sig": self.key.sign(form).hex()}

    def state(self, **changes: Any) -> Received:
        detail = self.detail(**changes)
        seq, no = self.number("event/_/custody", 1)
        return self.event("custody", seq, no, detail=detail)

    def gap(self, lost: list[tuple[int, int]]) -> Received:
        seq, no = self.number("event/_/gap", 1)
        return self.event("gap", seq, no, lost=lost, why="quota")

    def event(self, kind: str, seq: int, no: tuple[int, int], **fields: Any) -> Received:
        event = Event(ep=self.ep, seq=seq, no=no, ts=T0 + seq, type=kind, **fields)
        return received(f"tb1/{self.node}/event/_/{kind}", encode(event), T0 + seq)


def received(topic: str, body: bytes, at_ms: int) -> Received:
    return Received(Incoming(topic, body, at_ms, False, (1, 1)), parse(topic))


Take = Callable[..., Any]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def take(ledger: Ledger) -> Take:
    """What the writer does with a group, without a disk."""

    def taken(messages: Sequence[Received], accepted: Sequence[str] = ()) -> Any:
        builder = GroupBuilder(ledger, lambda _node: Offset(), T0, accepted=lambda _node: accepted)
        made = builder.build(messages)
        ledger.marks(made.drafts)
        ledger.accept(made.drafts, made.group.custody)
        return made

    return taken


def only(ledger: Ledger, **wanted: str) -> DayLine:
    (line,) = day_lines(ledger, ReportFilter(**wanted))
    return line


def refused(ledger: Ledger, key: tuple[str, str] = (NODE, EP)) -> dict[str, int]:
    found = ledger.account(key)
    assert found is not None
    return found.book.stated.refused


# --- what is believed


def test_a_day_is_proven_by_stream(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.data(5), node.data(7, "tcp"), node.state(), node.data(3)])
    line = only(ledger)
    assert (line.day, line.taken, line.stored, line.signed, line.statements) == ("2026-11-22", 5, 5, 3, 1)
    assert (line.verified, line.doubt) == (True, "")
    assert {name: (s.messages, s.rows_taken, s.rows_stored) for name, s in line.streams.items()} == {
        "data/arm/joints": (2, 18, 18),
        "data/arm/tcp": (1, 7, 7),
        "event/_/custody": (0, 1, 1),
    }
    take([node.state()])
    line = only(ledger, stream="arm/joints")
    assert (line.signed, line.statements, line.rows_taken) == (5, 2, 18)
    assert list(line.streams) == ["data/arm/joints"]


def test_statements_may_come_before_what_they_count(ledger: Ledger, take: Take) -> None:
    node = Node()
    early = [node.data(), node.data()]
    statement = node.state()
    take([statement])
    line = only(ledger)
    assert (line.taken, line.stored, line.missing_count, line.rows_taken, line.rows_stored) == (
        3,
        1,
        2,
        21,
        1,
    )
    take(early[1:])
    assert only(ledger).streams["data/arm/joints"].rows_stored == 10
    take(early[:1])
    line = only(ledger)
    assert (line.stored, line.rows_stored, line.verified) == (3, 21, True)


def test_days_and_runs_part_exactly_whatever_the_order(ledger: Ledger, take: Take) -> None:
    node = Node()
    sent = [node.data(), node.data(), node.state(), node.data()]
    last = node.seq  # the rest of the day: stated after midnight
    evening = {"first": node.first, "upto": last, "streams": dict(node.streams), "day": node.day}
    node.turn("2026-11-23")
    sent += [node.data(4), node.state(**evening), node.state(), node.data(2)]
    node.restart()
    node.turn("2026-11-23")
    sent += [node.data(6), node.state()]
    for order in (sent, sent[::-1], sent[::2] + sent[1::2]):
        ledger.__init__()  # type: ignore[misc]  # a fresh one that `take` knows
        for one in order:
            take([one])
        days = {line.day: line for line in day_lines(ledger, ReportFilter())}
        assert {day: (line.taken, line.stored, line.verified) for day, line in days.items()} == {
            "2026-11-22": (4, 4, True),
            "2026-11-23": (6, 6, True),
        }
        joints = [days[day].streams["data/arm/joints"] for day in sorted(days)]
        assert [(one.rows_taken, one.rows_stored) for one in joints] == [(30, 30), (12, 12)]
        assert refused(ledger) == {}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_the_order_the_grouping_and_the_restarts(draw: st.DataObject) -> None:
    """Two boots and days, gaps told twice, overlapping, after what they name: the account is the same."""
    node, sent, gone = Node(), list[Received](), set[int]()
    days = iter(("2026-11-23", "2026-11-24", "2026-11-25"))
    for step in draw.draw(st.lists(st.sampled_from("dddddssgntr"), min_size=3, max_size=25)):
        if step == "d":
            one = node.data(draw.draw(st.integers(1, 4)), draw.draw(st.sampled_from(["joints", "tcp"])))
            (gone.add(node.seq) if draw.draw(st.integers(0, 3)) == 0 else sent.append(one))
        elif step == "g" and node.seq:  # some that are gone, some that were or will be stored
            first = draw.draw(st.integers(1, node.seq))
            sent.append(node.gap([(first, draw.draw(st.integers(first, node.seq)))]))
        elif step == "s" and node.seq >= node.first:
            one = node.state()
            (gone.add(node.seq) if draw.draw(st.integers(0, 3)) == 0 else sent.append(one))
        elif step == "t" and node.seq >= node.first and (day := next(days, "")):
            sent.append(node.state())
            node.turn(day)
        elif step == "r":
            day = node.day
            sent.append(node.state()) if node.seq >= node.first else None
            node.restart()
            node.turn(day)
    sent.append(node.data())
    sent.append(node.state())
    declared = Ranges((a, b) for one in sent for a, b in decode_gap(one))
    declared_gone = {seq for seq in gone if seq in declared}
    order = draw.draw(st.permutations([*sent, *draw.draw(st.lists(st.sampled_from(sent), max_size=6))]))
    ledger = Ledger()
    while order:
        size = draw.draw(st.integers(1, len(order)))
        made = GroupBuilder(ledger, lambda _node: Offset(), T0).build(order[:size])
        order = order[size:]
        marks = ledger.marks(made.drafts)
        ledger.accept(made.drafts, made.group.custody)
        if draw.draw(st.booleans()):  # the collector is killed and comes back
            states = {
                f"custody/{NODE}/{EP}/{day}": body for day, body in ledger.days.bodies((NODE, EP)).items()
            }
            states[f"key/{NODE}"] = msgspec.json.encode(ledger.ring(NODE))
            ledger = Ledger(msgspec.json.decode(msgspec.json.encode(marks), type=list[Mark]), states)
    lines = day_lines(ledger, ReportFilter())
    assert refused(ledger) == {}
    assert sum(line.taken for line in lines) == node.seq
    assert sum(line.stored for line in lines) == len(sent)
    assert sum(line.gap_count for line in lines) == len(declared_gone)
    assert sum(line.missing_count for line in lines) == len(gone - declared_gone)
    assert {line.doubt for line in lines} == {""}
    (entry,) = ledger.entries()
    assert (entry.taken, entry.gap_count) == (node.seq, len(declared_gone))
    assert sum(share.rows_stored for line in lines for share in line.streams.values()) == entry.rows_stored


def decode_gap(one: Received) -> list[tuple[int, int]]:
    body: dict[str, Any] = json.loads(one.message.body)
    return [(first, last) for first, last in body.get("lost", [])]


def test_what_is_declared_waiting_and_missing_is_told_by_day(ledger: Ledger, take: Take) -> None:
    node = Node()
    sent = [node.data() for _ in range(10)]
    statement = node.state()
    node.turn("2026-11-23")
    late = [node.data() for _ in range(5)]
    take([*sent[:2], *sent[5:], statement, node.gap([(3, 4)]), *late[:1], node.state()])
    ledger.claim(NODE, EP, Claim(head=18, acked=5, depth=4, rows=0, at_ms=T0 + 99))
    first, second = day_lines(ledger, ReportFilter())
    assert (first.taken, first.stored, first.gap_count, first.missing_count, first.waiting) == (
        11,
        8,
        2,
        1,
        0,
    )
    assert first.gaps == [(3, 4, "quota")]
    assert first.absent == [(5, 5, T0 + 2, "was stored once: this store is restored from an older backup")]
    assert (second.day, second.taken, second.stored, second.waiting) == ("2026-11-23", 7, 3, 4)
    newest, total = pilot_lines([first, second])
    assert (newest.day, newest.waiting) == ("2026-11-23", 4)
    assert (total.pilot, total.nodes, total.taken, total.missing_count) == ("acme/trial", 1, 11, 1)


def test_rows_that_were_signed_and_never_came_though_all_messages_did(ledger: Ledger, take: Take) -> None:
    """A store that lost rows, or a node that miscounts: told, and nothing is called verified."""
    node = Node()
    take([node.data(), node.state(streams={"data/arm/joints": [1, 1, 11]})])
    line = only(ledger)
    assert not line.verified
    assert line.doubt == "data/arm/joints: 11 rows are signed and 10 stored"


def test_a_node_that_states_nothing_is_told_as_such(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.data()])
    line = only(ledger)
    assert (line.day, line.taken, line.stored, line.statements, line.verified) == ("", 2, 2, 0, False)
    assert "no signed statement" in line.doubt
    assert line.streams["data/arm/joints"].rows_stored == 20
    assert day_lines(ledger, ReportFilter(day="2026-11-22")) == []


# --- what is not believed


@pytest.mark.parametrize(
    "change",
    [
        lambda detail: detail.update(upto=1),
        lambda detail: detail["streams"].update({"data/arm/joints": [1, 1, 2]}),
        lambda detail: detail.update(sig="00" * 64),
        lambda detail: detail.update(extra=1),
        lambda detail: detail.pop("sig"),
    ],
)
def test_a_tampered_statement_is_kept_as_an_event_and_not_believed(
    ledger: Ledger, take: Take, change: Callable[[dict[str, Any]], Any]
) -> None:
    node = Node()
    take([node.data(), node.data()])
    detail = node.detail()
    change(detail)
    seq, no = node.number("event/_/custody", 1)
    made = take([node.event("custody", seq, no, detail=detail)])
    assert len(made.group.events) == 1
    assert made.acked[(NODE, EP)] == Ranges([(3, 3)])
    assert refused(ledger) == {"its signature does not fit this node, outbox and text": 1}
    assert only(ledger).statements == 0
    assert "signature" in ledger.doubt(NODE, 0)
    assert ledger.doubt(NODE, T0 + 10_000) == ""


@pytest.mark.parametrize("where", [{"node": OTHER}, {"ep": "ffffffff00000000"}])
def test_a_statement_of_another_node_or_outbox_is_not_believed(
    ledger: Ledger, take: Take, where: dict[str, str]
) -> None:
    victim, thief = Node(), Node(**where)
    take([victim.data(), victim.state(), thief.data(), thief.data()])
    stolen = victim.detail()
    seq, no = thief.number("event/_/custody", 1)
    take([thief.event("custody", seq, no, detail=stolen)])
    assert sum(refused(ledger, (thief.node, thief.ep)).values()) == 1


def test_a_statement_that_comes_again_under_another_number_is_a_replay(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data()])
    detail = node.detail()
    for _ in range(2):
        seq, no = node.number("event/_/custody", 1)
        take([node.event("custody", seq, no, detail=detail)])
    assert refused(ledger) == {"a statement with this number arrived before": 1}
    assert only(ledger).statements == 1


def test_two_that_go_on_from_one_statement_are_a_copy_of_the_node(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state(), node.data()])
    before = node.prev
    take([node.state()])
    node.prev = before
    take([node.data(), node.state()])
    assert "copy of this node" in next(iter(refused(ledger)))


@pytest.mark.parametrize("taken", range(1, 12))
@pytest.mark.parametrize("statements", [1, 4])
def test_a_device_restored_from_an_older_image_is_told(
    ledger: Ledger, take: Take, taken: int, statements: int
) -> None:
    """It gives numbers a second time, and what bears them is taken for duplicates: that is no proof."""
    node = Node()
    take([node.data(), node.state()])
    image = node.seq
    node.restart()
    for _ in range(statements):
        take([node.data(), node.data(), node.state()])
    assert only(ledger).verified
    again = Node(run=image + 1)  # what it took since the image is on no disk of its own
    made = [take([again.data(), again.state()]) for _ in range(taken)]
    lost = sum(one.duplicates for one in made)
    assert lost == min(2 * taken, 3 * statements)
    line = only(ledger)
    if sum(one.stored for one in made):  # else nothing came yet by which it could be known
        assert not line.verified
        assert "set back" in line.doubt


def test_numbers_from_the_future_and_rubbish_are_refused(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state(upto=50)])
    seq, no = node.number("event/_/custody", 1)
    take([node.event("custody", seq, no, detail={"n": "?"})])
    assert [why[:20] for why in refused(ledger)] == ["it covers numbers th", "not a custody statem"]
    assert only(ledger).taken == 3


def test_another_key_needs_people(ledger: Ledger, take: Take) -> None:
    """A device set up anew has a new outbox and a new key; so has an impostor."""
    node, again = Node(), Node(ep="ffffffff00000000", key=NEW_KEY)
    take([node.data(), node.state(), again.data(), again.state()])
    name = key_id(NEW_KEY.public_key().public_bytes_raw().hex())
    new, old = day_lines(ledger, ReportFilter())
    assert (new.day, new.verified, old.day, old.verified) == ("", False, "2026-11-22", True)
    assert refused(ledger, (NODE, again.ep)) == {f"its key {name} is not accepted": 1}
    assert [one.how for one in ledger.ring(NODE).keys] == ["first seen", ""]
    answer = account(ledger, ReportFilter(), detailed=False)
    assert [(one.node, one.key, one.statements) for one in answer["strangers"]] == [(NODE, name, 1)]
    take([again.data(), again.state()], accepted=[name])
    (line,) = [one for one in day_lines(ledger, ReportFilter()) if one.ep == again.ep]
    assert (line.day, line.taken, line.verified, line.signed) == ("2026-11-22", 4, True, 3)
    assert account(ledger, ReportFilter(), detailed=False)["strangers"] == []


def test_keys_without_end_are_bounded(ledger: Ledger, take: Take) -> None:
    node = Node()
    take([node.data(), node.state()])
    for number in range(module.MAX_KEYS + 5):
        node.key = Ed25519PrivateKey.from_private_bytes(bytes([number + 3]) * 32)
        take([node.data(), node.state()])
    assert len(ledger.ring(NODE).keys) == module.MAX_KEYS
    assert len(refused(ledger)) <= module.MAX_REASONS


# --- it goes on without end, and survives


def test_restarts_by_the_thousand_leave_counts(ledger: Ledger, take: Take) -> None:
    """Row numbers of old runs are let go; events of an outbox come before its data, runs late."""
    node, data, events = Node(), [], []
    for _ in range(150):
        data += [node.data(3), node.data(2, "tcp")]
        events.append(node.state())
        node.restart()
    take(events)
    for at in range(0, len(data), 50):
        take(data[at : at + 50])
    found = ledger.account((NODE, EP))
    assert found is not None
    assert len(found.book.rows) <= 2 * module.MAX_RUNS
    line = only(ledger)
    assert (line.taken, line.stored, line.statements, line.doubt) == (450, 450, 150, "")
    assert line.streams["data/arm/joints"].rows_stored == line.streams["data/arm/joints"].rows_taken == 450


def test_more_restarts_a_day_than_anyone_can_use_are_told(
    ledger: Ledger, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PARTS", 5)
    node = Node()
    for _ in range(20):
        take([node.data(), node.state()])
        node.restart()
    line = only(ledger)
    assert (line.taken, line.stored, line.statements, line.verified) == (40, 40, 20, False)
    assert "restarted so often" in line.doubt


def test_days_without_end_are_refused(ledger: Ledger, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DAYS", 3)
    node = Node()
    for day in range(1, 6):
        node.turn(f"2026-11-{day:02}")
        take([node.data(), node.state()])
    node.turn("2026-11-03")
    take([node.data(), node.state()])
    days = {line.day: line for line in day_lines(ledger, ReportFilter())}
    assert list(days) == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert refused(ledger) == {"it names more days than are kept": 2}
    assert sum(line.taken for line in days.values()) == node.seq, "its messages count all the same"


def test_streams_and_holes_without_end_are_bounded(
    ledger: Ledger, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "MAX_STREAMS", 5)
    monkeypatch.setattr(marks, "MAX_HOLES", 5)
    node = Node()
    for number in range(20):
        kept = node.data(1, f"s{number}")
        node.data(1, "joints")
        take([kept, node.data(1, "joints")])
    found = ledger.account((NODE, EP))
    assert found is not None
    streams = found.book.rows[1]
    assert len(streams) == 5
    assert len(streams["data/arm/joints"]) == 5


def test_all_of_it_survives_restarts_new_days_and_a_damaged_file(
    folder: Path, clock: Any, commit: Callable[..., Any]
) -> None:
    node = Node()
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [node.data(), node.data(), node.state()])
    node.data()  # never comes
    commit(store, ledger, [node.data()])
    before = account(ledger, ReportFilter(), detailed=True)
    store.close()
    for step in ("restart", "new day", "damaged"):
        if step == "new day":
            clock.ms += 86_400_000
        if step == "damaged":
            day_files(folder)[-1].write_bytes(b"rubbish" * 1000)
            for part in folder.glob("*-wal"):
                part.unlink()
        store = SqliteStore(folder, clock)
        saved = store.load()
        ledger = Ledger(saved.marks, saved.states)
        assert account(ledger, ReportFilter(), detailed=True) == before, step
        commit(store, ledger, [])
        store.close()
        peeked = peek(folder)
        assert account(Ledger(peeked.marks, peeked.states), ReportFilter(), detailed=True) == before, step
    assert len(aside(folder)) == 1
    store = SqliteStore(folder, clock)
    saved = store.load()
    ledger = Ledger(saved.marks, saved.states)
    commit(store, ledger, [node.state()])
    store.close()
    (line,) = day_lines(ledger, ReportFilter())
    assert (line.taken, line.stored, line.missing_count, line.statements) == (6, 5, 1, 2)
    assert line.absent == [(4, 4, T0 + 3, "never arrived")]
    assert refused(ledger) == {}, "the chain goes on where it was"


def test_what_was_stated_since_the_last_sound_file_survives_the_damaged_one(
    folder: Path, clock: Any, commit: Callable[..., Any]
) -> None:
    node, store, ledger = Node(), SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [node.data(), node.state()])
    clock.ms += 86_400_000
    commit(store, ledger, [node.data(), node.data(), node.state()])  # of the same day, told in another file
    before = account(ledger, ReportFilter(), detailed=True)
    store.close()
    day_files(folder)[-1].write_bytes(b"rubbish" * 1000)
    for _ in range(2):
        store = SqliteStore(folder, clock)
        saved = store.load()
        store.close()
        assert account(Ledger(saved.marks, saved.states), ReportFilter(), detailed=True) == before


def test_a_lost_outbox_is_told_with_its_successor(ledger: Ledger, take: Take) -> None:
    node, again = Node(), Node(ep="ffffffff00000000")
    take([node.data(), node.state()])
    node.data()
    take([node.data()])
    ledger.claim(NODE, EP, Claim(head=6, acked=2, depth=2, at_ms=T0 + 50))
    ledger.claim(NODE, again.ep, Claim(head=0, at_ms=T0 + 60))
    (line,) = day_lines(ledger, ReportFilter())
    why = "its outbox was lost: the node goes on as ep ffffffff00000000"
    assert line.absent == [(3, 3, T0 + 2, why), (5, 6, T0 + 50, why)]


# --- the file of accepted keys


def test_accepted_keys_are_read_again_when_they_change(tmp_path: Path) -> None:
    keys = AcceptedKeys(tmp_path)
    assert keys.of(NODE) == frozenset()
    accept(tmp_path, NODE, "0123456789abcdef", "why not")
    path = tmp_path / FILE
    path.write_bytes(
        path.read_bytes() + b"\xff\xfe rubbish of no sense \n\n# a remark whose line an editor left open"
    )
    assert keys.of(NODE) == {"0123456789abcdef"}
    accept(tmp_path, NODE, "fedcba9876543210", "another")
    assert keys.of(NODE) == {"0123456789abcdef", "fedcba9876543210"}
    (tmp_path / FILE).unlink()
    assert keys.of(NODE) == frozenset()
    with pytest.raises(EdgebedError, match="cannot be written"):
        accept(tmp_path / "nowhere", NODE, "0123456789abcdef", "")


def test_rows_between_parts_that_no_statement_tells_of_count_with_the_part_before() -> None:
    parts = [
        StatedPart(1, 1, 5, streams={"data/a/x": (2, 1, 20)}),
        StatedPart(1, 6, 9, streams={"data/a/y": (1, 1, 3)}),
        StatedPart(1, 10, 12, streams={"data/a/x": (1, 31, 40)}),
    ]
    streams = {"data/a/x": Ranges([(1, 15), (21, 50)]), "data/a/y": Ranges([(1, 3)])}
    assert stored_rows(parts, streams) == [
        ({"data/a/x": 15}, {}),
        ({"data/a/y": 3}, {"data/a/x": 10}),
        ({"data/a/x": 10}, {"data/a/x": 10}),
    ]
    assert stored_rows([], streams) == []


def test_saved_states_of_an_older_store_are_read(folder: Path, clock: Any) -> None:
    """A mark without a book, as it was written before there were statements."""
    from collector.store.marks import Mark

    body = (
        b'{"node":"%s","ep":"%s","stored":[[1,3]],"lost":[],"duplicates":0,"rows":3,"first":1,"last":2}'
        % (
            NODE.encode(),
            EP.encode(),
        )
    )
    mark = msgspec.json.decode(body, type=Mark)
    (entry,) = Ledger([mark]).entries()
    assert (entry.stored, entry.missing_count) == (3, 0)


# --- what people see


def run_ledger(*arguments: str) -> Any:
    return CliRunner().invoke(edgebed, ["ledger", *arguments])


def test_the_proof_of_a_pilot_by_day_and_stream(folder: Path, clock: Any, commit: Any) -> None:
    made, ledger, node = SqliteStore(folder, clock), Ledger(), Node()
    first = [node.data(), node.data(7, "tcp"), node.state()]
    node.turn("2026-11-23")
    node.data()
    commit(made, ledger, [*first, node.data(), node.gap([(4, 4)]), node.state()])
    made.close()
    found = run_ledger("--store", str(folder), "--pilot", "acme/trial")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "acme/trial  2026-11-22",
        "  100.000 % of 3 messages stored, 100.000 % of 17 rows; 1 of 1 node verified",
        "  acme/trial/hall/cobot-01  ep 00112233aabbccdd",
        "    100.000 % of 3 messages stored, 100.000 % of 17 rows",
        "    all in 1 signed statements: verified",
        "      data/arm/joints  100.000 % of 10 rows stored",
        "      data/arm/tcp  100.000 % of 7 rows stored",
        "acme/trial  2026-11-23",
        "  75.000 % of 4 messages stored, 56.521 % of 23 rows; 1 of 1 node verified",
        "  acme/trial/hall/cobot-01  ep 00112233aabbccdd",
        "    75.000 % of 4 messages stored, 56.521 % of 23 rows",
        "    3 of them in 1 signed statements: verified",
        "    1 declared lost",
        "    declared lost: 4: quota",
        "      data/arm/joints  50.000 % of 20 rows stored",
        "      event/_/custody  100.000 % of 2 rows stored",
        "      event/_/gap  100.000 % of 1 rows stored",
    ]
    found = run_ledger("--store", str(folder), "--day", "2026-11-22", "--stream", "arm/tcp", "--json")
    answer = json.loads(found.stdout)
    assert [list(day["streams"]) for day in answer["days"]] == [["data/arm/tcp"]]
    assert run_ledger("--store", str(folder), "--day", "2020-01-01").stdout == "no message matches\n"
