"""Pacing of a backlog: a fixed rate, and a limit on bytes in flight that keeps newer messages fast."""

from __future__ import annotations

WINDOW_MAX = 1_048_576  # bytes of a backlog in flight
WINDOW_MIN = 4_096
_WINDOW_FIRST = 16_384
_DELAY_S = 0.2  # a backlog may add this to the way to the database and back; a commit takes half of it
_LEAST_LEFT = 0.4  # of a window that is cut: one slow commit does not prove a narrow link
_BURST_S = 0.5  # after a pause this much of the rate is made up for
_TICK_S = 0.001  # rounding must not make a wait of zero
_STEP = 16_384  # bytes; reading less at once is not worth an access to the disk


class Pacing:
    """Limits a backlog to `per_s` bytes per second (0: no limit) and to `window` bytes in flight.

    A queue grows at the narrowest place: the link, the broker, or the collector's disk. So the window shrinks
    when acknowledgements take longer than the fastest one, and grows otherwise. Times are seconds of any
    steady clock.
    """

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._tokens = 0.0
        self._at_s: float | None = None
        self.window = _WINDOW_FIRST  # bytes that may be in flight
        self._best_s = 0.0
        self._cut_s = 0.0

    def connected(self) -> None:
        """Start again: a new connection may take another route."""
        self.window = _WINDOW_FIRST
        self._best_s = 0.0

    def budget(self, now_s: float) -> int:
        """Bytes that may be read now; 0 while it is too little to be worth it."""
        if not self._per_s:
            return WINDOW_MAX
        depth = max(self._per_s * _BURST_S, _STEP)
        gained = depth if self._at_s is None else self._per_s * (now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(depth, self._tokens + gained)
        return int(self._tokens) if self._tokens >= self._step else 0

    def wait_s(self) -> float:
        """Seconds until `budget` gives more than 0."""
        if not self._per_s:
            return 0.0
        missing = self._step - self._tokens
        return missing / self._per_s + _TICK_S if missing > 0 else 0.0

    def spend(self, size: int) -> None:
        """Note that `size` bytes will be sent."""
        self._tokens -= size

    def took(self, sent_s: float, now_s: float, size: int) -> None:
        """Note the acknowledgement of `size` bytes that were sent once, at `sent_s`."""
        round_s = now_s - sent_s
        self._best_s = min(self._best_s or round_s, round_s)
        delay_s = round_s - self._best_s
        if delay_s <= _DELAY_S:
            room = 1 - delay_s / _DELAY_S  # the nearer to the limit, the slower it grows
            self.window = min(WINDOW_MAX, self.window + int(size * room))
        elif sent_s > self._cut_s:  # cut once for all messages that were in flight together
            self._cut_s = now_s
            fits = (self._best_s + _DELAY_S) / round_s  # this share would not have made the queue
            self.window = max(WINDOW_MIN, int(self.window * max(_LEAST_LEFT, fits)))

    @property
    def _step(self) -> int:
        return min(_STEP, max(1, int(self._per_s * _BURST_S)))
