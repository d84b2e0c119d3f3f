"""The rows of one field over a period: in order, without what is flagged, with what is absent beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from collector.pilots.kpis import sums
from collector.pilots.kpis.absences import DATA_DAMAGED, DAY_US, Absence, Outbox, midnight_us, of_stream
from collector.pilots.kpis.row_blocks import Flags, RowBlocks, Rows, Seen
from collector.pilots.kpis.steps import Floats, Span, Times
from collector.store.chunk import ChunkHead
from collector.store.folder import day_of
from collector.store.source import ALL, Hole, Key, Source, StoredChunk
from wire.errors import EdgebedError
from wire.messages import ClockState, Quality

MAX_ROWS = 10_000_000  # of one field in one period
CLOCK_UNSET = "clock-unset"
CLOCK_STEPPED = "clock-stepped"
CLOCK_OFF = "clock-off"
MOST_SHARED = 300_000  # rows; all fields of a stream are read at once up to here
# Of a whole row. A value of the wrong type, or one that is not finite, is null: it is left out by itself.
_IS_FLAGGED = np.zeros(256, np.bool_)
_IS_FLAGGED[[Quality.OUT_OF_RANGE, Quality.UNCERTAIN, Quality.BAD, Quality.TIME_BACKWARD]] = True
_FAR = 2**61  # two of them are added without an overflow


class TooMany(EdgebedError):
    """A period has more rows or events than are read: it does not count."""


@dataclass(frozen=True, slots=True)
class FieldRows:
    """Rows sorted by time, number of the message and place in it; the first ones may be before the span.

    A value that was left out is NaN. `used` and `left_out` count rows within the span.
    """

    times: Times
    values: Floats
    used: int
    left_out: int
    absences: list[Absence]
    clock_ms: int | None  # the largest error of the clock that is known
    clock: str  # a code where the clock cannot be trusted


@dataclass(frozen=True, slots=True)
class Asked:
    """A stream of a node, the span in us, and how long before it rows are read as well."""

    key: Key
    span: Span
    before_us: int
    clock_max_ms: float

    @property
    def reach(self) -> Span:
        """The span with the time before it."""
        return self.span[0] - self.before_us, self.span[1]


class _Gathered:
    """What chunks give, in any order, of the first of these fields, and of the others while they are few."""

    def __init__(self, asked: Asked, names: Sequence[str]) -> None:
        self.asked = asked
        self.holes: list[Absence] = []
        self.errors: set[int] = set()
        self.unset = False
        self.blocks = RowBlocks(list(names))
        self._parts: list[Rows] = []
        self._count = 0

    def add(self, chunk: StoredChunk) -> None:
        times, (start, end) = chunk.content.times, self.asked.span
        is_new = self.blocks.add(chunk)
        if not chunk.is_beside and (is_new & (times >= start) & (times < end)).any():
            self._note_clock(chunk.content.head)
        if self.blocks.is_full:
            self.take()

    def take(self) -> None:
        """Keep what is needed of the chunks since the last call."""
        rows = self.blocks.take()
        if rows is None:
            return
        (low, high), (first, end) = sums.minutes(self.asked.span), self.asked.reach
        is_read = (rows.times >= first) & (rows.times < end)
        self._count += int((is_read & rows.is_new).sum())
        if self._count > MAX_ROWS:
            name = "/".join(self.asked.key)
            raise TooMany(f"{name} has more than {MAX_ROWS:,} rows")
        self._parts.append(rows.where(is_read | ((rows.times >= low) & (rows.times < high))))
        if len(self.blocks.names) > 1 and sum(len(each.times) for each in self._parts) > MOST_SHARED:
            del self.blocks.names[1:]

    def _note_clock(self, head: ChunkHead) -> None:
        if head.skew is not None and head.err is not None:
            self.errors.add(abs(head.skew) + head.err)
        else:  # without a time service a clock may be right: the delays of both ways show it
            self.unset |= head.clk == ClockState.UNSYNCED

    def rows(self) -> Rows:
        """All rows in order."""
        self.take()
        return Rows.joined(self._parts, self.blocks.names).in_order(self.blocks.outboxes)

    def stepped(self, several: Iterable[Seen]) -> bool:
        """Whether a message of the span is after a later one, or before an earlier one, by its times."""
        start, end = self.asked.span
        far = min(round(self.asked.clock_max_ms * 1000), _FAR)
        for one in several:
            firsts, lasts = (np.clip(each, -_FAR, _FAR) for each in (one.firsts, one.lasts))
            before = np.append(-ALL, np.maximum.accumulate(lasts)[:-1])
            after = np.append(np.minimum.accumulate(firsts[::-1])[::-1][1:], ALL)
            is_here = (firsts < end) & (lasts >= start)
            if (is_here & ((before > firsts + far) | (after < lasts - far))).any():
                return True
        return False


def read_rows(
    source: Source, asked: Asked, names: Sequence[str], outboxes: Sequence[Outbox]
) -> dict[str, FieldRows]:
    """Everything that is stored of a field in a span, whatever the order of the chunks.

    It is the first of `names`. The others, of the same stream, are given too unless there are many rows.

    Raises:
        TooMany: there are too many rows.
        EdgebedError: as every question to a source.
    """
    found = _Gathered(asked, names)
    asks = {name: partial(sums.rollups, source, asked.key, name, asked.span) for name in names}
    stored = {name: each() for name, each in asks.items()}
    low, high = sums.minutes(asked.span)
    first = min(low, asked.reach[0])
    holes = found.holes
    for chunk in source.chunks_between(asked.key, first, high, names=names, beside=True):
        if isinstance(chunk, Hole):
            holes += _damaged(chunk, asked.span, source.damaged)
        elif len(chunk.content.times):
            found.add(chunk)
    rows, messages = found.rows(), found.blocks.messages()
    _, device, stream = asked.key
    absences = {*holes, *of_stream(outboxes, f"{device}/{stream}", messages, asked.span)}
    clock_ms = max(found.errors, default=None)
    clock = CLOCK_STEPPED if found.stepped(messages.values()) else CLOCK_UNSET if found.unset else ""
    if not clock and clock_ms is not None and clock_ms > asked.clock_max_ms:
        clock = CLOCK_OFF
    summed = (rows.times >= low) & (rows.times < high)
    kept = rows.is_new & (rows.times >= asked.reach[0]) & (rows.times < asked.reach[1])
    made = {}
    for name, values in rows.values.items():
        times = rows.times[summed]
        differs = sums.changed(stored[name], times, values[summed], asked.span, asks[name])
        mine = absences if differs is None else {*absences, differs}
        made[name] = _of_field(rows, kept, values, asked.span[0], (sorted(mine), clock_ms, clock))
    return made


def _of_field(
    rows: Rows, kept: Flags, values: Floats, start: int, more: tuple[list[Absence], int | None, str]
) -> FieldRows:
    # a row of other fields gives no value of this one
    kept = kept & ~(np.isnan(values) & (rows.grades == 0))
    good = np.where(_IS_FLAGGED[rows.grades] | ~np.isfinite(values), np.nan, values)
    times, good = (rows.times, good) if kept.all() else (rows.times[kept], good[kept])
    within, absent = times >= start, np.isnan(good)
    return FieldRows(times, good, int((within & ~absent).sum()), int((within & absent).sum()), *more)


def _damaged(hole: Hole, span: Span, files: Iterable[str]) -> list[Absence]:
    """A hole in what can be read; of a file that gives nothing, the day of its name."""
    if hole.first_ms <= -ALL:
        return [absent_day(name) for name in files if name in hole.why]
    if hole.last_ms < hole.first_ms:  # when is not known
        return [Absence(*span, DATA_DAMAGED, hole.why)]
    return [Absence(hole.first_ms * 1000, hole.last_ms * 1000 + 1000, DATA_DAMAGED, hole.why)]


def absent_day(name: str) -> Absence:
    """The day of a damaged file as an absence."""
    start = midnight_us(day_of(Path(name)).isoformat())
    return Absence(start, start + DAY_US, DATA_DAMAGED, f"day file {name} is damaged")
