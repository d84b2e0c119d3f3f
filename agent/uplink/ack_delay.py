"""Measures how long acknowledgements travel, by the clocks of both ends: shows how far this clock is off."""

from __future__ import annotations

from collections import deque

from agent.clock_sync import offset_ns
from wire.clock import NS_PER_MS, Clock

_WINDOW_S = 300.0
_STEP_MS = 500  # wall clock against monotonic clock: a larger change means the clock was set


class AckDelay:
    """Keeps the smallest delay of each second for five minutes; starts again when the clock is set."""

    def __init__(self) -> None:
        self._least: deque[tuple[float, int]] = deque()  # time in s, delay in ms
        self._offset_ms: int | None = None

    def add(self, ms: int, clock: Clock) -> None:
        """Note one delay."""
        offset_ms, now_s = offset_ns(clock) // NS_PER_MS, clock.monotonic()
        if self._offset_ms is None or abs(offset_ms - self._offset_ms) > _STEP_MS:
            self._least.clear()
            self._offset_ms = offset_ms
        if self._least and now_s - self._least[-1][0] < 1.0:
            self._least[-1] = (self._least[-1][0], min(self._least[-1][1], ms))
        else:
            self._least.append((now_s, ms))
            self._forget(now_s)

    def least(self, clock: Clock) -> int | None:
        """The smallest delay in ms, None if none was noted."""
        self._forget(clock.monotonic())
        return min((ms for _, ms in self._least), default=None)

    def _forget(self, now_s: float) -> None:
        while self._least and self._least[0][0] < now_s - _WINDOW_S:
            self._least.popleft()
