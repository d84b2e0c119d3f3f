"""Row counter: numbers the rows of each stream in a run, and sums up what was taken in each UTC day."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from wire.clock import NS_PER_S
from wire.custody import CUSTODY, MAX_STREAMS
from wire.topics import NODE_ITSELF

_DAY_NS = 86_400 * NS_PER_S
_LAST_DAY = 2_932_896  # 9999-12-31
_MAX_CLOSED = 64  # parts that wait for their statement: a clock that is set back and forth makes many
_STATEMENT = f"event/{NODE_ITSELF}/{CUSTODY}"


class DayPart(NamedTuple):
    """All numbers `first..upto` that one run gave in one UTC day; `streams` as in `wire.custody`."""

    run: int
    day: str
    first: int
    upto: int
    streams: dict[str, tuple[int, int, int]]


class RowCounter:
    """Counts messages and rows by stream; a run is named by its first number. Guarded by the lock."""

    def __init__(self, run: int) -> None:
        self.run = run
        self._day = -1
        self._first = run
        self._upto = run - 1
        self._stated = run - 1  # the last number of the newest part that `parts` returned
        self._unstated = 0  # messages since then, without statements
        self._rows: dict[str, int] = {}  # of the run
        self._streams: dict[str, list[int]] = {}  # of the part
        self._closed: list[DayPart] = []

    def add(self, seq: int, stream: str, rows: int, now_ns: int) -> tuple[int, int]:
        """Count a message; returns its `no`: the run and the number of its first row."""
        day = min(max(now_ns // _DAY_NS, 0), _LAST_DAY)
        if day != self._day:
            self._turn(day, seq)
        row = self._rows.get(stream, 0) + 1
        last = self._rows[stream] = row + rows - 1
        known = self._streams.get(stream)
        if known is None:
            self._streams[stream] = [1, row, last]
        else:
            known[0] += 1
            known[2] = last
        self._upto = seq
        self._unstated += stream != _STATEMENT
        return self.run, row

    @property
    def unstated(self) -> bool:
        """Whether a message other than a statement was taken that no statement covers."""
        return self._unstated > 0

    @property
    def has_closed(self) -> bool:
        """Whether a part of a day has ended and waits for its statement."""
        return bool(self._closed)

    def parts(self) -> list[DayPart]:
        """The parts to state now, oldest first."""
        found, self._closed = self._closed, []
        if self._unstated:
            found.append(self._part())
        self._stated, self._unstated = self._upto, 0
        return found

    def _turn(self, day: int, seq: int) -> None:
        if self._upto > self._stated and len(self._closed) < _MAX_CLOSED:
            self._closed.append(self._part())
        self._day, self._first, self._streams, self._unstated = day, seq, {}, 0

    def _part(self) -> DayPart:
        day = datetime.fromtimestamp(self._day * _DAY_NS // NS_PER_S, UTC).strftime("%Y-%m-%d")
        busiest = sorted(self._streams.items(), key=lambda item: -item[1][0])[:MAX_STREAMS]
        streams = {stream: (messages, first, last) for stream, (messages, first, last) in busiest}
        return DayPart(self.run, day, self._first, self._upto, streams)
