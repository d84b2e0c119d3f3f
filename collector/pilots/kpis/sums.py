"""Compares rows with the rollups that were stored with them: a changed row leaves the old sums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from collector.pilots.kpis.absences import DATA_CHANGED, Absence
from collector.pilots.kpis.row_blocks import Flags
from collector.pilots.kpis.steps import Floats, Span, Times
from collector.store.chunk import MINUTE_US
from collector.store.series import Points
from collector.store.source import Key, Source

_CLOSE = 1e-9  # of the largest value, for each row: sums were made in another order


def minutes(span: Span) -> Span:
    """The whole minutes around a span, in us."""
    return span[0] // MINUTE_US * MINUTE_US, -(-span[1] // MINUTE_US) * MINUTE_US


def rollups(source: Source, key: Key, field: str, span: Span) -> Points:
    """The rollups of a field. Ask for them before the rows: rows that come meanwhile are only more."""
    found = source.rollups_between(key, field, *minutes(span))
    return Points.joined([each for each in found if isinstance(each, Points)])


class _Minutes(NamedTuple):
    """How many values each minute has, in order, with their smallest, largest and sum; NaN: texts."""

    numbers: Times
    counts: Floats
    lows: Floats
    highs: Floats
    totals: Floats

    def of(self, numbers: Times) -> _Minutes:
        """Those of other minutes; 0 where there is none."""
        if not len(self.numbers):
            return _Minutes(numbers, *(np.zeros(len(numbers)) for _ in range(4)))
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        is_there = self.numbers[at] == numbers
        return _Minutes(numbers, *(np.where(is_there, column[at], 0.0) for column in self[1:]))


def changed(
    stored: Points, times: Times, values: Floats, span: Span, again: Callable[[], Points]
) -> Absence | None:
    """The first minute whose rows are more or fewer than its rollups counted, or have other values.

    `stored` was asked for before the rows. Rows that came meanwhile are in `again`, which asks once more.
    """
    rows = _of_rows(times, values)
    first, last = (edge // MINUTE_US for edge in minutes(span))
    numbers, differs, more = _compared(rows, _of_points(stored), (first, last))
    if differs.any():
        return _absence(span, int(numbers[differs][0]))
    if more.any():
        others, _, still = _compared(rows, _of_points(again()), (first, last))
        late = np.intersect1d(numbers[more], others[still])
        if len(late):
            return _absence(span, int(late[0]))
    return None


def _absence(span: Span, number: int) -> Absence:
    at = datetime.fromtimestamp(number * MINUTE_US / 1e6, UTC)
    return Absence(*span, DATA_CHANGED, f"the rows of {at:%Y-%m-%d %H:%M} UTC differ from their sums")


def _of_rows(times: Times, values: Floats) -> _Minutes:
    kept = ~np.isnan(values)
    if not kept.all():
        times, values = times[kept], values[kept]
    numbers = times // MINUTE_US
    if (np.diff(numbers) < 0).any():
        order = np.argsort(numbers, kind="stable")
        numbers, values = numbers[order], values[order]
    return _by_minute(numbers, np.ones(len(numbers)), values, values, values)


def _of_points(stored: Points) -> _Minutes:
    """They are in the order of time, and several may share a minute."""
    numbers = (stored.t * 1000 // MINUTE_US).astype(np.int64)
    return _by_minute(numbers, stored.n, stored.low, stored.high, stored.total)


def _by_minute(numbers: Times, counts: Floats, lows: Floats, highs: Floats, totals: Floats) -> _Minutes:
    if not len(numbers):
        return _Minutes(numbers, counts, lows, highs, totals)
    starts = np.append(0, np.flatnonzero(np.diff(numbers)) + 1)
    with np.errstate(all="ignore"):
        return _Minutes(
            numbers[starts],
            np.add.reduceat(counts, starts),
            np.minimum.reduceat(lows, starts),
            np.maximum.reduceat(highs, starts),
            np.add.reduceat(totals, starts),
        )


def _compared(rows: _Minutes, stored: _Minutes, within: Span) -> tuple[Times, Flags, Flags]:
    """Minutes, where they differ from their sums, and where rows have none, which may have come meanwhile."""
    numbers = np.union1d(rows.numbers, stored.numbers)
    numbers = numbers[(numbers >= within[0]) & (numbers < within[1])]
    mine, sums = rows.of(numbers), stored.of(numbers)
    with np.errstate(all="ignore"):
        most = np.maximum(np.abs(mine.lows), np.abs(mine.highs))
        is_far = np.abs(sums.totals - mine.totals) > _CLOSE * sums.counts * most
    is_number = ~np.isnan(sums.lows)
    is_other = (sums.lows != mine.lows) | (sums.highs != mine.highs) | is_far
    differs = (mine.counts < sums.counts) | ((mine.counts == sums.counts) & (sums.counts > 0) & is_other)
    return numbers, is_number & differs, is_number & (mine.counts > sums.counts)
