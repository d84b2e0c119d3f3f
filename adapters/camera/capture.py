"""Captures pictures in a thread; a thread that hangs in a driver or library is abandoned."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from adapters.base import AdapterError, DeviceUnreachable, Picture
from adapters.camera.frozen import FrozenCheck
from wire.clock import NS_PER_S, Clock

_AHEAD = 4  # pictures read in advance: one wake-up of the event loop for each would cost more
_NOTE_S = 1.0  # how often data that gives no picture is reported
_SIGN_S = 0.1  # how often a source that waits for its schedule reports that it is alive


class PictureSource(Protocol):
    """A device or file; one thread uses it."""

    rate_hz: float  # rate of the pictures where they follow a schedule; 0 = the device decides
    damaged: bool  # whether a part of the picture that was grabbed is wrong
    changes: int  # number of pictures that were sent with other bytes than the picture before
    unread: str  # what came since the newest picture, and why it gives none

    def grab(self) -> bool | None:
        """Fetch the next picture; None where data came that gave none, False at the end."""

    def picture(self) -> Picture:
        """The picture that was grabbed: (height, width, 3), BGR.

        Raises:
            AdapterError: it cannot be decoded, or is not as declared.
        """

    def ended(self, pictures: int) -> AdapterError | None:
        """The reason why `grab` returned False after this number of pictures; None at the regular end."""

    def close(self) -> None:
        """Release the device."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, its number since the start and its time in Unix nanoseconds.

    `dropped` and `skipped` count the earlier pictures that were not read. The thread may drop the next one
    while this one is delivered, so the counters of the capture do not match this picture.
    """

    picture: Picture
    index: int
    at_ns: int
    dropped: int
    skipped: int
    damaged: bool
    frozen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a capture hands pictures on.

    With `wait_for_reader` every picture is delivered and the source waits; without it a newer picture
    replaces one that the reader has not taken. With `frozen_s` pictures are compared.
    """

    wait_for_reader: bool = False
    realtime: bool = False
    loop_over: bool = False
    limit_hz: float = 0.0
    frozen_s: float = 0.0


class Capture:
    """Runs a source in a daemon thread and hands its pictures to the event loop.

    `dropped` counts pictures that a newer one replaced, and the one that waited when the capture was closed.
    `not_read` is called with what came in the last second where it gave no picture. `moved` is the clock's
    `flowing_s` at the source's last sign of life.
    """

    def __init__(
        self,
        open_source: Callable[[], PictureSource],
        clock: Clock,
        delivery: Delivery,
        *,
        name: str,
        not_read: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.dropped = 0
        self.skipped = 0  # left out to keep to `limit_hz`
        self.moved = clock.flowing_s()
        self._open_source, self._clock = open_source, clock
        self._delivery = delivery
        self._frozen = FrozenCheck(delivery.frozen_s, self.moved) if delivery.frozen_s else None
        self._not_read, self._noted_s = not_read, self.moved
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._waiting_since = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._done = asyncio.Event()
        self._stop = threading.Event()
        self._room = threading.Condition()
        self._shots: deque[Shot] = deque()
        self._end: AdapterError | None = DeviceUnreachable(f"{name} failed; see the log")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Open the source in the thread; the future `opened` holds the outcome."""
        self._thread.start()

    def take(self) -> Shot | None:
        """The next picture, None where there is none yet.

        Raises:
            AdapterError: the source failed.
            EOFError: the source has ended.
        """
        with self._room:
            if self._shots:
                shot = self._shots.popleft()
                if len(self._shots) <= 1:
                    self._room.notify()
                return shot
        if self._done.is_set():
            raise self._end or EOFError
        return None

    async def wait(self, quiet_s: float) -> bool:
        """Wait for a picture; False where the source gave no sign of life for `quiet_s`."""
        self._waiter, self._waiting_since = self._loop.create_future(), self._clock.flowing_s()
        try:
            if (
                self._shots or self._done.is_set()
            ):  # checked after the waiter is set, so that no wake-up is missed
                return True
            if self._watch is None:
                self._check_alive(quiet_s)
            return await self._waiter
        finally:
            self._waiter = None

    def _check_alive(self, quiet_s: float) -> None:
        # one timer that checks from time to time: a timer a picture costs as much as the picture
        now = self._clock.flowing_s()
        left = max(self.moved, self._waiting_since) + quiet_s - now
        if left <= 0 and self._waiter is not None:
            self._wake(False)
        self._watch = self._loop.call_later(max(left, 0.1 * quiet_s), self._check_alive, quiet_s)

    def _wake(self, alive: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(alive)

    async def close(self, patience_s: float) -> bool:
        """End the thread; False where it hangs and is abandoned: it ends when the call that hangs returns."""
        self._stop.set()
        if self._watch is not None:
            self._watch.cancel()
        with self._room:
            self._room.notify_all()
        if self._thread.ident is None:
            return True
        try:
            async with asyncio.timeout(patience_s):
                await self._done.wait()
            self._thread.join(1.0)  # it has nothing more to do and returns
        except TimeoutError:
            return False
        finally:
            if not self._delivery.wait_for_reader:  # a source that waits for its reader can be read again
                self.dropped += len(self._shots)
            self._shots.clear()
        return True

    # --- in the thread

    def _run(self) -> None:
        try:
            self._read(self._open_source())
        except AdapterError as error:
            self._end = error
        finally:
            self._call(self._finish)

    def _read(self, source: PictureSource) -> None:
        try:
            self._call(self._ready)
            schedule = _PictureSchedule(
                self._clock,
                source.rate_hz,
                realtime=self._delivery.realtime,
                limit_hz=self._delivery.limit_hz,
            )
            index = first = 0
            while not self._stop.is_set():
                found = source.grab()
                if found is None:
                    self._note_unread(source.unread)
                    continue
                if not found:
                    self._end = source.ended(index - first)
                    if self._end is not None or not self._delivery.loop_over or index == first:
                        return
                    source.close()
                    source, first = self._open_source(), index
                    continue
                self.moved = self._clock.flowing_s()
                at_ns = schedule.stamp(index)
                if schedule.admits(at_ns):
                    shot = self._shot(source, index, at_ns)
                    if not self._wait_until(schedule.due_ns(at_ns)) or not self._hand_over(shot):
                        return
                else:
                    self.skipped += 1
                index += 1
        finally:
            source.close()

    def _wait_until(self, due_ns: int) -> bool:
        """Wait; False where the capture is being closed."""
        while (left_s := (due_ns - self._clock.now_ns()) / NS_PER_S) > 0:
            self.moved = self._clock.flowing_s()
            if self._clock.wait(self._stop, min(left_s, _SIGN_S * self._clock.rate)):
                return False
        return True

    def _note_unread(self, what: str) -> None:
        self.moved = self._clock.flowing_s()
        if self.moved - self._noted_s >= _NOTE_S:
            self._noted_s = self.moved
            self._call(partial(self._not_read, what))

    def _shot(self, source: PictureSource, index: int, at_ns: int) -> Shot:
        damaged, picture = source.damaged, source.picture()
        frozen = self._frozen is not None and self._frozen.see(picture, source.changes, self.moved)
        return Shot(picture, index, at_ns, 0, 0, damaged, frozen)

    def _hand_over(self, shot: Shot) -> bool:
        with self._room:
            if self._delivery.wait_for_reader:
                if len(self._shots) >= _AHEAD:
                    self._room.wait_for(lambda: len(self._shots) <= 1 or self._stop.is_set())
            elif self._shots:
                self._shots.clear()
                self.dropped += 1
            self._shots.append(replace(shot, dropped=self.dropped, skipped=self.skipped))
        if self._waiter is not None:
            self._call(self._wake)
        return not self._stop.is_set()

    def _call(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            self._stop.set()  # the loop ended while this thread was abandoned

    # --- in the event loop

    def _ready(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _finish(self) -> None:
        self._done.set()
        self._wake()
        if not self.opened.done():
            self.opened.set_exception(
                self._end or DeviceUnreachable("the capture ended before its first picture")
            )
            self.opened.exception()  # marks it as retrieved, where no caller waits any more


class _PictureSchedule:
    """Decides which pictures are kept, and the time of each."""

    def __init__(self, clock: Clock, rate_hz: float, *, realtime: bool, limit_hz: float) -> None:
        self._clock, self._rate_hz, self._realtime = clock, rate_hz, realtime
        self._step_ns = round(NS_PER_S / limit_hz) if limit_hz else 0
        self._start_ns = clock.now_ns()
        self._next_ns = 0

    def stamp(self, index: int) -> int:
        """Unix ns of a picture, by the schedule where there is one: a clip then always has the same steps."""
        if self._rate_hz:
            return self._start_ns + round(index * NS_PER_S / self._rate_hz)
        return self._clock.now_ns()

    def admits(self, at_ns: int) -> bool:
        """Whether this picture is within the limit."""
        if not self._step_ns:
            return True
        early_ns = self._next_ns - at_ns
        # a quarter of a step early is in time: a device at exactly the limit loses no picture then
        if self._step_ns // 4 < early_ns <= 2 * self._step_ns:
            return False
        in_step = abs(early_ns) < self._step_ns  # else: the first picture, a pause, or a clock that was set
        self._next_ns = (self._next_ns if in_step else at_ns) + self._step_ns
        return True

    def due_ns(self, at_ns: int) -> int:
        """When the picture may be delivered, Unix ns."""
        return at_ns if self._rate_hz and self._realtime else 0
