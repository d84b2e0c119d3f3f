"""Makes the windows that a model sees: at its rate, in its order of signals, never across a gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from adapters.base import Value
from agent.pipeline.resampler import HALF_WIDTH, MOST, Resampler
from agent.pipeline.row_clock import RowClock
from wire.clock import NS_PER_S
from wire.messages import Quality, Stream

if TYPE_CHECKING:
    from agent.inference.inputs import WindowInput
    from agent.inference.manifest import Manifest

_SAME = 0.05  # a stream within 5 % of the model's rate is taken row by row
# a window may be longer or shorter by 2 rows more, but at most by a fifth of it
_LATE = 2.0
_SHORT = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One input of a model: `rows` [length, signals], which the receiver may keep.

    `quality` is UNCERTAIN if a row was flagged, or filled because it was missing. `end` counts rows: the next
    window of the same run of rows ends one hop later.
    """

    rows: NDArray[Any]
    quality: Quality
    end: int = 0


class Windows:
    """Makes a window of `length` rows every `hop` rows of a stream.

    A stream at the model's rate, or without a declared rate, is taken row by row; its times only show which
    rows are missing. One missing row is filled by linear interpolation. A faster stream is brought to the
    rate by `Resampler`, which is `HALF_WIDTH` rows behind; a missing row is only counted there. `filled`
    counts both. Anything longer is a gap: the window starts again (`gaps`). A window with a missing value
    (`incomplete`), or whose rows came at another rate (`wrong_rate`), is not made. Signals of type `bool` are
    not interpolated. A `wide` window has numbers of 64 bits. `flagged` counts rows that were not good.
    """

    def __init__(
        self, spec: WindowInput, stream: Stream, counters: Counter[str], *, wide: bool = False
    ) -> None:
        signals, length, source_hz = spec.signals, spec.length, stream.rate_hz
        held = [stream.fields[signal].t == "bool" for signal in signals]
        self._signals = signals
        self._held: NDArray[np.bool_] = np.array(held, dtype=bool)
        self._period_ns = round(NS_PER_S / spec.rate_hz)
        self._resampler: Resampler | None = None
        self._behind_ns = 0  # the rows of a window depend on input up to this much earlier
        if source_hz is not UNSET and source_hz > spec.rate_hz * (1 + _SAME):
            self._resampler = Resampler(self._held, period_ns=self._period_ns, source_hz=source_hz)
            self._behind_ns = HALF_WIDTH * self._period_ns
        self._length = length
        self._hop = spec.hop
        self._counters = counters
        # each row is stored twice, `length` apart, so that every window is one contiguous piece
        self._type = np.float64 if wide else np.float32
        self._ring = np.full((2 * length, len(signals)), np.nan, dtype=self._type)
        self._end = 0  # rows since the start; a gap counts as a window
        self._times_ns = [0] * length
        self._clock = RowClock(self._period_ns)
        self._smooth_ns = [0.0] * length  # the times without their jitter
        self._at = 0
        self._rows = 0
        self._since = 0
        self._last_ns: int | None = None
        self._last: NDArray[Any] = np.full(len(signals), np.nan, dtype=self._type)
        self._doubt_ns = -1  # time of the newest row that was flagged or filled
        self.flagged = 0

    def add(self, at_ns: int, values: Mapping[str, Value], quality: Quality = Quality.GOOD) -> Window | None:
        """Take one row; returns the window that it completes, or None."""
        get = values.get
        row = np.array([get(signal) for signal in self._signals], dtype=self._type)  # None becomes NaN
        window: Window | None = None
        step_ns = 0 if self._last_ns is None else at_ns - self._last_ns
        if self._last_ns is not None and step_ns == 0:
            self._counters["repeated"] += 1
            return None
        missing = self._missing(at_ns, step_ns)
        if missing is None or missing > 1:
            if self._last_ns is not None:
                self._counters["gaps"] += 1
            self._begin(at_ns)
        elif missing:
            window = self._fill(at_ns - step_ns // 2, row)
        if quality or self._clock.bursts:
            self._doubt_ns = at_ns
            self.flagged += bool(quality)
        if self._resampler is None:
            due = self._put(at_ns, row, self._clock.smooth_ns)
        else:
            due = self._resampled(self._resampler.add(at_ns, row))
        self._last_ns, self._last = at_ns, row
        return window if due is None else due

    def count_into(self, counters: Counter[str]) -> None:
        """Count there from now on."""
        self._counters = counters

    def _missing(self, at_ns: int, step_ns: int) -> int | None:
        """How many rows are missing before a row; None where the rows begin again."""
        if self._last_ns is None or step_ns < 0:
            return None
        if self._resampler is None:
            return self._clock.take(at_ns)
        return 2 if step_ns > 2.5 * self._period_ns else int(step_ns > 1.5 * self._period_ns)

    def _begin(self, at_ns: int) -> None:
        self._clock.begin(at_ns)
        self._start_again()
        self._doubt_ns = -1
        if self._resampler is not None:
            self._resampler.begin()

    def _start_again(self) -> None:
        """Let no window have a row of those before."""
        self._rows = self._since = 0
        self._end += self._length + 1  # more than a hop: what comes does not follow on what was

    def _fill(self, at_ns: int, row: NDArray[Any]) -> Window | None:
        """Fill one missing row at `at_ns`, the middle between the last row and `row`."""
        self._counters["filled"] += 1
        self._doubt_ns = at_ns
        if self._resampler is not None:
            return None  # the resampler uses the times of the rows
        filled = np.where(self._held, self._last, (self._last + row) * self._type(0.5))
        return self._put(at_ns, filled, self._clock.smooth_ns - self._period_ns)  # the clock is at `row`

    def _resampled(self, rows: list[tuple[int, NDArray[Any] | None]]) -> Window | None:
        window: Window | None = None
        for at_ns, row in rows:
            if row is None:
                self._counters["wrong_rate"] += 1
                self._start_again()
            elif (due := self._put(at_ns, row, at_ns)) is not None:
                window = due
        return window

    def _put(self, at_ns: int, row: NDArray[Any], smooth_ns: float) -> Window | None:
        self._ring[self._at] = row
        self._ring[self._at + self._length] = row
        self._times_ns[self._at] = at_ns
        self._smooth_ns[self._at] = smooth_ns
        self._at = (self._at + 1) % self._length
        self._rows += 1
        self._end += 1
        self._since += 1
        if self._rows < self._length or (self._since < self._hop and self._rows > self._length):
            return None
        self._since = 0
        begin_ns = self._times_ns[self._at]
        newest = (self._at - 1) % self._length
        times = self._smooth_ns if self._clock.settled else self._times_ns
        span_ns = times[newest] - times[self._at]
        off = span_ns / self._period_ns - (self._length - 1)
        limit = min(_SAME * self._length + _LATE, _SHORT * self._length)
        if abs(off) > limit or self._clock.mostly_missing:
            self._counters["wrong_rate"] += 1
            return None
        rows = self._ring[self._at : self._at + self._length].copy()
        if not np.isfinite(rows).all():
            self._counters["incomplete"] += 1
            return None
        doubtful = self._doubt_ns >= begin_ns - self._behind_ns
        return Window(rows, Quality.UNCERTAIN if doubtful else Quality.GOOD, self._end)


def input_mismatch(manifest: Manifest, source: str, stream: Stream, every: int = 1) -> str:
    """Why a model with this manifest cannot use `stream`; "" when it can."""
    spec = manifest.input
    if spec.kind != stream.kind.replace("signal", "window"):
        return f"model {manifest.name} needs {spec.kind}s, and {source} is a {stream.kind} stream"
    if spec.kind == "frame":
        return ""
    if spec.state and every > 1:
        return f"model {manifest.name} has a state, which every: {every} would break: leave out every"
    if why := _unfit(spec.signals, source, stream):
        return f"model {manifest.name} needs {why}"
    given_hz = spec.rate_hz if stream.rate_hz is UNSET else stream.rate_hz
    if spec.rate_hz * (1 - _SAME) <= given_hz <= spec.rate_hz * MOST:
        return ""
    limit = f": more than {MOST:,} times as fast; let the device send less" if given_hz > spec.rate_hz else ""
    return f"model {manifest.name} needs {spec.rate_hz:g} Hz, and {source} has {given_hz:g} Hz{limit}"


def _unfit(signals: Sequence[str], source: str, stream: Stream) -> str:
    if missing := [signal for signal in signals if signal not in stream.fields]:
        return f"{', '.join(missing)}, which {source} does not send"
    if unfit := [name for name in signals if stream.fields[name].t in ("str", "json")]:
        return f"numbers, and {', '.join(unfit)} of {source} are text"
    return ""
