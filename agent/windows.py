"""Rows of a signal into the windows a model sees: on its rate, in its order, never across a gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from adapters.base import Value
from wire.clock import NS_PER_S
from wire.messages import Stream

if TYPE_CHECKING:
    from agent.manifest import Manifest

_SAME = 0.05  # a stream within 5 % of the model's rate is taken row by row
_RATE = 0.2  # rows of a window may come so much faster or slower than the model's rate


class Windows:
    """Makes windows `[length, signals]` (float32) every `hop` rows of a stream.

    A stream at the model's rate, or of no declared rate, is taken row by row: one missing row is filled by
    the straight line (`filled` counts). A faster stream is brought to the rate by straight lines. Anything
    longer is a gap: the window begins anew (`gaps`). A window with a missing value (`incomplete`) or whose
    rows came at another rate (`wrong_rate`) is not made.
    """

    def __init__(
        self,
        signals: Sequence[str],
        *,
        rate_hz: float,
        length: int,
        hop: int,
        source_hz: float | None,
        counters: Counter[str],
    ) -> None:
        self._signals = signals
        self._period_ns = round(NS_PER_S / rate_hz)
        self._resample = source_hz is not None and source_hz > rate_hz * (1 + _SAME)
        self._length = length
        self._hop = hop
        self._counters = counters
        # each row stands twice, `length` apart, so that every window is one contiguous piece
        self._ring = np.full((2 * length, len(signals)), np.nan, dtype=np.float32)
        self._times_ns = [0] * length
        self._at = 0
        self._rows = 0
        self._since = 0
        self._last_ns: int | None = None
        self._last = np.full(len(signals), np.nan, dtype=np.float32)
        self._next_ns = 0

    def add(self, at_ns: int, values: Mapping[str, Value]) -> NDArray[np.float32] | None:
        """Take one row; returns the window that is due with it, which is the caller's to keep."""
        get = values.get
        row = np.array([get(signal) for signal in self._signals], dtype=np.float32)  # nothing becomes NaN
        window: NDArray[np.float32] | None = None
        step_ns = 0 if self._last_ns is None else at_ns - self._last_ns
        if self._last_ns is None or step_ns < 0 or step_ns > 2.5 * self._period_ns:
            if self._last_ns is not None:
                self._counters["gaps"] += 1
            window = self._begin(at_ns, row)
        elif step_ns == 0:
            self._counters["repeated"] += 1
            return None
        elif self._resample:
            while self._next_ns <= at_ns:
                share = np.float32(1 - (at_ns - self._next_ns) / step_ns)
                due = self._put(self._next_ns, self._last + share * (row - self._last))
                window = window if due is None else due
                self._next_ns += self._period_ns
        else:
            if step_ns > 1.5 * self._period_ns:
                self._counters["filled"] += 1
                window = self._put(at_ns - step_ns // 2, (self._last + row) * np.float32(0.5))
            due = self._put(at_ns, row)
            window = window if due is None else due
        self._last_ns, self._last = at_ns, row
        return window

    def _begin(self, at_ns: int, row: NDArray[np.float32]) -> NDArray[np.float32] | None:
        self._rows = self._since = 0
        self._next_ns = at_ns + self._period_ns
        return self._put(at_ns, row)

    def _put(self, at_ns: int, row: NDArray[np.float32]) -> NDArray[np.float32] | None:
        self._ring[self._at] = row
        self._ring[self._at + self._length] = row
        self._times_ns[self._at] = at_ns
        self._at = (self._at + 1) % self._length
        self._rows += 1
        self._since += 1
        if self._rows < self._length or (self._since < self._hop and self._rows > self._length):
            return None
        self._since = 0
        span_ns = at_ns - self._times_ns[self._at]
        if abs(span_ns - (self._length - 1) * self._period_ns) > _RATE * self._length * self._period_ns:
            self._counters["wrong_rate"] += 1
            return None
        window = self._ring[self._at : self._at + self._length].copy()
        if not np.isfinite(window).all():
            self._counters["incomplete"] += 1
            return None
        return window


def misfit(manifest: Manifest, source: str, stream: Stream) -> str:
    """Why a model with this manifest cannot see `stream`; "" when it can."""
    wants = manifest.input
    if wants.kind != stream.kind.replace("signal", "window"):
        return f"model {manifest.name} wants {wants.kind}s, and {source} is a {stream.kind} stream"
    if wants.kind == "frame":
        return ""
    missing = [signal for signal in wants.signals if signal not in stream.fields]
    if missing:
        return f"model {manifest.name} wants {', '.join(missing)}, which {source} does not send"
    unfit = [name for name in wants.signals if stream.fields[name].t in ("str", "json")]
    if unfit:
        return f"model {manifest.name} wants numbers, and {', '.join(unfit)} of {source} are text"
    if stream.rate_hz is not UNSET and stream.rate_hz < wants.rate_hz * (1 - _SAME):
        return f"model {manifest.name} wants {wants.rate_hz:g} Hz, and {source} gives {stream.rate_hz:g}"
    return ""
