"""Down-samples a field: any number of rows becomes at most a given number of points; gaps stay gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

_NEAR_MS = 2_000  # a batch may cover a second
_Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Points:
    """Rows, or rollups of rows: time in ms, count, sum, lowest, highest, count of late rows."""

    t: _Floats
    n: _Floats
    total: _Floats
    low: _Floats
    high: _Floats
    late: _Floats

    @classmethod
    def of_rows(cls, times_ms: _Floats, values: _Floats, late: _Floats) -> Self:
        """One point per row, `late` is 1 or 0; rows with NaN are left out."""
        kept = ~np.isnan(values)
        if not kept.all():
            times_ms, values, late = times_ms[kept], values[kept], late[kept]
        return cls(times_ms, np.ones(len(values)), values, values, values, late)

    @classmethod
    def joined(cls, parts: Sequence[Points]) -> Self:
        """All parts in order of time."""
        if not parts:
            return cls(*(np.empty(0) for _ in range(6)))
        columns = [
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("t", "n", "total", "low", "high", "late")
        ]
        if len(columns[0]) > 1 and (np.diff(columns[0]) < 0).any():
            order = np.argsort(columns[0], kind="stable")
            columns = [column[order] for column in columns]
        return cls(*columns)

    def between(self, start_ms: int, end_ms: int) -> Points:
        """The points with `start_ms <= t <= end_ms`."""
        low, high = np.searchsorted(self.t, [start_ms, end_ms + 0.9995])
        return Points(*(getattr(self, name)[low:high] for name in self.__slots__))


class Series(Struct):
    """What a chart draws: an empty bucket is null, `late` marks back-filled points."""

    t: list[int] = field(default_factory=list)
    mean: list[float | None] = field(default_factory=list)
    min: list[float | None] = field(default_factory=list)
    max: list[float | None] = field(default_factory=list)
    n: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    unset: list[tuple[int, int]] = field(default_factory=list)  # where the node's clock was never set
    source: str = "rows"


def joined(spans: Iterable[tuple[int, int]], start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """Spans of time within `start_ms..end_ms`, in order; spans less than two seconds apart are joined."""
    found: list[tuple[int, int]] = []
    within = [(max(first, start_ms), min(last, end_ms)) for first, last in spans]
    for first, last in sorted(span for span in within if span[0] <= span[1]):
        if found and first - found[-1][1] < _NEAR_MS:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def downsample(
    parts: Sequence[Points], start_ms: int, end_ms: int, points: int, *, grid_ms: int = 0
) -> Series:
    """At most `points` points from `start_ms` to `end_ms`; rollups have a grid of `grid_ms`."""
    found = Points.joined(parts)
    found = found.between(start_ms - max(0, grid_ms - 1), end_ms)
    if grid_ms and len(found.t) > 1:
        found = _merged(found, found.t)  # one minute may be in two day files
    if len(found.t) <= points:
        return _as_they_are(found, points, 1.5 if grid_ms else 2.5)
    # two points per bucket on average: with fewer, jitter alone leaves buckets empty; rollups have no jitter
    buckets = points if grid_ms else min(points, len(found.t) // 2)
    width = max(1.0, (end_ms - start_ms + 1) / buckets)
    if grid_ms:
        width = np.ceil(width / grid_ms) * grid_ms
    at = np.floor((found.t - start_ms) / width)
    merged = _merged(found, at)
    numbers = at[np.flatnonzero(np.diff(at, prepend=-np.inf))].astype(np.int64)
    return _on_grid(merged, numbers, start_ms, width)


def _merged(found: Points, groups: _Floats) -> Points:
    """One point per run of equal `groups`."""
    starts = np.flatnonzero(np.diff(groups, prepend=-np.inf))
    return Points(
        found.t[starts],
        np.add.reduceat(found.n, starts),
        np.add.reduceat(found.total, starts),
        np.fmin.reduceat(found.low, starts),
        np.fmax.reduceat(found.high, starts),
        np.add.reduceat(found.late, starts),
    )


def _as_they_are(found: Points, points: int, far: float) -> Series:
    """Every point, and a null where the next is further away than `far` times the usual step."""
    series = Series()
    if not len(found.t):
        return series
    steps = np.diff(found.t)
    usual = float(np.median(steps)) if len(steps) else 0.0
    holes = set(np.flatnonzero(steps > max(far * usual, 1.0)).tolist()) if usual else set()
    if len(found.t) + len(holes) > points:  # jitter and not gaps, or too few points to draw them all
        holes = set(sorted(holes, key=lambda hole: -steps[hole])[: points - len(found.t)])
    rows = zip(*(getattr(found, name).tolist() for name in found.__slots__), strict=True)
    for index, (t, n, total, low, high, late) in enumerate(rows):
        _append(series, int(t), n, total, low, high, late)
        if index in holes:
            _append(series, int(t + usual), 0, 0.0, None, None, 0)
    return series


def _on_grid(merged: Points, numbers: NDArray[np.int64], start_ms: int, width: float) -> Series:
    series = Series()
    expected = int(numbers[0])
    rows = zip(*(getattr(merged, name).tolist() for name in merged.__slots__), strict=True)
    for number, (_, n, total, low, high, late) in zip(numbers.tolist(), rows, strict=True):
        while expected < number:
            _append(series, int(start_ms + (expected + 0.5) * width), 0, 0.0, None, None, 0)
            expected += 1
        _append(series, int(start_ms + (number + 0.5) * width), n, total, low, high, late)
        expected = number + 1
    return series


def _append(
    series: Series, t: int, n: float, total: float, low: float | None, high: float | None, late: float
) -> None:
    empty = not n or low is None or np.isnan(low)
    series.t.append(t)
    series.mean.append(None if empty else total / n)
    series.min.append(None if empty else low)
    series.max.append(None if empty else high)
    series.n.append(int(n))
    series.late.append(int(late * 2 > n))
