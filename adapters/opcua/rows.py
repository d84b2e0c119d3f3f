"""Groups single values into rows: all fields of one sample time together, in order of time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from adapters.base import Value
from wire.messages import Quality

MAX_OPEN = 1_000  # rows that wait for values
_NS_PER_US = 1_000
_STAMPS = 16  # times of values that show how a server stamps them


@dataclass(slots=True)
class Row:
    """The values of one sample time; a field that did not come is None."""

    at_ns: int
    born_s: float
    values: dict[str, Value] = field(default_factory=dict)
    quality: Quality = Quality.GOOD


class Stamps:
    """Finds out whether a server stamps each field by itself: then fields of one row have different times.

    `judge` returns the time by which to align rows: half of the usual time between two values of a field, at
    most `most_ns`; 0 for a server that stamps the fields of a row alike.
    """

    def __init__(self, fields: int, most_ns: int) -> None:
        self._most_ns = most_ns
        self._wanted = max(_STAMPS, 2 * fields)  # values until it is judged again
        self._last: dict[str, int] = {}
        self._gaps: deque[int] = deque(maxlen=_STAMPS)
        self._counts: Counter[str] = Counter()
        self._alike = 0

    def judge(self, name: str, at_ns: int, alike: bool) -> int | None:
        """Take the time of a value, and whether another field has it; returns the judgement if it is due."""
        before = self._last.get(name, at_ns)
        self._last[name] = at_ns
        if at_ns > before:
            self._gaps.append(at_ns - before)
        self._counts[name] += 1
        self._alike += alike
        if (seen := self._counts.total()) < self._wanted:
            return None
        counts, few = self._counts.values(), 10 * self._alike < seen
        # fields that change at times of their own are not one row: each has its own number of values
        together = len(counts) > 1 and max(counts) <= 3 * min(counts)
        self._counts, self._alike = Counter(), 0
        if not (few and together and self._gaps):
            return 0
        return min(int(median(self._gaps)) // 2, self._most_ns)


class SampleRows:
    """Groups values by their time.

    A row ends when all its fields are there, when a newer row ends (a server sends each field in order, so no
    value of the older row can follow), or `wait_s` after its first value. A field that is missing then is
    None and the row UNCERTAIN; with `hold` it gets its last value, for servers that do not repeat unchanged
    values. Fields within `align_ns` of a row join it, for servers that stamp each field separately. With
    `stamps` the rows find `align_ns` out. `missed` counts, for each field, the newest rows without a value.
    """

    def __init__(
        self,
        fields: Sequence[str],
        counters: Counter[str],
        *,
        wait_s: float,
        hold: bool = False,
        align_ns: int = 0,
        stamps: Stamps | None = None,
    ) -> None:
        self._fields = tuple(fields)
        self._counters = counters
        self._wait_s = wait_s
        self._hold = hold
        self._align_ns = align_ns
        self._stamps = stamps
        self.missed: Counter[str] = Counter()
        self._open: dict[int, Row] = {}
        self._over: list[Row] = []
        self._last_ns = -1
        self._last: dict[str, Value] = dict.fromkeys(self._fields)

    def add(self, name: str, value: Value, quality: Quality, at_ns: int, now_s: float) -> None:
        """Take one value; `now_s` is any monotonic clock."""
        row = self._open.get(at_ns)
        if self.missed:
            self.missed.pop(name, None)
        if self._stamps is not None:
            align_ns = self._stamps.judge(name, at_ns, row is not None)
            if align_ns is not None:
                self._align(align_ns)
                row = self._open.get(at_ns)
        if row is None and self._align_ns:
            row = self._near(at_ns, name)
        while row is not None and name in row.values:  # two values at one time: keep both
            self._counters["same_time"] += 1
            at_ns += _NS_PER_US
            row = self._open.get(at_ns)
        if row is None:
            if len(self._open) >= MAX_OPEN:
                self._finish(min(self._open))
            row = self._open[at_ns] = Row(at_ns, now_s)
        row.values[name] = value
        if quality:
            row.quality = row.quality.worse(quality)
        if len(row.values) == len(self._fields):
            self._finish(row.at_ns)

    def due_s(self) -> float | None:
        """When the oldest open row ends; None where no row is open."""
        return next(iter(self._open.values())).born_s + self._wait_s if self._open else None

    def expire(self, now_s: float) -> None:
        """End the rows that have waited long enough."""
        late = [row.at_ns for row in self._open.values() if row.born_s + self._wait_s <= now_s]
        if late:
            self._finish(max(late))

    def flush(self) -> None:
        """End every row: no more values will come."""
        if self._open:
            self._finish(max(self._open))

    def take(self) -> list[Row]:
        """The rows that ended since the last call, oldest first."""
        over, self._over = self._over, []
        return over

    def _align(self, align_ns: int) -> None:
        """Use this time from now on; the rows that wait are joined, too."""
        before, self._align_ns = self._align_ns, align_ns
        if before or not align_ns:
            return
        waiting = sorted(self._open.items())
        self._open = {}
        for at_ns, row in waiting:
            target = next((near for near in self._open.values() if self._joins(near, row)), None)
            if target is None:
                self._open[at_ns] = row
            else:
                target.values |= row.values
                target.quality = target.quality.worse(row.quality)
        whole = [row.at_ns for row in self._open.values() if len(row.values) == len(self._fields)]
        if whole:
            self._finish(max(whole))

    def _joins(self, row: Row, other: Row) -> bool:
        return abs(row.at_ns - other.at_ns) <= self._align_ns and not row.values.keys() & other.values.keys()

    def _near(self, at_ns: int, name: str) -> Row | None:
        for row in self._open.values():
            if abs(row.at_ns - at_ns) <= self._align_ns and name not in row.values:
                return row
        return None

    def _finish(self, until_ns: int) -> None:
        """End the rows up to a time."""
        first = next(iter(self._open))
        if first == until_ns and len(self._open[first].values) == len(self._fields):
            self._end(self._open.pop(first))  # the usual case: rows become complete in order
            return
        for at_ns in sorted(at for at in self._open if at <= until_ns):
            self._end(self._open.pop(at_ns))

    def _end(self, row: Row) -> None:
        if len(row.values) < len(self._fields):
            self._complete(row)
        elif self._hold:
            self._last = row.values
        if row.at_ns < self._last_ns and row.quality.worse(Quality.TIME_BACKWARD) is not row.quality:
            self._counters["late"] += 1
            row.quality = Quality.TIME_BACKWARD
        self._last_ns = max(self._last_ns, row.at_ns)
        self._over.append(row)

    def _complete(self, row: Row) -> None:
        missing = [name for name in self._fields if name not in row.values]
        if self._hold:
            self._last = {name: row.values.get(name, self._last[name]) for name in self._fields}
            row.values = dict(self._last)
            missing = [name for name in missing if row.values[name] is None]
        for name in missing:
            row.values[name] = None
        self.missed.update(missing)
        if missing:
            self._counters["incomplete"] += 1
            row.quality = row.quality.worse(Quality.UNCERTAIN)
