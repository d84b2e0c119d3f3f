"""Answers questions with data of a `Source`: series and tables of rows; lends out a few sources."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from collector.store.chunk import as_floats
from collector.store.declared import Declared, Gap, Lost
from collector.store.series import Points, Series, downsample, joined
from collector.store.source import Hole, Key, Source, StoredChunk, TooSlow
from collector.store.table import Table
from wire.errors import EdgebedError
from wire.messages import ClockState

CHUNK_ROWS = 40_000  # rows outside the span: the first and the last chunk extend beyond it
MAX_ROWS = 500_000  # rows that one question may read; above it rollups answer
DEADLINE_S = 5.0
MINUTE_MS = 60_000


class TooManyRows(EdgebedError):
    """A question with too long an answer."""


class Readers:
    """A few sources for all questions: more would only compete for the cores. Blocks; any thread."""

    def __init__(self, open_source: Callable[[], Source], count: int = 2) -> None:
        self._idle: queue.SimpleQueue[Source] = queue.SimpleQueue()
        self._count = count
        self._lock = threading.Lock()
        self._suspects: set[str] = set()
        for _ in range(count):
            self._idle.put(open_source())

    @contextmanager
    def source(self) -> Iterator[Source]:
        """One source, for one question.

        Raises:
            TooSlow: none became free in time, or the question took too long.
        """
        try:
            source = self._idle.get(timeout=DEADLINE_S)
        except queue.Empty as error:
            raise TooSlow("too many questions at once: try again later") from error
        try:
            source.deadline = time.monotonic() + DEADLINE_S
            yield source
        finally:
            with self._lock:
                self._suspects |= source.suspects
            source.suspects = set()
            self._idle.put(source)

    def take_suspects(self) -> set[str]:
        """The names of day files that gave less than they should since the last call; any thread."""
        with self._lock:
            found, self._suspects = self._suspects, set()
        return found

    def close(self) -> None:
        """Close every source, after the questions that are being answered."""
        for _ in range(self._count):
            self._idle.get(timeout=2 * DEADLINE_S).close()


def read_series(
    source: Source,
    key: Key,
    field: str,
    *,
    start_ms: int,
    end_ms: int,
    points: int,
    losses: Sequence[Lost] = (),
) -> Series:
    """One field from `start_ms` to `end_ms` in at most `points` buckets, from rows or minute rollups.

    From rows, the gaps include the holes that the node's declared `losses` left.
    """
    start_us, end_us = start_ms * 1000, end_ms * 1000 + 1000
    is_coarse = (end_ms - start_ms) >= points * MINUTE_MS
    is_coarse = is_coarse or source.rows_between(key, start_us, end_us) > MAX_ROWS
    found, holes = _Rows(field, losses), list[Gap]()
    rollups: list[Points] = []
    if is_coarse:
        for part in source.rollups_between(key, field, start_us, end_us):
            if isinstance(part, Hole):
                holes.append(part)
            else:
                rollups.append(part)
    else:
        chunks = source.chunks_between(key, start_us, end_us, names=(field,), beside=bool(losses))
        for chunk in chunks:
            if isinstance(chunk, Hole):
                holes.append(chunk)
            else:
                found.add(chunk)
    parts = rollups if is_coarse else found.points()
    series = downsample(parts, start_ms, end_ms, points, grid_ms=MINUTE_MS if is_coarse else 0)
    series.source = "rollup" if is_coarse else "rows"
    series.unset = joined(found.unset, start_ms, end_ms)
    series.gaps = found.declared.gaps(start_ms, end_ms) + _within(holes, start_ms, end_ms)
    return series


class _Rows:
    """Gathers what a series needs of chunks."""

    def __init__(self, field: str, losses: Sequence[Lost]) -> None:
        self.declared = Declared(losses)
        self.unset: list[tuple[int, int]] = []  # spans in ms in which the node's clock was never set
        self._field = field
        self._times: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float64]] = []
        self._late: list[bool] = []

    def add(self, chunk: StoredChunk) -> None:
        head, times, columns = chunk.content.head, chunk.content.times, chunk.content.columns
        if not len(times):
            return  # damage
        self.declared.add(chunk.ep, head.messages, times)
        if head.clk == ClockState.UNSYNCED:
            self.unset.append((int(times.min()) // 1000, int(times.max()) // 1000))
        if self._field in columns and not chunk.is_beside:
            self._times.append(times)
            self._values.append(as_floats(columns[self._field]))
            self._late.append(chunk.is_late)

    def points(self) -> list[Points]:
        if not self._times:
            return []
        late = np.repeat(np.array(self._late, np.float64), [len(each) for each in self._times])
        times = np.concatenate(self._times) / 1000.0
        return [Points.of_rows(times, np.concatenate(self._values), late)]


def read_rows(source: Source, key: Key, *, start_ms: int, end_ms: int, limit: int = sys.maxsize) -> Table:
    """Every row of a stream with `start_ms <= time < end_ms`, in order of time.

    Raises:
        TooManyRows: there are more than `limit` (plus the other rows of their chunks).
    """
    table, holes = Table(), list[Gap]()
    start_us, end_us = start_ms * 1000, end_ms * 1000
    for chunk in source.chunks_between(key, start_us, end_us):
        if isinstance(chunk, Hole):
            holes.append(chunk)
            continue
        table.add(chunk.content)
        if len(table) > limit + CHUNK_ROWS:
            raise TooManyRows(f"more than {limit:,} rows: ask for a shorter time")
    table.gaps = _within(holes, start_ms, end_ms)
    return table.between(start_us, end_us)


def _within(holes: Iterable[Gap], start_ms: int, end_ms: int) -> list[Gap]:
    """The parts of holes that are in a span, each once."""
    cut = ((max(start_ms, first), min(end_ms, last), why) for first, last, why in holes)
    return [hole for hole in dict.fromkeys(cut) if hole[0] <= hole[1]]
