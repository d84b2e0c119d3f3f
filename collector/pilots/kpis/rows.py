"""The rows of one field over a period: in order, without what is flagged, with what is absent beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from collector.pilots.kpis import sums
from collector.pilots.kpis.absences import DATA_DAMAGED, DAY_US, Absence, Outbox, Seen, midnight_us, of_stream
from collector.pilots.kpis.steps import Floats, Span, Times
from collector.store.chunk import ChunkHead, as_floats
from collector.store.folder import day_of
from collector.store.series import Points
from collector.store.source import ALL, Hole, Key, Source, StoredChunk
from wire.errors import EdgebedError
from wire.messages import ClockState, Quality

MAX_ROWS = 10_000_000  # of one field in one period
CLOCK_UNSET = "clock-unset"
CLOCK_STEPPED = "clock-stepped"
CLOCK_OFF = "clock-off"
# Of a whole row. A value of the wrong type, or one that is not finite, is null: it is left out by itself.
_FLAGGED = (Quality.OUT_OF_RANGE, Quality.UNCERTAIN, Quality.BAD, Quality.TIME_BACKWARD)


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
    """A field of a node, the span in us, and how long before it rows are read as well."""

    key: Key
    field: str
    span: Span
    before_us: int
    clock_max_ms: float


class _Gathered:
    """What chunks give, in any order."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.messages: list[Seen] = []
        self.holes: list[Absence] = []
        self.errors: set[int] = set()
        self.unset = False
        self._known: set[tuple[str, int]] = set()
        self._parts: list[tuple[str, Times, Floats, Times, Times]] = []
        self._all: list[tuple[Times, Floats]] = []  # also flagged rows, and those of the whole minutes
        self._count = 0

    def add(self, chunk: StoredChunk) -> None:
        times, head, start = chunk.content.times, chunk.content.head, 0
        whole = np.zeros(len(times), np.bool_)
        back = np.array(chunk.content.quality) == Quality.TIME_BACKWARD
        seqs, places = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
        for seq, rows in head.messages:
            part = slice(start, start + rows)
            start += rows
            if rows < 1 or (chunk.ep, seq) in self._known:
                continue  # damage, or a message that is in two day files
            if not chunk.is_beside:
                self._known.add((chunk.ep, seq))
            # one old time of a device does not date its message
            forward = times[part][~back[part]] if not back[part].all() else times[part]
            self.messages.append(Seen(chunk.ep, seq, int(forward.min()), int(forward.max())))
            whole[part], seqs[part], places[part] = True, seq, np.arange(rows)
        if chunk.is_beside:
            return
        column = chunk.content.columns.get(self.asked.field)
        values = np.full(len(times), np.nan) if column is None else as_floats(column)
        low, high = sums.minutes(self.asked.span)
        summed = (times >= low) & (times < high)
        self._all.append((times[summed], values[summed]))
        first, (start, end) = self.asked.span[0] - self.asked.before_us, self.asked.span
        kept = whole & (times >= first) & (times < end)
        self._count += int(kept.sum())
        if self._count > MAX_ROWS:
            name = "/".join(self.asked.key)
            raise TooMany(f"{name} has more than {MAX_ROWS:,} rows")
        if (kept & (times >= start)).any():
            self._note_clock(head)
        grades = np.array(chunk.content.quality)
        # a row of other fields gives no value of this one
        present = kept & ~(np.isnan(values) & (grades == 0))
        values = np.where(np.isin(grades, _FLAGGED) | ~np.isfinite(values), np.nan, values)
        self._parts.append((chunk.ep, times[present], values[present], seqs[present], places[present]))

    def _note_clock(self, head: ChunkHead) -> None:
        if head.skew is not None and head.err is not None:
            self.errors.add(abs(head.skew) + head.err)
        else:  # without a time service a clock may be right: the delays of both ways show it
            self.unset |= head.clk == ClockState.UNSYNCED

    def compared(self, stored: Points, again: Callable[[], Points]) -> list[Absence]:
        """What differs from the rollups of the same rows."""
        if not self._all:
            times, values = np.empty(0, np.int64), np.empty(0)
        else:
            times, values = (np.concatenate([part[at] for part in self._all]) for at in (0, 1))
        found = sums.changed(stored, times, values, self.asked.span, again)
        return [] if found is None else [found]

    def rows(self) -> tuple[Times, Floats]:
        if not self._parts:
            return np.empty(0, np.int64), np.empty(0)
        ranks = {ep: rank for rank, ep in enumerate(sorted({part[0] for part in self._parts}))}
        outboxes = np.concatenate([np.full(len(part[1]), ranks[part[0]]) for part in self._parts])
        times, values, seqs, places = (
            np.concatenate([part[at] for part in self._parts]) for at in range(1, 5)
        )
        order = np.lexsort((places, seqs, outboxes, times))
        return times[order], values[order]

    def stepped(self) -> bool:
        """Whether a message of the span is after a later one, or before an earlier one, by its times."""
        start, end = self.asked.span
        far = round(self.asked.clock_max_ms * 1000)
        by_outbox: dict[str, list[Seen]] = {}
        for one in sorted(set(self.messages), key=lambda one: one.seq):
            by_outbox.setdefault(one.ep, []).append(one)
        for ordered in by_outbox.values():
            latest = accumulate((one.last_us for one in ordered), max)
            earliest = [*accumulate((one.first_us for one in reversed(ordered)), min)][::-1]
            for one, before, after in zip(ordered, (-ALL, *latest), (*earliest[1:], ALL), strict=False):
                is_here = one.first_us < end and one.last_us >= start
                if is_here and (before > one.first_us + far or after < one.last_us - far):
                    return True
        return False


def read_rows(source: Source, asked: Asked, outboxes: Sequence[Outbox]) -> FieldRows:
    """Everything that is stored of a field in a span, whatever the order of the chunks.

    Raises:
        TooMany: there are too many rows.
        EdgebedError: as every question to a source.
    """
    found, start = _Gathered(asked), asked.span[0]
    asks_sums = partial(sums.rollups, source, asked.key, asked.field, asked.span)
    stored = asks_sums()
    low, high = sums.minutes(asked.span)
    first = min(low, start - asked.before_us)
    for chunk in source.chunks_between(asked.key, first, high, names=(asked.field,), beside=True):
        if isinstance(chunk, Hole):
            found.holes += _damaged(chunk, asked.span, source.damaged)
        elif len(chunk.content.times):
            found.add(chunk)
    found.holes += found.compared(stored, asks_sums)
    times, values = found.rows()
    within = times >= start
    clock_ms = max(found.errors, default=None)
    clock = CLOCK_STEPPED if found.stepped() else CLOCK_UNSET if found.unset else ""
    if not clock and clock_ms is not None and clock_ms > asked.clock_max_ms:
        clock = CLOCK_OFF
    _, device, stream = asked.key
    return FieldRows(
        times,
        values,
        int((within & ~np.isnan(values)).sum()),
        int((within & np.isnan(values)).sum()),
        sorted({*found.holes, *of_stream(outboxes, f"{device}/{stream}", found.messages, asked.span)}),
        clock_ms,
        clock,
    )


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
