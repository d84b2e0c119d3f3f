"""Compares rows with the rollups that were stored with them: a changed row leaves the old sums."""

from __future__ import annotations

from datetime import UTC, datetime

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


def changed(stored: Points, times: Times, values: Floats, span: Span) -> Absence | None:
    """The first minute whose rows are fewer than its rollups counted, or have other values."""
    kept = ~np.isnan(values)
    numbers, places = np.unique(times[kept] // MINUTE_US, return_inverse=True)
    mine = values[kept]
    order = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[order], np.arange(len(numbers)))
    rows = {
        int(number): each
        for number, each in zip(
            numbers, np.split(mine[order], starts[1:]) if len(numbers) else [], strict=True
        )
    }
    first, last = (edge // MINUTE_US for edge in minutes(span))
    stored_minutes = (stored.t * 1000 // MINUTE_US).astype(np.int64)
    for number in np.unique(stored_minutes[(stored_minutes >= first) & (stored_minutes < last)]).tolist():
        # the points are in the order of time
        here = slice(*np.searchsorted(stored_minutes, [number, number + 1]))
        if _differs(stored, here, rows.get(number, np.empty(0))):
            at = datetime.fromtimestamp(number * MINUTE_US / 1e6, UTC)
            return Absence(*span, DATA_CHANGED, f"the rows of {at:%Y-%m-%d %H:%M} UTC differ from their sums")
    return None


def _differs(stored: Points, here: slice, values: Floats) -> bool:
    low, high, count = stored.low[here], stored.high[here], int(stored.n[here].sum())
    if np.isnan(low).any():  # texts
        return False
    if len(values) != count or not count:
        return len(values) < count
    if float(low.min()) != float(values.min()) or float(high.max()) != float(values.max()):
        return True
    with np.errstate(all="ignore"):
        difference = abs(float(stored.total[here].sum()) - float(values.sum()))
    return difference > _CLOSE * count * float(np.abs(values).max())
