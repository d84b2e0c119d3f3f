"""Statements: each number in one part of one day, signed with a key that stays, nothing for an idle node."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.clock_sync import TimeSync
from agent.custody.node_key import NodeKey
from agent.custody.statements import Custody
from agent.outbox import Message, Outbox, OutboxSettings
from wire.clock import NS_PER_MS, Clock
from wire.custody import Statement, digest, read, signed_form
from wire.errors import WireError
from wire.messages import Batch, ClockState, Event
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "cobot-01")
MIDNIGHT_MS = 1_795_392_000_000  # 2026-11-23 00:00 UTC


class SetClock(Clock):
    """A clock whose time is set by the test."""

    def __init__(self, ms: int = MIDNIGHT_MS - 600_000) -> None:
        super().__init__()
        self.ms = ms

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS

    def monotonic_ns(self) -> int:
        return self.ms * NS_PER_MS


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def outbox(tmp_path: Path, clock: SetClock) -> Iterator[Outbox]:
    opened = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=2), clock)
    yield opened
    opened.close()


@pytest.fixture
def key(tmp_path: Path) -> NodeKey:
    made = NodeKey.open(tmp_path)
    assert made is not None
    return made


@pytest.fixture
def custody(outbox: Outbox, key: NodeKey, clock: SetClock) -> Custody:
    return Custody(
        outbox, NODE, "5be1f00d5be1f00d", key, TimeSync(clock, lambda: ClockState.NTP), sent=lambda: 7
    )


def rows(outbox: Outbox, count: int, clock: Clock, stream: str = "joints") -> None:
    body = Batch(t0=clock.now_ms(), per=20, n=count, f={"j1": [1.0] * count}, clk=1)
    outbox.append(Message("data", "arm", stream, body))


def stated(outbox: Outbox) -> list[tuple[Event, Statement]]:
    outbox.commit()
    events = [
        msgspec.json.decode(each.body, type=Event) for each in outbox.take(1000, 10**7) if each.cls == "event"
    ]
    return [(event, read(event.detail)) for event in events if event.type == "custody"]


def verify(event: Event, node: str = str(NODE), **changes: Any) -> Statement:
    detail = {**event.detail, **changes}
    form = signed_form(detail, node, event.ep)
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(detail["key"])).verify(
        bytes.fromhex(detail["sig"]), form
    )
    return read(detail)


def test_a_statement_verifies_and_nothing_in_it_can_be_changed(
    outbox: Outbox, custody: Custody, clock: SetClock
) -> None:
    rows(outbox, 10, clock)
    rows(outbox, 5, clock)
    rows(outbox, 3, clock, "tcp")
    outbox.commit()
    custody.look()
    ((event, said),) = stated(outbox)
    assert verify(event).streams == {"data/arm/joints": (2, 1, 15), "data/arm/tcp": (1, 1, 3)}
    assert (said.n, said.prev, said.run, said.first, said.upto, said.day) == (1, "", 1, 1, 3, "2026-11-22")
    assert (said.stored, said.acked, said.sent, said.clk) == (3, 0, 7, 1)
    for change in (
        {"upto": 4},
        {"day": "2026-11-21"},
        {"streams": {**event.detail["streams"], "data/arm/tcp": [1, 1, 4]}},
        {"stored": 0},
        {"extra": "field"},
    ):
        with pytest.raises(InvalidSignature):
            verify(event, **change)
    with pytest.raises(InvalidSignature):
        verify(event, node="acme/trial/hall/cobot-02")
    event.ep = "ffffffffffffffff"
    with pytest.raises(InvalidSignature):
        verify(event)


def test_one_a_minute_chained_and_none_when_idle(outbox: Outbox, custody: Custody, clock: SetClock) -> None:
    assert not custody.due
    custody.look()
    assert outbox.head == 0, "nothing was taken: nothing is written"
    for _ in range(150):  # seconds
        rows(outbox, 1, clock)
        if custody.due:
            custody.look()
            assert not custody.due
        clock.ms += 1000
    events = stated(outbox)
    assert [said.n for _, said in events] == [1, 2, 3]
    for (before, _), (_, after) in pairwise(events):
        assert after.prev == digest(signed_form(before.detail, str(NODE), before.ep))
    assert [said.upto for _, said in events] == [1, 62, 123]
    clock.ms += 60_000
    custody.look()
    head = outbox.head
    for _ in range(300):
        clock.ms += 1000
        custody.look()
    assert outbox.head == head, "statements alone do not cause another"


def test_a_new_day_is_noted_at_its_first_message(outbox: Outbox, custody: Custody, clock: SetClock) -> None:
    clock.ms = MIDNIGHT_MS - 1500
    rows(outbox, 10, clock)
    custody.look()
    rows(outbox, 10, clock)
    clock.ms = MIDNIGHT_MS
    assert not custody.due
    rows(outbox, 10, clock)
    assert custody.due
    custody.look()
    custody.close()
    said = [statement for _, statement in stated(outbox)]
    assert [(one.day, one.first, one.upto) for one in said[1:3]] == [
        ("2026-11-22", 1, 3),
        ("2026-11-23", 4, 4),
    ]
    assert said[1].streams["data/arm/joints"] == (2, 1, 20)
    assert said[2].streams == {"data/arm/joints": (1, 21, 30)}


def test_a_graceful_stop_states_the_rest_and_the_next_run_continues(
    tmp_path: Path, outbox: Outbox, custody: Custody, key: NodeKey, clock: SetClock
) -> None:
    rows(outbox, 2, clock)
    custody.look()
    rows(outbox, 2, clock)
    custody.close()
    assert stated(outbox)[-1][1].upto == 3
    outbox.close()
    with_more = Outbox.open(tmp_path / "outbox", OutboxSettings(max_mb=2), clock)
    try:
        rows(with_more, 4, clock)
        again = Custody(
            with_more, NODE, "00ff00ff", key, TimeSync(clock, lambda: ClockState.UNSYNCED), sent=lambda: 0
        )
        again.look()
        event, said = stated(with_more)[-1]
        assert (said.n, said.prev, said.run, said.first, said.upto) == (1, "", 5, 5, 5)
        assert said.streams == {"data/arm/joints": (1, 1, 4)}, "each run counts its rows from 1"
        assert event.clk == 0
    finally:
        with_more.close()


def test_dropped_messages_are_stated_by_class_and_reason(
    outbox: Outbox, custody: Custody, clock: SetClock
) -> None:
    outbox.append(
        Message("event", "_", "big", Event(ts=clock.now_ms(), type="big", detail={"x": "y" * 70_000}))
    )
    rows(outbox, 7, clock)
    body = Batch(t0=clock.now_ms(), per=20, n=1, f={"a": [object()]})
    outbox.append(Message("data", "arm", "joints", body))
    outbox.commit()
    custody.look()
    *_, (_, said) = stated(outbox)
    assert said.dropped == {"event": {"too-large": (1, 1)}, "data": {"unencodable": (1, 1)}}


def test_without_a_key_nothing_is_stated(outbox: Outbox, clock: SetClock) -> None:
    mute = Custody(outbox, NODE, "ff", None, TimeSync(clock, lambda: ClockState.NTP), sent=lambda: 0)
    rows(outbox, 1, clock)
    mute.look()
    mute.close()
    assert outbox.head == 1


@pytest.mark.parametrize(
    "change",
    [
        {"upto": 0},
        {"first": 3, "upto": 2},
        {"streams": {"a": [5, 1, 3]}},
        {"streams": {f"data/a/s{n}": [1, 1, 1] for n in range(1001)}},
        {"day": "yesterday"},
        {"key": "00"},
        {"sig": "zz"},
        {"n": True},
    ],
)
def test_an_invalid_statement_is_refused(change: dict[str, Any]) -> None:
    sound = {
        "n": 1, "prev": "", "key": "00" * 32, "boot": "00ff00ff", "run": 1, "day": "2026-11-22", "first": 1,
        "upto": 9, "streams": {"data/arm/joints": [3, 1, 30]}, "sig": "00" * 64,
    }  # fmt: skip
    assert read(sound).upto == 9
    with pytest.raises(WireError, match="not a custody statement"):
        read({**sound, **change})
