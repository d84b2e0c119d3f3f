"""How fast a backlog leaves: a rate that is set, and no more on its way than delays nothing newer."""

from __future__ import annotations

WINDOW_MAX = 1_048_576  # bytes of a backlog without an acknowledgement
WINDOW_MIN = 4_096
_WINDOW_FIRST = 16_384
_DELAY_S = 0.2  # what a backlog may add to the way to the database and back; a commit takes half of it
_LEAST_LEFT = 0.4  # of a window that is cut: one commit that took long is no narrow link
_BURST_S = 0.5  # so much of the rate is made up for after a pause
_TICK_S = 0.001  # so that no rounding makes a wait of nothing
_STEP = 16_384  # bytes; reading less at once is not worth a look at the disk


class Pace:
    """Times are seconds of any steady clock. `per_s` is in bytes; 0 is without a limit.

    A queue grows wherever the way is narrow: on the link, at the broker, before the collector's disk. So the
    bytes on their way shrink when acknowledgements take longer than the fastest one did, and grow while they
    do not.
    """

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._tokens = 0.0
        self._at_s: float | None = None
        self.window = _WINDOW_FIRST  # bytes that may be on their way
        self._best_s = 0.0
        self._cut_s = 0.0

    def connected(self) -> None:
        """A new connection may take another way."""
        self.window = _WINDOW_FIRST
        self._best_s = 0.0

    def budget(self, now_s: float) -> int:
        """Bytes that may be read now; 0 while it is not worth it."""
        if not self._per_s:
            return WINDOW_MAX
        depth = max(self._per_s * _BURST_S, _STEP)
        gained = depth if self._at_s is None else self._per_s * (now_s - self._at_s)
        self._at_s = now_s
        self._tokens = min(depth, self._tokens + gained)
        return int(self._tokens) if self._tokens >= self._step else 0

    def wait_s(self) -> float:
        """Seconds until the budget is worth another look."""
        if not self._per_s:
            return 0.0
        missing = self._step - self._tokens
        return missing / self._per_s + _TICK_S if missing > 0 else 0.0

    def spend(self, size: int) -> None:
        """So many bytes will go out."""
        self._tokens -= size

    def took(self, sent_s: float, now_s: float, size: int) -> None:
        """`size` bytes sent once, at `sent_s`, are acknowledged."""
        round_s = now_s - sent_s
        self._best_s = min(self._best_s or round_s, round_s)
        delay_s = round_s - self._best_s
        if delay_s <= _DELAY_S:
            room = 1 - delay_s / _DELAY_S  # the nearer to too much, the slower
            self.window = min(WINDOW_MAX, self.window + int(size * room))
        elif sent_s > self._cut_s:  # once for all that was on its way together
            self._cut_s = now_s
            fits = (self._best_s + _DELAY_S) / round_s  # of what made the queue, so much would not have
            self.window = max(WINDOW_MIN, int(self.window * max(_LEAST_LEFT, fits)))

    @property
    def _step(self) -> int:
        return min(_STEP, max(1, int(self._per_s * _BURST_S)))
