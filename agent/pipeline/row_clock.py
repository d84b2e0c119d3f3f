"""Follows the times of the rows of a stream, so that jitter is not taken for missing rows."""

from __future__ import annotations

_PHASE, _RATE = 0.2, 0.02  # shares of a row's deviation that correct the next row's time, and the period
_SLOWEST, _FASTEST = 1.25, 0.8  # of the nominal period: what the clock follows
_LATE = 0.5  # periods; a later row shows that rows are missing
_GROWS, _SHRINKS = 0.2, 0.02  # how fast the typical deviation follows
_SETTLED = 20  # rows
_SHARE = 0.05  # of the newest row in the share of missing rows
_MOSTLY = 0.3
_SPREAD = 2.0  # times the typical deviation that a row may be late


class RowClock:
    """Predicts when the next row of a stream comes, and finds how many rows are missing before one that came.

    The prediction averages over about ten rows and follows the real period. A row is late where it comes half
    a period after the prediction, or later than twice the typical deviation in a stream whose rows come in
    bursts. `smooth_ns` is the time of the newest row without its jitter.
    """

    def __init__(self, period_ns: float) -> None:
        self.smooth_ns = 0.0
        self._nominal_ns = period_ns
        self._period_ns = period_ns
        self._due_ns = 0.0
        self._rows = 0  # since the beginning
        self._missing = 0.0  # share of rows before which one is missing, of the last twenty or so
        self._deviation = 0.0  # typical one, in periods; it stays over a gap

    @property
    def bursts(self) -> bool:
        """Whether rows come so unevenly that the times do not show a single missing row."""
        return self._deviation > 1.0

    @property
    def settled(self) -> bool:
        """Whether the clock has followed enough rows for `smooth_ns` to show the real rate."""
        return self._rows >= _SETTLED

    @property
    def mostly_missing(self) -> bool:
        """Whether more than three rows of ten are missing: the stream has another rate."""
        return self._missing > _MOSTLY

    def begin(self, at_ns: int) -> None:
        """Start again at a row."""
        self._period_ns = self._nominal_ns
        self._rows, self._missing = 0, 0.0
        self.smooth_ns = at_ns
        self._due_ns = at_ns + self._period_ns

    def take(self, at_ns: int) -> int:
        """Take a row that is later than the last; returns how many rows are missing before it."""
        off = (at_ns - self._due_ns) / self._period_ns
        missing = 0
        if off > max(_LATE, _SPREAD * self._deviation):
            missing = max(1, round(off))
            off -= missing
            self._due_ns += missing * self._period_ns
        self._rows += 1
        self._missing += _SHARE * ((missing > 0) - self._missing)
        grown = abs(off) - self._deviation
        self._deviation += (_GROWS if grown > 0 else _SHRINKS) * grown
        self.smooth_ns = self._due_ns + _PHASE * off * self._period_ns
        period_ns = self._period_ns * (1 + _RATE * off)
        self._period_ns = min(max(period_ns, _FASTEST * self._nominal_ns), _SLOWEST * self._nominal_ns)
        self._due_ns = self.smooth_ns + self._period_ns
        return missing
