"""Estimates how far a node's clock is off, and the error of that, from delays both ways, as NTP does."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

WINDOW_S = 300.0
_MAX_SAMPLES = 400
_STEP_MS = 500  # a clock that moved further than this against the uptime was set


class Offset(Struct, frozen=True):
    """A node's clock is `skew_ms` behind the collector's, plus or minus `uncertainty_ms`; None is unknown."""

    skew_ms: int | None = None
    uncertainty_ms: int | None = None

    def united(self, other: Offset) -> Offset:
        """An offset whose error covers both; the other one where an error is not known."""
        skew, error, more, wide = self.skew_ms, self.uncertainty_ms, other.skew_ms, other.uncertainty_ms
        if skew is None or error is None or more is None or wide is None:
            return other
        low, high = min(skew - error, more - wide), max(skew + error, more + wide)
        return Offset((low + high) // 2, (high - low + 1) // 2)


class Skew:
    """The smallest delays of five minutes both ways, each as the difference of the two clocks.

    Half their difference is the offset; half their sum is its largest error (RFC 5905, section 8). Without a
    delay downwards, which some nodes do not send, the offset contains the delay and its error is unknown.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int | None]] = deque(maxlen=_MAX_SAMPLES)
        self._anchor: tuple[str, float] | None = None

    def add(self, now_s: float, up_ms: int, down_ms: int | None) -> None:
        """Add the delays of one heartbeat."""
        self._samples.append((now_s, up_ms, down_ms))

    def started_at(self, boot: str, ms: float) -> None:
        """Note when the daemon started by the node's clock; when that changes, the clock was set."""
        before, self._anchor = self._anchor, (boot, ms)
        if before is not None and before[0] == boot and abs(before[1] - ms) > _STEP_MS:
            self._samples.clear()

    def offset(self, now_s: float) -> Offset:
        """The estimate now."""
        while self._samples and self._samples[0][0] < now_s - WINDOW_S:
            self._samples.popleft()
        up = min((sample[1] for sample in self._samples), default=None)
        down = min((sample[2] for sample in self._samples if sample[2] is not None), default=None)
        if up is None:
            return Offset()
        if down is None or up + down < 0:  # a delay is never negative: one of them is from before a step
            return Offset(up)
        return Offset(round((up - down) / 2), (up + down + 1) // 2 + 1)  # +1: times are cut to ms
