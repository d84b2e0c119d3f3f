"""The writer thread: a bad message does not stop others, and no ack goes out before the commit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from collector.fleet.fleet import Fleet
from collector.fleet.live_room import LiveRoom
from collector.health import CollectorProblems
from collector.ingest import group_builder, inbox
from collector.ingest import writer as module
from collector.ingest.repeat_evidence import AGAIN_MS
from collector.ingest.share_limits import NodeShares, Shares, TenantShares
from collector.ingest.writer import Ingest, IngestSettings
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store import day_file
from collector.store.day_schema import StoreBusy
from collector.store.store import SqliteStore
from collector.web.event_stream import Hub
from tests.polling import wait_until
from tests.unit.collector.stored import stored
from wire.clock import Clock
from wire.codec import decode, encode
from wire.messages import Ack, Batch, Refused

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


class FakeLink:
    """Keeps what a link would send: these tests check what it is given, not MQTT."""

    def __init__(self) -> None:
        self.tokens: list[tuple[int, int]] = []
        self.acked: list[tuple[int, int]] = []
        self.refused: list[Refused] = []

    def settle(self, tokens: Any, acks: Any = ()) -> None:
        self.tokens.extend(tokens)
        for _, body in acks:
            ack = decode(body, Ack)
            self.acked.extend(ack.ok)
            self.refused += [ack.refused] if isinstance(ack.refused, Refused) else []


class Site:
    def __init__(self, folder: Path, clock: Clock | None = None, shares: Shares | None = None) -> None:
        clock = Clock() if clock is None else clock
        self.store = SqliteStore(folder, clock)
        self.ledger = Ledger()
        self.fleet = Fleet(clock, self.ledger, LiveRoom(shares.node.live_kb) if shares else None)
        self.link = FakeLink()
        self.problems = CollectorProblems(clock)
        self.ingest = Ingest(
            self.store,
            self.fleet,
            Hub(),
            clock,
            IngestSettings("collector-1", 20, shares or Shares()),
            self.problems,
        )

    def start(self) -> None:
        self.ingest.start(self.link)  # type: ignore[arg-type]  # see FakeLink

    def send(self, seq: int, value: float = 1.0, *, recv: int = T0) -> None:
        body = encode(Batch(ep=EP, seq=seq, t0=T0 + seq, per=1, n=1, f={"x": [value]}))
        self.ingest.receive(Received(f"tb1/{NODE}/data/arm/joints", body, recv, False, (1, seq)))

    @property
    def acked(self) -> list[int]:
        return sorted(seq for first, last in self.link.acked for seq in range(first, last + 1))

    def stored(self) -> list[int]:
        return stored(self.store.folder)


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    made = Site(folder)
    yield made
    made.ingest.stop()
    made.store.close()


def test_a_message_that_breaks_the_code_itself_stands_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = group_builder.decode_plain

    def breaking(text: bytes, kind: Any) -> Any:
        if b"666.0" in text:
            raise ZeroDivisionError("an unexpected bug")
        return decode(text, kind)

    monkeypatch.setattr(group_builder, "decode_plain", breaking)
    for seq in range(1, 101):
        site.send(seq, 666.0 if seq in (17, 60) else 1.0)
    site.start()
    wait_until(lambda: len(site.link.tokens) == 100)
    assert site.stored() == [seq for seq in range(1, 101) if seq not in (17, 60)]
    assert site.ingest.counters.quarantined == 2
    assert site.acked == [seq for seq in range(1, 101) if seq not in (17, 60)]
    for seq in (17, 60):
        site.send(seq, 666.0, recv=T0 + AGAIN_MS)
    wait_until(lambda: len(site.link.tokens) == 102)
    (entry,) = site.ledger.entries()
    assert (entry.stored, entry.gap_count, entry.missing_count) == (98, 2, 0)
    assert "an unexpected bug" in entry.gaps[0][2]
    assert site.acked == list(range(1, 101))


def test_nothing_is_acknowledged_before_it_is_committed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    commit, allowed = site.store.commit, threading.Event()
    tries: list[int] = []

    def hesitating(group: Any) -> None:
        tries.append(len(group.rows))
        if not allowed.is_set():
            raise StoreBusy("the disk is full")
        commit(group)

    monkeypatch.setattr(site.store, "commit", hesitating)
    site.start()
    for seq in (1, 2, 3):
        site.send(seq)
    wait_until(lambda: len(tries) > 5)
    assert (site.link.tokens, site.link.acked, site.ingest.problem) == ([], [], "the disk is full")
    assert [(one.code, one.args) for one in site.problems.current()] == [
        ("store-blocked", {"detail": "the disk is full"})
    ]
    assert site.ledger.entries() == [], "the ledger does not count what is not on disk"
    allowed.set()
    wait_until(lambda: len(site.link.tokens) == 3)
    assert site.ingest.problem == ""
    assert site.problems.current() == []
    assert site.stored() == [1, 2, 3]


def test_stopping_on_a_full_disk_ends_and_acknowledges_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_group: Any) -> None:
        raise StoreBusy("the disk is full")

    monkeypatch.setattr(site.store, "commit", full)
    site.start()
    site.send(1)
    wait_until(lambda: site.ingest.problem)
    site.ingest.stop()
    assert site.link.tokens == []
    assert not site.ingest.is_alive


def test_stopping_commits_what_is_here(site: Site) -> None:
    for seq in range(1, 1101):
        site.send(seq)
    site.start()
    site.ingest.stop()
    assert len(site.stored()) == len(site.link.tokens) == 1100


def test_heartbeats_are_stored_without_rows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATES_EVERY_S", 0.01)
    site.start()
    beat = {"ts": T0, "ep": EP, "head": 5, "depth": 5}
    site.ingest.receive(Received(f"tb1/{NODE}/live/_/agent", encode(beat), T0, False, None))
    wait_until(lambda: any(key.startswith("beat/") for key in site.store.load().states))
    (mark,) = site.store.load().marks
    assert mark.claim is not None
    assert (mark.claim.head, list(mark.stored)) == (5, [])


def test_a_full_queue_stops_receiving(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "QUEUE_MESSAGES", 10)
    for seq in range(1, 11):
        assert not site.ingest.is_full()
        site.send(seq)
    assert site.ingest.is_full()
    monkeypatch.setattr(inbox, "QUEUE_MESSAGES", 10_000)
    monkeypatch.setattr(inbox, "QUEUE_BYTES", 500)
    assert site.ingest.is_full()
    site.start()
    wait_until(lambda: not site.ingest.is_full())


def test_messages_that_wait_for_long_are_a_problem_until_they_are_stored(folder: Path, clock: Any) -> None:
    site = Site(folder, clock)
    try:
        for seq in range(1, 6):
            site.send(seq)
        for _ in range(5):
            site.ingest.watch_backlog()
            assert site.problems.current() == []
            clock.ms += 1000
        site.ingest.watch_backlog()
        (one,) = site.problems.current()
        assert (one.code, one.args["oldest_s"]) == ("overloaded", 5)
        assert site.ingest.overload.state == "slow"
        assert site.ingest.explains_silence
        site.start()
        wait_until(lambda: len(site.acked) == 5)
        wait_until(lambda: site.ingest._backlog.handled == 5)
        for _ in range(7):
            clock.ms += 1000
            site.ingest.watch_backlog()
        assert site.problems.current() == []
        assert site.ingest.overload.state == "none"
    finally:
        site.ingest.stop()
        site.store.close()


def test_an_overloaded_collector_refuses_a_busy_node_and_no_state_of_it(folder: Path, clock: Any) -> None:
    site = Site(folder, clock)
    body = encode(Batch(ep=EP, seq=1, t0=T0, per=1, n=1, f={"x": [1]}))
    site.ingest._link = site.link  # type: ignore[assignment]  # the writer does not run
    busy, quiet = f"tb1/{NODE}/data/arm/joints", "tb1/acme/trial/hall/quiet/event/arm/x"
    try:
        for seq in range(1, 101):
            site.send(seq)
        for _ in range(12):
            site.ingest.watch_backlog()
            clock.ms += 1000
        assert site.ingest.overload.state == "refusing"
        passed = [site.ingest.admits(busy.encode(), body, 1.0) for _ in range(200)]
        assert passed[0], "a part is one message at least"
        assert not any(passed[1:])
        assert site.ingest.admits(quiet.encode(), b"{}", 1.0)
        for tail in ("status", "birth", "live/arm/joints", "res/_/restart", "log/info"):
            assert site.ingest.admits(f"tb1/{NODE}/{tail}".encode(), b"{}", 1.0), "no node sends it again"
        (refused,) = site.link.refused
        assert refused.code == "share-overload"
        assert 12_000 < refused.until - clock.now_ms() <= 20_000
        site.ingest.watch_backlog()
        site.ingest.name_refused()
        assert [one.code for one in site.problems.current()] == ["overloaded"], "not one for each node"
        assert site.ingest.overload.nodes == 1
        assert site.ingest.refused_shares()["collector"] == {"overload": 199}
        for name in ("invented-1", "invented-2", "invented-3"):
            topic = f"tb1/acme/trial/hall/{name}/data/d/s"
            assert not site.ingest.admits(topic.encode(), body, 1.0), "new names share the part of `quiet`"
    finally:
        site.ingest.stop()
        site.store.close()


def test_beyond_its_share_a_node_is_refused_and_others_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inbox, "SENDER_MESSAGES", 10)
    commit, allowed = site.store.commit, threading.Event()

    def waiting(group: Any) -> None:
        allowed.wait(20)
        commit(group)

    monkeypatch.setattr(site.store, "commit", waiting)
    site.start()
    site.send(99)
    wait_until(lambda: site.ingest.backlog == 0)  # the writer has it, and waits
    for seq in range(1, 101):
        site.send(seq)
    other = encode(Batch(ep=EP, seq=7, t0=T0, per=1, n=1, f={"x": [1.0]}))
    site.ingest.receive(Received("tb1/acme/trial/hall/calm/data/arm/x", other, T0, False, (1, 200)))
    for number in range(50):
        site.ingest.receive(Received(f"nonsense/{number}", b"", T0, False, (1, 300 + number)))
    assert site.ingest.counters.refused == 90 + 40
    site.ingest.name_refused()
    assert {(one.code, one.part) for one in site.problems.current()} == {
        ("messages-refused", f"tb1/{NODE}"), ("messages-refused", UNSET),
    }  # fmt: skip
    assert len(site.link.tokens) == 130, "settled at the broker but not acknowledged"
    assert site.link.acked == []
    allowed.set()
    wait_until(lambda: len(site.link.tokens) == 152)
    assert site.stored() == [*range(1, 8), 7, 8, 9, 10, 99]
    assert {entry.node: entry.stored for entry in site.ledger.entries()} == {
        NODE: 11, "acme/trial/hall/calm": 1,
    }  # fmt: skip
    site.send(11)
    wait_until(lambda: 11 in site.acked)
    site.ingest.stop()
    assert sum("faster than can be stored" in line for line in caplog.messages) == 2
    assert sum("was quarantined" in line for line in caplog.messages) == 1, "unknown clients are one sender"


def test_a_quarantined_message_is_logged_once_per_node_and_reason(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def receive(node: str, body: bytes, count: int) -> None:
        for _ in range(count):
            site.ingest.receive(Received(f"tb1/acme/trial/hall/{node}/data/arm/x", body, T0, False, (1, 1)))

    receive("n1", b"{", 40)
    receive("n1", b'{"t0":"x"}', 40)
    for column in (b"1,2", b"1,2,3", b"1,2,3,4"):
        receive("n1", b'{"ep":"00112233","seq":5,"t0":1,"dt":[0],"f":{"x":[%s]}}' % column, 10)
    receive("n2", b"{", 40)
    site.start()
    wait_until(lambda: site.ingest.counters.quarantined == 150)
    site.ingest.stop()
    lines = [line for line in caplog.messages if "was quarantined" in line]
    assert len(lines) == 4
    assert "tb1/acme/trial/hall/n1/data/arm/x" in lines[0]
    assert "n2" in lines[3]


def test_a_message_for_others_is_settled_too(site: Site) -> None:
    site.start()
    tails = ["cmd/arm/stop", "ack", "desired/config", "status", "what/ever", "reported/weather"]
    for mid, tail in enumerate(tails, 1):
        site.ingest.receive(Received(f"tb1/{NODE}/{tail}", b"{}", T0, False, (1, mid)))
    site.ingest.receive(Received("elsewhere/altogether", b"{}", T0, False, (1, 99)))
    wait_until(lambda: len(site.link.tokens) == len(tails) + 1)
    assert site.ingest.counters.quarantined == 4, "commands and acks are simply not for us"


def test_a_pack_is_settled_once_and_when_all_of_it_is_committed(site: Site) -> None:
    bodies = [encode(Batch(ep=EP, seq=seq, t0=T0, per=1, n=1, f={"x": [1.0]})) for seq in range(1, 8)]
    parts = b",".join(b'["data/arm/joints",%b]' % body for body in bodies)
    for mid, body in ((1, b'{"v":1,"m":[' + parts + b"]}"), (2, b'{"v":1,"m":[')):
        site.ingest.receive(Received(f"tb1/{NODE}/pack", body, T0, False, (1, mid)))
    assert site.ingest.backlog == 8
    site.start()
    wait_until(lambda: len(site.link.tokens) == 2)
    assert site.link.tokens == [(1, 1), (1, 2)]
    assert (site.stored(), site.acked) == (list(range(1, 8)), list(range(1, 8)))
    assert site.ingest.counters.quarantined == 1


@pytest.mark.parametrize("step", ["accept", "saw", "note", "copy", "posted"])
def test_a_failure_after_the_commit_costs_no_acknowledgement(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def breaking(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("an unexpected bug")

    place = {
        "accept": (site.ledger, "accept"),
        "saw": (site.fleet, "on_data"),
        "note": (site.store._checkpoint, "note"),
        "copy": (site.store._checkpoint, "copy"),
        "posted": (site.ingest, "_post_frames"),
    }[step]
    monkeypatch.setattr(*place, breaking)
    for seq in range(1, 11):
        site.send(seq)
    site.start()
    wait_until(lambda: len(site.link.tokens) == 10)
    site.ingest.stop()
    assert site.acked == site.stored() == list(range(1, 11)), "acknowledged and stored, each once"
    assert site.ingest.counters.quarantined == 0
    monkeypatch.undo()


def test_what_finds_no_room_in_the_day_file_is_refused_not_declared_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts of the shares start again at a restart, the names of the file do not."""
    monkeypatch.setattr(day_file, "MAX_FIELDS", 1)
    for recv in (T0, T0 + AGAIN_MS):
        for seq in (1, 2, 3):
            name = "y" if seq == 2 else "x"
            body = encode(Batch(ep=EP, seq=seq, t0=T0 + seq, per=1, n=1, f={name: [1.0]}))
            site.ingest.receive(Received(f"tb1/{NODE}/data/arm/joints", body, recv, False, (1, seq)))
    site.start()
    wait_until(lambda: len(site.link.tokens) == 6)
    counters = site.ingest.counters
    assert (counters.stored, counters.quarantined, counters.refused) == (2, 0, 2)
    assert sorted(set(site.acked)) == [1, 3]


def test_a_refused_node_gets_an_answer_and_a_problem(folder: Path) -> None:
    site = Site(folder, shares=Shares(node=NodeShares(streams=1, live_kb=1), tenant=TenantShares(nodes=2)))
    try:
        site.start()
        site.send(1)
        wait_until(lambda: site.acked == [1])
        body = encode(Batch(ep=EP, seq=2, t0=T0, per=1, n=1, f={"x": [1.0]}))
        site.ingest.receive(Received(f"tb1/{NODE}/data/arm/other", body, T0, False, (1, 2)))
        wait_until(lambda: len(site.link.tokens) == 2)
        wait_until(lambda: len(site.link.refused) == 1)
        assert site.link.refused[0].code == "share-streams"
        (view,) = site.fleet.views()
        assert [one.code for one in view.problems if one.code == "refused"] == ["refused"]
        for number in range(9):
            big = b'{"ts":1,"x":"%d"}' % 10**200
            site.ingest.receive(Received(f"tb1/{NODE}/live/arm/s{number}", big, T0, False, None))
        for node in "abcd":
            topic = f"tb1/acme/trial/hall/{node}/data/arm/joints"
            site.ingest.receive(Received(topic, body, T0, False, (1, 3)))
        wait_until(lambda: len(site.link.tokens) == 6)
        counts = site.ingest.refused_shares()
        assert counts["node"] == {"streams": 1, "live_kb": 7}
        assert counts["tenant"] == {"nodes": 3}
        assert site.ingest.counters.refused == 11
        assert len(site.fleet.live(NODE)["arm"]) == 2
        assert site.fleet.names() == {NODE, "acme/trial/hall/a"}
    finally:
        site.ingest.stop()
        site.store.close()


def test_every_refused_sender_is_named_whatever_its_bodies_look_like(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A body without the outbox it came from gets no answer; its sender is named all the same."""
    site = Site(folder, shares=Shares(node=NodeShares(messages_per_s=1)))
    steady, burst = "tb1/acme/trial/hall/steady", "tb1/acme/trial/hall/burst"
    try:
        for node in (steady, burst):
            site.fleet.saw(node.partition("/")[2], T0)
            assert site.ingest.admits(f"{node}/live/arm/x".encode(), b"{}", 0.0)
        for number in range(300):
            topic = f"tb1/acme/trial/hall/invented{number}/live/arm/x".encode()
            assert site.ingest.admits(topic, b"{}", 0.0)
            assert not site.ingest.admits(topic, b"{}", 0.0)
        for number in range(3_000):
            assert not site.ingest.admits(f"{steady}/live/arm/x".encode(), b'{"ts": %d}' % number, 0.0)
        for _ in range(5):
            assert not site.ingest.admits(f"{burst}/data/arm/x".encode(), b'{"ep": "%s"}' % EP.encode(), 0.0)
        site.ingest.name_refused()
        named = [one.part for one in site.problems.current()]
        assert named[:2] == [steady, burst], "the worst first"
        assert len(named) == module.NAMED
        args = site.problems.current()[0].args
        share = "shares.node.messages_per_s"
        assert (args["sender"], args["cause"], args["share"]) == (steady, "share-messages", share)
        for node in (steady, burst):
            (view,) = site.fleet.views(node.partition("/")[2])
            assert "refused" in {one.code for one in view.problems}
            assert any(node in line and "messages_per_s" in line for line in caplog.messages)
    finally:
        site.ingest.stop()
        site.store.close()
