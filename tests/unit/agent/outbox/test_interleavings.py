"""Another thread changes the outbox at each access to the disk: nothing is lost, doubled or out of order.

The lock is free whenever the disk works. So each access is where another thread may come in, and these tests
let one come in there every time, until it is done: a thread that had to wait for the disk would never end.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record
from wire.clock import Clock
from wire.messages import Batch, Event
from wire.ranges import Ranges

ALL = 1 << 30
CALLS = ("open", "pread", "pwrite", "fdatasync")


class Traffic:
    """The outbox under test, what it gave out, and what must have become of each number."""

    def __init__(self, folder: Path, seed: int, ack_from: Sequence[str] = ()) -> None:
        settings = OutboxSettings(max_mb=1, ack_from=list(ack_from))
        self.outbox = Outbox.open(folder, settings, Clock())
        self.random = random.Random(seed)
        self.taken: dict[int, Record] = {}
        self.declared = Ranges()
        self.waiting: list[int] = []  # taken, not acknowledged

    def append(self) -> None:
        size = self.random.choice((20, 2_000, 9_000))
        if self.random.random() < 0.4:
            message = Message("event", "a", "e", Event(ts=1, type="e", detail={"x": "v" * size}))
        else:
            message = Message("data", "a", "s", Batch(t0=1, per=1, n=1, f={"x": ["v" * size]}))
        self.outbox.append(message)

    def take(self) -> None:
        self.note(self.outbox.take(5, ALL))

    def take_overtaken(self) -> None:
        self.outbox.overtake(0)
        records = self.outbox.take_overtaken(5, ALL)
        assert [each.seq for each in records] == sorted(each.seq for each in records)
        self.note(records)

    def take_and_ack(self) -> None:
        self.note(self.outbox.take(30, ALL) + self.outbox.take_overtaken(30, ALL))
        self.ack()

    def ack(self) -> None:
        self.random.shuffle(self.waiting)
        chosen, self.waiting = self.waiting[2:], self.waiting[:2]
        self.outbox.ack((seq, seq) for seq in chosen)

    def look(self) -> None:
        stats = self.outbox.stats()
        assert 0 <= stats.head <= self.outbox.head
        assert 0 <= stats.acked <= self.outbox.head
        assert stats.depth >= 0
        self.outbox.drops()
        self.outbox.parts()

    def append_and_commit(self) -> None:
        for _ in range(12):
            self.append()
        assert self.outbox.commit()

    def note(self, records: list[Record]) -> None:
        for record in records:
            assert record.seq not in self.taken, "given out twice"
            assert msgspec.json.decode(record.body)["seq"] == record.seq
            self.taken[record.seq] = record
            self.waiting.append(record.seq)
            if record.tail == "_/gap":
                self.declared.update(msgspec.json.decode(record.body, type=Event).lost)

    def judge(self) -> None:
        for _ in range(2):  # damage that a read finds is declared by the next commit
            assert self.outbox.commit()
            while records := self.outbox.take(100, ALL) + self.outbox.take_overtaken(100, ALL):
                self.note(records)
        known = Ranges(self.declared)
        known.update((seq, seq) for seq in self.taken)
        assert list(known) == [(1, self.outbox.head)]
        assert "torn" not in self.outbox.drops().get("unknown", {})
        self.outbox.ack([(1, self.outbox.head)])
        assert self.outbox.stats().depth == 0


class Intruder:
    """Runs an operation in a thread of its own at accesses to the disk by the thread under test."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.operation: Callable[[], None] | None = None
        self.times = 0
        self.left = 0  # how often it comes in until it is asked again: each append makes a commit longer
        self._thread = threading.get_ident()
        self._errors: list[BaseException] = []
        for name in CALLS:
            patch.setattr(os, name, self._patched(getattr(os, name)))

    def _patched(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            if self.operation and self.left and threading.get_ident() == self._thread:
                self._intrude(self.operation)
            return real(*args, **more)

        return call

    def _intrude(self, operation: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                operation()
            except BaseException as error:  # noqa: BLE001  # raised below, in the thread of the test
                self._errors.append(error)

        self.operation = None  # one at a time
        self.left -= 1
        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), "it waits for a thread that waits for the disk"
        if self._errors:
            raise self._errors[0]
        self.times += 1
        self.operation = operation


@pytest.fixture
def traffic(tmp_path: Path) -> Iterator[Traffic]:
    traffic = Traffic(tmp_path / "outbox", seed=3)
    yield traffic
    traffic.outbox.close()


@pytest.mark.parametrize("what", ["append", "take", "take_overtaken", "take_and_ack", "ack", "look"])
@pytest.mark.parametrize("full", [False, True], ids=["acknowledged", "full"])
def test_while_a_commit_uses_the_disk(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch, what: str, full: bool
) -> None:
    """The committing thread writes, flushes, begins, seals, marks, recycles, and drops where it is full."""
    intruder = Intruder(monkeypatch)
    for turn in range(60):
        for _ in range(12):
            traffic.append()
        intruder.operation, intruder.left = getattr(traffic, what), 40
        assert traffic.outbox.commit()
        intruder.operation = None
        if not full:
            traffic.take_and_ack()
        elif turn % 7 == 0:
            traffic.take()
    assert intruder.times > 200
    if full and what not in ("take_and_ack", "ack"):
        assert traffic.outbox.stats().dropped["data"] > 0
    traffic.judge()


@pytest.mark.parametrize("what", ["append_and_commit", "ack", "look"])
@pytest.mark.parametrize("full", [False, True], ids=["acknowledged", "full"])
def test_while_a_take_uses_the_disk(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch, what: str, full: bool
) -> None:
    """The taking thread reads; the segment under it may be dropped, and its file may hold other records."""
    intruder = Intruder(monkeypatch)
    for turn in range(60):
        traffic.append_and_commit()
        intruder.operation, intruder.left = getattr(traffic, what), 40
        traffic.take() if turn % 2 else traffic.take_overtaken()
        intruder.operation = None
        if not full:
            traffic.take_and_ack()
    assert intruder.times > 60
    if full:
        assert traffic.outbox.stats().dropped["data"] > 0
    traffic.judge()


class CopiedTraffic(Traffic):
    """Two collectors must have each message, and one of them is often away."""

    names = ("collector-1", "collector-2")

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed, ack_from=self.names)

    def ack(self) -> None:
        """The first collector has everything that was given out, the second a part of it."""
        every = Ranges((seq, seq) for seq in sorted(self.waiting))
        some = Ranges((seq, seq) for seq in sorted(self.waiting) if self.random.random() < 0.5)
        self.outbox.ack_by(self.names[0], every)
        self.outbox.ack_by(self.names[1], some)
        self.waiting = [seq for seq in self.waiting if seq not in some]

    def ack_and_set_aside(self) -> None:
        self.ack()
        self.outbox.set_aside(self.waiting)

    def rewind(self) -> None:
        """From here on what is not acknowledged by both may be given out again."""
        self.outbox.rewind()
        for seq in self.waiting:
            del self.taken[seq]
        self.waiting = []

    def judge(self) -> None:
        self.rewind()
        super().judge()


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[CopiedTraffic]:
    traffic = CopiedTraffic(tmp_path / "outbox", seed=4)
    yield traffic
    traffic.outbox.close()


@pytest.mark.parametrize("what", ["ack", "ack_and_set_aside", "rewind"])
@pytest.mark.parametrize("full", [False, True], ids=["acknowledged", "full"])
def test_while_a_commit_uses_the_disk_for_two_copies(
    copied: CopiedTraffic, monkeypatch: pytest.MonkeyPatch, what: str, full: bool
) -> None:
    intruder = Intruder(monkeypatch)
    for turn in range(60):
        for _ in range(12):
            copied.append()
        intruder.operation, intruder.left = getattr(copied, what), 40
        assert copied.outbox.commit()
        intruder.operation = None
        if not full or turn % 7 == 0:
            copied.take()
            copied.ack_and_set_aside()
        if turn % 5 == 0:
            copied.rewind()
    assert intruder.times > 200
    assert copied.outbox.stats().dropped["data"] > 0
    copied.judge()


@pytest.mark.parametrize("what", ["append_and_commit", "ack", "ack_and_set_aside", "look"])
def test_while_a_take_uses_the_disk_for_two_copies(
    copied: CopiedTraffic, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    intruder = Intruder(monkeypatch)
    for turn in range(60):
        copied.append_and_commit()
        intruder.operation, intruder.left = getattr(copied, what), 40
        copied.take() if turn % 2 else copied.take_overtaken()
        intruder.operation = None
        copied.ack_and_set_aside()
        if turn % 5 == 0:
            copied.rewind()
    assert intruder.times > 60
    copied.judge()
