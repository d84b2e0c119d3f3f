"""Statements: each number in one part of one day, signed with a key that stays, nothing for an idle node."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.custody import ed25519
from agent.custody.statements import KEY_FILE, Custody, NodeKey
from agent.outbox import Message, Outbox, OutboxSettings
from agent.outbox.row_counter import Tally
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.custody import Statement, digest, read, signed_form
from wire.errors import WireError
from wire.messages import Batch, ClockState, Event
from wire.topics import Address

NODE = Address("acme", "trial", "hall", "cobot-01")
MIDNIGHT_MS = 1_795_392_000_000  # 2026-11-23 00:00 UTC


class SetClock(Clock):
    """A clock whose time is what the test says."""

    def __init__(self, ms: int = MIDNIGHT_MS - 600_000) -> None:
        super().__init__()
        self.ms = ms

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS

    def monotonic_ns(self) -> int:
        return self.ms * NS_PER_MS


# RFC 8032, section 7.1: secret, public, message, signature
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_signatures_are_those_of_the_standard(secret: str, public: str, message: str, signature: str) -> None:
    seed = bytes.fromhex(secret)
    assert ed25519.public_key(seed).hex() == public
    assert ed25519.sign(seed, bytes.fromhex(public), bytes.fromhex(message)).hex() == signature


@settings(max_examples=15)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_another_library_signs_the_same(seed: bytes, message: bytes) -> None:
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    public = ed25519.public_key(seed)
    assert public == theirs.public_key().public_bytes_raw()
    assert ed25519.sign(seed, public, message) == theirs.sign(message)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = NodeKey.open(tmp_path)
    again = NodeKey.open(tmp_path)
    assert first is not None
    assert again is not None
    assert first.public == again.public
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / KEY_FILE]


def test_a_broken_key_is_set_aside_and_an_unwritable_folder_signs_nothing(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("half a key")
    key = NodeKey.open(tmp_path)
    assert key is not None
    assert (tmp_path / "node.damaged").read_text() == "half a key"
    assert NodeKey.open(tmp_path / "nowhere") is None


# --- parts of days


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 3), st.booleans()), max_size=60),
    st.integers(1, 10**6),
)
def test_each_number_and_each_row_is_in_one_part(taken: list[tuple[int, int, int, bool]], run: int) -> None:
    """Whatever the clock does: parts follow one another, and those that continue one replace it."""
    tally, parts, numbers, truth = Tally(run), {}, [], dict[str, int]()
    for at, (stream, rows, day, stated) in enumerate(taken):
        name = f"data/arm/s{stream}"
        number = tally.add(run + at, name, rows, day * 86_400 * NS_PER_S)
        assert number == (run, truth.get(name, 0) + 1)
        truth[name] = truth.get(name, 0) + rows
        numbers.append((run + at, day))
        if stated:
            parts.update({part.first: part for part in tally.parts()})
    parts.update({part.first: part for part in tally.parts()})
    assert tally.parts() == []
    covered = [(seq, part.day) for part in parts.values() for seq in range(part.first, part.upto + 1)]
    assert sorted(covered) == [(seq, f"1970-01-{day + 1:02}") for seq, day in numbers]
    rows = dict[str, int]()
    for _, part in sorted(parts.items()):
        for name, (_messages, first, last) in part.streams.items():
            assert first == rows.get(name, 0) + 1
            rows[name] = last
    assert rows == truth
    assert sum(messages for part in parts.values() for messages, *_ in part.streams.values()) == len(taken)


def test_statements_alone_are_no_news() -> None:
    tally = Tally(1)
    tally.add(1, "event/_/custody", 1, 0)
    assert not tally.news
    tally.add(2, "data/arm/joints", 10, 0)
    assert tally.news
    (part,) = tally.parts()
    assert (part.first, part.upto) == (1, 2)
    tally.add(3, "event/_/custody", 1, 0)
    assert not tally.news
    tally.add(4, "event/_/custody", 1, 86_400 * NS_PER_S)
    (ended,) = tally.parts()  # that of the day before has grown by its own statement
    assert (ended.first, ended.upto, ended.day) == (1, 3, "1970-01-01")
    tally.add(5, "event/_/custody", 1, 86_400 * NS_PER_S)
    assert not tally.news
    assert tally.parts() == []


# --- statements


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
        outbox, NODE, "5be1f00d5be1f00d", key, clock, clock_state=lambda: ClockState.NTP, sent=lambda: 7
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
    custody.look()
    assert outbox.head == 0, "nothing was taken: nothing is written"
    for _ in range(150):  # seconds
        rows(outbox, 1, clock)
        custody.look()
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
    assert outbox.head == head, "its own statements are no reason for another"


def test_a_new_day_is_noted_at_its_first_message(outbox: Outbox, custody: Custody, clock: SetClock) -> None:
    clock.ms = MIDNIGHT_MS - 1500
    rows(outbox, 10, clock)
    custody.look()
    rows(outbox, 10, clock)
    clock.ms = MIDNIGHT_MS
    rows(outbox, 10, clock)
    custody.look()
    custody.close()
    said = [statement for _, statement in stated(outbox)]
    assert [(one.day, one.first, one.upto) for one in said[1:3]] == [
        ("2026-11-22", 1, 3),
        ("2026-11-23", 4, 4),
    ]
    assert said[1].streams["data/arm/joints"] == (2, 1, 20)
    assert said[2].streams == {"data/arm/joints": (1, 21, 30)}


def test_a_graceful_stop_states_the_rest_and_the_next_run_goes_on(
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
            with_more, NODE, "00ff00ff", key, clock, clock_state=lambda: ClockState.UNSYNCED, sent=lambda: 0
        )
        again.look()
        event, said = stated(with_more)[-1]
        assert (said.n, said.prev, said.run, said.first, said.upto) == (1, "", 5, 5, 5)
        assert said.streams == {"data/arm/joints": (1, 1, 4)}, "rows are counted anew in each run"
        assert event.clk == 0
    finally:
        with_more.close()


def test_what_was_dropped_is_told_by_class_and_reason(
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
    mute = Custody(outbox, NODE, "ff", None, clock, clock_state=lambda: ClockState.NTP, sent=lambda: 0)
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
def test_what_is_no_statement_is_refused(change: dict[str, Any]) -> None:
    sound = {
        "n": 1, "prev": "", "key": "00" * 32, "boot": "00ff00ff", "run": 1, "day": "2026-11-22", "first": 1,
        "upto": 9, "streams": {"data/arm/joints": [3, 1, 30]}, "sig": "00" * 64,
    }  # fmt: skip
    assert read(sound).upto == 9
    with pytest.raises(WireError, match="not a custody statement"):
        read({**sound, **change})


def test_files_of_the_key_are_not_left_readable_by_a_cut_off_write(tmp_path: Path) -> None:
    (tmp_path / "node.new").write_text("rest of an earlier try")
    (tmp_path / "node.new").chmod(0o644)
    assert NodeKey.open(tmp_path) is not None
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
