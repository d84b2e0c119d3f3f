"""Rows of a signal into the windows a model sees: on its rate, in its order, never across a gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from adapters.base import Value
from agent.pipeline.resampler import HALF_WIDTH, MOST, Resampler
from wire.clock import NS_PER_S
from wire.messages import Quality, Stream

if TYPE_CHECKING:
    from agent.inference.manifest import Manifest

_SAME = 0.05  # a stream within 5 % of the model's rate is taken row by row
_LATE = 2.0  # rows by which stamps that jitter may make a window longer or shorter besides ...
_SHORT = 0.2  # ... but by no more than this share of a short one


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What a model sees at once: `rows` [length, signals], the receiver's to keep.

    `quality` is UNCERTAIN where a row of it was flagged, or filled because it did not come.
    """

    rows: NDArray[np.float32]
    quality: Quality


class Windows:
    """Makes a window of `length` rows every `hop` rows of a stream.

    A stream at the model's rate, or of no declared rate, is taken row by row: one missing row is filled by
    the straight line. A faster stream is brought to the rate by `Resampler`, which is `HALF_WIDTH` rows
    behind. Where that long nothing came it is counted too (`filled`). Anything longer is a gap: the window
    begins anew (`gaps`). A window with a missing value (`incomplete`) or whose rows came at another rate
    (`wrong_rate`) is not made. `held` signals, all False by default, are never between two of their values.
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
        held: Sequence[bool] = (),
    ) -> None:
        self._signals = signals
        self._held: NDArray[np.bool_] = np.array(held or [False] * len(signals), dtype=bool)
        self._period_ns = round(NS_PER_S / rate_hz)
        self._resampler: Resampler | None = None
        self._behind_ns = 0  # a window has parts of rows up to so much before it
        if source_hz is not None and source_hz > rate_hz * (1 + _SAME):
            self._resampler = Resampler(self._held, period_ns=self._period_ns, source_hz=source_hz)
            self._behind_ns = HALF_WIDTH * self._period_ns
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
        self._doubt_ns = -1  # time of the newest row that was flagged or filled

    def add(self, at_ns: int, values: Mapping[str, Value], quality: Quality = Quality.GOOD) -> Window | None:
        """Take one row; returns the window that is due with it."""
        get = values.get
        row = np.array([get(signal) for signal in self._signals], dtype=np.float32)  # nothing becomes NaN
        window: Window | None = None
        step_ns = 0 if self._last_ns is None else at_ns - self._last_ns
        if self._last_ns is None or step_ns < 0 or step_ns > 2.5 * self._period_ns:
            if self._last_ns is not None:
                self._counters["gaps"] += 1
            self._begin()
        elif step_ns == 0:
            self._counters["repeated"] += 1
            return None
        elif step_ns > 1.5 * self._period_ns:
            window = self._fill(at_ns - step_ns // 2, row)
        if quality:
            self._doubt_ns = at_ns
        if self._resampler is None:
            due = self._put(at_ns, row)
        else:
            due = self._resampled(self._resampler.add(at_ns, row))
        self._last_ns, self._last = at_ns, row
        return window if due is None else due

    def _begin(self) -> None:
        self._rows = self._since = 0
        self._doubt_ns = -1
        if self._resampler is not None:
            self._resampler.begin()

    def _fill(self, at_ns: int, row: NDArray[np.float32]) -> Window | None:
        """One row did not come."""
        self._counters["filled"] += 1
        self._doubt_ns = at_ns
        if self._resampler is not None:
            return None  # it goes by the times of the rows
        return self._put(at_ns, np.where(self._held, self._last, (self._last + row) * np.float32(0.5)))

    def _resampled(self, rows: list[tuple[int, NDArray[np.float32] | None]]) -> Window | None:
        window: Window | None = None
        for at_ns, row in rows:
            if row is None:
                self._counters["wrong_rate"] += 1
                self._rows = self._since = 0
            elif (due := self._put(at_ns, row)) is not None:
                window = due
        return window

    def _put(self, at_ns: int, row: NDArray[np.float32]) -> Window | None:
        self._ring[self._at] = row
        self._ring[self._at + self._length] = row
        self._times_ns[self._at] = at_ns
        self._at = (self._at + 1) % self._length
        self._rows += 1
        self._since += 1
        if self._rows < self._length or (self._since < self._hop and self._rows > self._length):
            return None
        self._since = 0
        begin_ns = self._times_ns[self._at]
        off = (at_ns - begin_ns) / self._period_ns - (self._length - 1)
        if abs(off) > min(_SAME * self._length + _LATE, _SHORT * self._length):
            self._counters["wrong_rate"] += 1
            return None
        rows = self._ring[self._at : self._at + self._length].copy()
        if not np.isfinite(rows).all():
            self._counters["incomplete"] += 1
            return None
        doubtful = self._doubt_ns >= begin_ns - self._behind_ns
        return Window(rows, Quality.UNCERTAIN if doubtful else Quality.GOOD)


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
    given_hz = wants.rate_hz if stream.rate_hz is UNSET else stream.rate_hz
    if wants.rate_hz * (1 - _SAME) <= given_hz <= wants.rate_hz * MOST:
        return ""
    much = (
        f": more than {MOST:,} times as many; have the device send fewer" if given_hz > wants.rate_hz else ""
    )
    return f"model {manifest.name} wants {wants.rate_hz:g} Hz, and {source} gives {given_hz:g}{much}"
