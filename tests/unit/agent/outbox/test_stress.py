"""Many threads on one outbox with small segments: nothing is lost, doubled or written to a foreign file.

Each file descriptor that the outbox closes is given to a canary file at once: a write, a flush or a read
through a closed descriptor meets the canary. EDGEBED_STRESS_S=600 runs the long test for ten minutes.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pytest

from agent.outbox import Message, Outbox, OutboxSettings, Record
from wire.clock import Clock
from wire.messages import Batch, Event
from wire.ranges import Ranges

_LONG_S = float(os.environ.get("EDGEBED_STRESS_S", "60"))
_AHEAD = 8  # messages that may wait: the quota is never reached, so nothing may be lost
_MAX_MB = 2
_DATA = (10, 300, 20_000, 45_000)  # bytes; two of the largest fill a segment
_EVENTS = (10, 300, 7_000)  # _AHEAD of the largest fit in the buffer for events


class Canary:
    """A file that takes the numbers of closed descriptors; `touched` names each use of one by the outbox."""

    def __init__(self, folder: Path, watched: Path, patch: pytest.MonkeyPatch) -> None:
        self.touched: list[str] = []
        self.closed = 0
        self._path = folder / "canary"
        self._path.write_bytes(b"\xaa" * 8192)
        self._inode = self._path.stat().st_ino
        self._watched = str(watched)
        self._held: deque[int] = deque()
        self._close = os.close
        patch.setattr(os, "close", self._closing)
        for name in ("pwrite", "pread", "fdatasync"):
            patch.setattr(os, name, self._checked(name, getattr(os, name)))

    def end(self) -> None:
        """Check the canary's bytes and close its descriptors."""
        while self._held:
            self._close(self._held.popleft())
        assert self._path.read_bytes() == b"\xaa" * 8192

    def _closing(self, fd: int) -> None:
        ours = str(Path(f"/proc/self/fd/{fd}").readlink()).startswith(self._watched)
        self._close(fd)
        if ours:
            self.closed += 1
            self._held.append(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))
            if len(self._held) > 8:
                self._close(self._held.popleft())

    def _checked(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(fd: int, *args: object) -> object:
            if os.fstat(fd).st_ino == self._inode:
                self.touched.append(name)
            return real(fd, *args)

        return call


class Traffic:
    """The messages of all lives of an outbox."""

    def __init__(self) -> None:
        self.sent: dict[int, int] = {}  # seq -> the number in the message
        self.acked: set[int] = set()
        self.room = threading.Semaphore(_AHEAD)


class Life:
    """The outbox from one open to its close, used by five threads."""

    def __init__(self, outbox: Outbox, traffic: Traffic, seed: int) -> None:
        self.outbox = outbox
        self.traffic = traffic
        self.taken: list[Record] = []
        self.errors: list[BaseException] = []
        self._random = random.Random(seed)
        self._waiting: deque[Record] = deque()  # taken, not acknowledged
        self._over = threading.Event()
        self._sending = threading.Lock()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=work.__name__)
            for work in (self._append, self._append, self._commit, self._take, self._ack)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads[:2]:
            thread.join(60)
        self.outbox.close()  # while others commit, take and acknowledge
        for thread in self._threads[2:]:
            thread.join(60)
        assert not [thread.name for thread in self._threads if thread.is_alive()]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # the test judges every error of a thread
            self.errors.append(error)
            self._over.set()

    def _append(self) -> None:
        while not self._over.is_set():
            if not self.traffic.room.acquire(timeout=0.01):
                continue
            with self._sending:  # the order of numbers is the order of appends
                number = len(self.traffic.sent) + 1
                is_event = self._random.random() < 0.4
                text = f"{number}:".ljust(self._random.choice(_EVENTS if is_event else _DATA), "v")
                message = (
                    Message("event", "arm", "alarm", Event(ts=1, type="alarm", detail={"x": text}))
                    if is_event
                    else Message("data", "arm", "joints", Batch(t0=1, per=10, n=1, f={"x": [text]}))
                )
                self.traffic.sent[self.outbox.append(message)] = number

    def _commit(self) -> None:
        while not self._over.is_set():
            assert self.outbox.commit()

    def _take(self) -> None:
        while not self._over.is_set():
            if self._random.random() < 0.1:
                self.outbox.overtake(self._random.choice((0, 50_000)))
            size = self._random.choice((1, 100_000, 1_000_000))
            found = self.outbox.take(self._random.choice((1, 5, 100)), size)
            if self._random.random() < 0.5:
                found += self.outbox.take_overtaken(5, size)
            self.taken += found
            self._waiting += found
            self.outbox.stats()

    def _ack(self) -> None:
        while not self._over.is_set():
            chosen = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), self._random.randint(0, 6)))
            ]
            self._random.shuffle(chosen)
            left = chosen[: self._random.choice((0, 0, 1))]
            self._waiting += left  # acknowledged later: holes
            done = chosen[len(left) :]
            count = self.outbox.ack([(each.seq, each.seq) for each in done] + [(10**9, 10**9 + 5)])
            assert count == len(done)
            for seq in {each.seq for each in done} - self.traffic.acked:  # a life may forget its last ones
                self.traffic.acked.add(seq)
                self.traffic.room.release()


def _stress(folder: Path, patch: pytest.MonkeyPatch, *, lives: Iterator[float], seed: int) -> int:
    """Run one life after the other for these seconds each; returns how many descriptors were closed."""
    place = folder / "outbox"
    canary = Canary(folder, place, patch)
    traffic = Traffic()
    seen = Ranges()
    for turn, seconds in enumerate(lives):
        with Life(Outbox.open(place, OutboxSettings(max_mb=_MAX_MB), Clock()), traffic, seed + turn) as life:
            life._over.wait(seconds)
        assert life.errors == []
        _judge(life)
        seen.update([(each.seq, each.seq) for each in life.taken])
    outbox = Outbox.open(place, OutboxSettings(max_mb=_MAX_MB), Clock())
    rest = outbox.take(10**6, 10**9)
    assert outbox.stats().dropped == {"data": 0, "event": 0}
    outbox.close()
    seen.update([(each.seq, each.seq) for each in rest])
    assert list(seen) == [(1, len(traffic.sent))]
    canary.end()
    assert canary.touched == []
    return canary.closed


def _judge(life: Life) -> None:
    """No record was given out twice or out of order, and each holds what was appended."""
    taken = [each.seq for each in life.taken]
    assert len(taken) == len(set(taken))
    for record in life.taken:
        body = msgspec.json.decode(record.body)
        assert record.tail in ("arm/joints", "arm/alarm"), record.body  # a gap
        text = body["f"]["x"][0] if record.cls == "data" else body["detail"]["x"]
        assert (body["seq"], int(text.split(":")[0])) == (record.seq, life.traffic.sent[record.seq])


def _lives(total_s: float, each_s: float) -> Iterator[float]:
    until = time.monotonic() + total_s
    while time.monotonic() < until:
        yield each_s


def test_threads_share_an_outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _stress(tmp_path, monkeypatch, lives=iter((1.0, 0.5, 0.2)), seed=1) > 0


@pytest.mark.slow
@pytest.mark.timeout(_LONG_S + 120)
def test_threads_share_an_outbox_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = _stress(tmp_path, monkeypatch, lives=_lives(_LONG_S, 0.5), seed=random.randrange(10**6))
    assert closed > _LONG_S
