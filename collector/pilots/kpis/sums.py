"""Compares rows with the rollups that were stored with them: a changed row leaves the old sums."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from collector.pilots.kpis.absences import DATA_CHANGED, Absence
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


def changed(
    stored: Points, times: Times, values: Floats, span: Span, again: Callable[[], Points]
) -> Absence | None:
    """The first minute whose rows are more or fewer than its rollups counted, or have other values.

    `stored` was asked for before the rows. Rows that came meanwhile are in `again`, which asks once more.
    """
    rows, known = _by_minute(times, values), _minutes_of(stored)
    first, last = (edge // MINUTE_US for edge in minutes(span))
    more = []
    for number in sorted({*rows, *known.tolist()}):
        if not first <= number < last:
            continue
        mine = rows.get(number, np.empty(0))
        word = _compared(stored, known, number, mine)
        if word == "differ":
            return _absence(span, number)
        if word == "more":
            more.append((number, mine))
    newer = again() if more else stored
    known = _minutes_of(newer)
    for number, mine in more:
        if _compared(newer, known, number, mine) == "more":
            return _absence(span, number)
    return None


def _absence(span: Span, number: int) -> Absence:
    at = datetime.fromtimestamp(number * MINUTE_US / 1e6, UTC)
    return Absence(*span, DATA_CHANGED, f"the rows of {at:%Y-%m-%d %H:%M} UTC differ from their sums")


def _by_minute(times: Times, values: Floats) -> dict[int, Floats]:
    kept = ~np.isnan(values)
    if not kept.any():
        return {}
    numbers, places = np.unique(times[kept] // MINUTE_US, return_inverse=True)
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(len(numbers)))
    parts = np.split(values[kept][order], starts[1:])
    return dict(zip(numbers.tolist(), parts, strict=True))


def _minutes_of(stored: Points) -> Times:
    return (stored.t * 1000 // MINUTE_US).astype(np.int64)


def _compared(stored: Points, known: Times, number: int, values: Floats) -> Literal["same", "more", "differ"]:
    """Rows of a minute beside their sums; `more`: rows without sums, which may have come meanwhile."""
    here = slice(*np.searchsorted(known, [number, number + 1]))  # the points are in the order of time
    low, high, count = stored.low[here], stored.high[here], int(stored.n[here].sum())
    if np.isnan(low).any():  # texts
        return "same"
    if len(values) != count:
        return "more" if len(values) > count else "differ"
    if not count:
        return "same"
    if float(low.min()) != float(values.min()) or float(high.max()) != float(values.max()):
        return "differ"
    with np.errstate(all="ignore"):
        difference = abs(float(stored.total[here].sum()) - float(values.sum()))
    return "differ" if difference > _CLOSE * count * float(np.abs(values).max()) else "same"
