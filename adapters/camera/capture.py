"""Pictures taken in a thread of its own, which may hang in a driver or a library and is then abandoned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from adapters.base import AdapterError, DeviceUnreachable, Picture
from wire.clock import NS_PER_S, Clock

_AHEAD = 4  # pictures read while the reader is busy, and then all at once: each wake-up costs
_SIGN_S = 0.1  # a source that waits for its schedule gives a sign of life so often


class PictureSource(Protocol):
    """A device or file, used by one thread only."""

    rate_hz: float  # of the pictures, where they come by a schedule; 0 = when the device sends them

    def grab(self) -> bool:
        """Take the next picture without decoding it where that saves work; False at the end."""

    def picture(self) -> Picture:
        """The picture that was grabbed, (height, width, 3) BGR.

        Raises:
            AdapterError: it cannot be decoded, or is not what was declared.
        """

    def ended(self, pictures: int) -> AdapterError | None:
        """Why `grab` said False after so many pictures; None where that is all there is."""

    def close(self) -> None:
        """Give the device back."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, its number since the start and its time in Unix nanoseconds.

    `dropped` and `skipped` count the pictures before it that nobody took. The thread may drop the next one
    while this one is handed on, so the counters of the capture do not fit the picture.
    """

    picture: Picture
    index: int
    at_ns: int
    dropped: int
    skipped: int


class Capture:
    """Runs a source in a daemon thread and hands its pictures to the event loop.

    `wait_for_reader`: every picture is handed on and the source waits; else a newer picture replaces one
    that nobody took. `dropped` counts those, and the one that waited when the capture was closed. `moved`
    is when the source last gave a sign of life, by `time.monotonic`.
    """

    def __init__(
        self,
        open_source: Callable[[], PictureSource],
        clock: Clock,
        *,
        name: str,
        wait_for_reader: bool = False,
        realtime: bool = False,
        loop_over: bool = False,
        limit_hz: float = 0.0,
    ) -> None:
        self.dropped = 0
        self.skipped = 0  # left out to keep to `limit_hz`
        self.moved = time.monotonic()
        self._open_source, self._clock = open_source, clock
        self._every, self._realtime, self._loop_over = wait_for_reader, realtime, loop_over
        self._limit_hz = limit_hz
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self._waiting_since = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self._done = asyncio.Event()
        self._stop = threading.Event()
        self._room = threading.Condition()
        self._shots: deque[Shot] = deque()
        self._end: AdapterError | None = DeviceUnreachable(f"{name} failed; the log says where")
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Open the source in the thread; `opened` says how it went."""
        self._thread.start()

    def take(self) -> Shot | None:
        """The next shot, None where there is none yet.

        Raises:
            AdapterError: the source failed.
            EOFError: it has ended.
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
        """Wait for something to take; False where the source gave no sign of life for `quiet_s`."""
        self._waiter, self._waiting_since = self._loop.create_future(), time.monotonic()
        try:
            if self._shots or self._done.is_set():  # looked at with the waiter set: the thread wakes no other
                return True
            if self._watch is None:
                self._look(quiet_s)
            return await self._waiter
        finally:
            self._waiter = None

    def _look(self, quiet_s: float) -> None:
        # one timer that looks now and then: one for each picture costs as much as handing it over
        now = time.monotonic()
        left = max(self.moved, self._waiting_since) + quiet_s - now
        if left <= 0 and self._waiter is not None:
            self._wake(False)
        self._watch = self._loop.call_later(max(left, 0.1 * quiet_s), self._look, quiet_s)

    def _wake(self, alive: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(alive)

    async def close(self, patience_s: float) -> bool:
        """End the thread; False where it hangs and was abandoned: it ends when what it hangs in returns."""
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
            self._thread.join(1.0)  # it has said its last word and returns
        except TimeoutError:
            return False
        finally:
            if not self._every:  # what was read ahead of a reader can be read again
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
            self._tell(self._finish)

    def _read(self, source: PictureSource) -> None:
        try:
            self._tell(self._ready)
            pace = _PictureSchedule(
                self._clock, source.rate_hz, realtime=self._realtime, limit_hz=self._limit_hz
            )
            index = first = 0
            while not self._stop.is_set():
                if not source.grab():
                    self._end = source.ended(index - first)
                    if self._end is not None or not self._loop_over or index == first:
                        return
                    source.close()
                    source, first = self._open_source(), index
                    continue
                self.moved = time.monotonic()
                at_ns = pace.stamp(index)
                if pace.wanted(at_ns):
                    picture = source.picture()
                    if not self._wait_until(pace.due_ns(at_ns)) or not self._hand_over(picture, index, at_ns):
                        return
                else:
                    self.skipped += 1
                index += 1
        finally:
            source.close()

    def _wait_until(self, due_ns: int) -> bool:
        """False where it is time to stop."""
        while (left_s := (due_ns - self._clock.now_ns()) / NS_PER_S) > 0:
            self.moved = time.monotonic()
            if self._clock.wait(self._stop, min(left_s, _SIGN_S * self._clock.rate)):
                return False
        return True

    def _hand_over(self, picture: Picture, index: int, at_ns: int) -> bool:
        with self._room:
            if self._every:
                if len(self._shots) >= _AHEAD:
                    self._room.wait_for(lambda: len(self._shots) <= 1 or self._stop.is_set())
            elif self._shots:
                self._shots.clear()
                self.dropped += 1
            self._shots.append(Shot(picture, index, at_ns, self.dropped, self.skipped))
        if self._waiter is not None:
            self._tell(self._wake)
        return not self._stop.is_set()

    def _tell(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            self._stop.set()  # the loop ended while this thread was abandoned

    # --- in the loop again

    def _ready(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _finish(self) -> None:
        self._done.set()
        self._wake()
        if not self.opened.done():
            self.opened.set_exception(self._end or DeviceUnreachable("it ended before it began"))
            self.opened.exception()  # seen, also where nobody waits for it any more


class _PictureSchedule:
    """Which pictures are wanted and what time they carry."""

    def __init__(self, clock: Clock, rate_hz: float, *, realtime: bool, limit_hz: float) -> None:
        self._clock, self._rate_hz, self._realtime = clock, rate_hz, realtime
        self._step_ns = round(NS_PER_S / limit_hz) if limit_hz else 0
        self._start_ns = clock.now_ns()
        self._next_ns = 0

    def stamp(self, index: int) -> int:
        """A schedule where there is one: the same clip gives the same distances every time."""
        if self._rate_hz:
            return self._start_ns + round(index * NS_PER_S / self._rate_hz)
        return self._clock.now_ns()

    def wanted(self, at_ns: int) -> bool:
        """Whether this picture is within the limit."""
        if not self._step_ns:
            return True
        early_ns = self._next_ns - at_ns
        # a quarter of a step is in time: a device at just the limit would lose each second picture
        if self._step_ns // 4 < early_ns <= 2 * self._step_ns:
            return False
        in_step = abs(early_ns) < self._step_ns  # else the first one, a pause, or a clock that was set
        self._next_ns = (self._next_ns if in_step else at_ns) + self._step_ns
        return True

    def due_ns(self, at_ns: int) -> int:
        """When it may be handed on."""
        return at_ns if self._rate_hz and self._realtime else 0
