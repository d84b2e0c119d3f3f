"""Answers questions from the day files: series, rows, events, quarantine; on read-only connections."""

from __future__ import annotations

import math
import queue
import sqlite3
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.store.chunk import MINUTE_US, as_floats, unpack
from collector.store.day_file import connect, identity, version
from collector.store.declared import Declared, Lost
from collector.store.group import Quarantined
from collector.store.series import Points, Series, downsample, joined
from collector.store.store import aside, day_files
from collector.store.table import Table
from wire.errors import EdgebedError, TryAgain, WireError
from wire.messages import ClockState

CHUNK_ROWS = 40_000  # rows outside the span: the first and the last chunk extend beyond it
MAX_ROWS = 500_000  # rows that one question may read; above it rollups answer
OPEN_FILES = 32  # per reader
DEADLINE_S = 5.0
MINUTE_MS = 60_000


class TooSlow(TryAgain):
    """A question that took longer than allowed."""


class TooManyRows(EdgebedError):
    """A question with too long an answer."""


class Readers:
    """A few readers for all questions: more readers would only compete for the cores. Blocks; any thread."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self._idle: queue.SimpleQueue[StoreReader] = queue.SimpleQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(StoreReader(folder))

    @contextmanager
    def reader(self) -> Iterator[StoreReader]:
        """One reader, for one question.

        Raises:
            TooSlow: no reader became free in time, or the question took too long.
        """
        try:
            reader = self._idle.get(timeout=DEADLINE_S)
        except queue.Empty as error:
            raise TooSlow("too many questions at once: try again later") from error
        try:
            reader.deadline = time.monotonic() + DEADLINE_S
            yield reader
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
                raise TryAgain(f"the store cannot be read now: {error}") from error
            raise TooSlow("the question took too long: ask for a shorter time") from error
        finally:
            self._idle.put(reader)

    def close(self) -> None:
        """Close every connection, after the questions that are being answered."""
        for _ in range(self._count):
            self._idle.get(timeout=2 * DEADLINE_S).close()


class StoreReader:
    """Read-only connections to day files; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.deadline = math.inf
        self.damaged: set[str] = set()  # files that could not be read
        self._declared = Declared(())
        self._unset: list[tuple[int, int]] = []  # spans in ms in which the node's clock was never set
        self._folder = folder.absolute()
        self._newest: Path | None = None
        self._open: OrderedDict[Path, sqlite3.Connection] = OrderedDict()
        self._identities: dict[Path, tuple[int, int] | None] = {}  # of the open files
        self._spans: dict[Path, dict[tuple[str, str, str], tuple[int, int]]] = {}

    def series(
        self,
        node: str,
        device: str,
        stream: str,
        field: str,
        *,
        start_ms: int,
        end_ms: int,
        points: int,
        losses: Sequence[Lost] = (),
    ) -> Series:
        """One field between two times in at most `points` buckets, from rows or minute rollups.

        From rows, the gaps include the holes that the node's declared `losses` left.
        """
        key = (node, device, stream)
        self._declared, self._unset = Declared(losses), []
        coarse = (end_ms - start_ms) >= points * MINUTE_MS
        if not coarse:
            coarse = self._count(key, start_ms, end_ms) > MAX_ROWS
        read = self._rollups if coarse else self._rows
        found: list[Points] = []
        for path, db in self._days():
            with self._guard(path):
                if self._reaches(path, db, key, start_ms, end_ms):
                    found += read(db, key, field, start_ms, end_ms)
        series = downsample(found, start_ms, end_ms, points, grid_ms=MINUTE_MS if coarse else 0)
        series.source = "rollup" if coarse else "rows"
        series.unset = joined(self._unset, start_ms, end_ms)
        series.gaps = self._declared.gaps(start_ms, end_ms)
        series.gaps += [(start_ms, end_ms, f"day file {name} is damaged") for name in sorted(self.damaged)]
        return series

    def _count(self, key: tuple[str, str, str], start_ms: int, end_ms: int) -> int:
        total = 0
        for path, db in self._days():
            with self._guard(path):
                total += db.execute(
                    f"SELECT ifnull(sum(rows), 0) FROM chunk WHERE stream = {_STREAM}"  # noqa: S608 - a constant
                    " AND last_us >= ? AND first_us <= ?",
                    (*key, start_ms * 1000, end_ms * 1000 + 999),
                ).fetchone()[0]
        return total

    def _rows(
        self, db: sqlite3.Connection, key: tuple[str, str, str], field: str, start_ms: int, end_ms: int
    ) -> Iterator[Points]:
        start_us, end_us = start_ms * 1000, end_ms * 1000 + 999
        rows = db.execute(
            f"SELECT ep, body, late FROM chunk WHERE stream = {_STREAM} AND last_us >= ? AND first_us <= ?",  # noqa: S608 - a constant
            (*key, start_us, end_us),
        )
        around = (db.execute(query, (*key, at)) for query, at in ((_BEFORE, start_us), (_AFTER, end_us)))
        times: list[NDArray[np.int64]] = []
        values: list[NDArray[np.float64]] = []
        lates: list[int] = []
        for ep, body, late in chain(rows, *(around if self._declared else ())):
            try:
                head, at, columns = unpack(body, (field,))
            except WireError as error:
                raise sqlite3.DatabaseError(str(error)) from error
            self._declared.add(ep, head.messages, at)
            if head.clk == ClockState.UNSYNCED:
                self._unset.append((int(at.min()) // 1000, int(at.max()) // 1000))
            if field in columns and late is not None:
                times.append(at)
                values.append(as_floats(columns[field]))
                lates.append(late)
        if times:
            late_rows = np.repeat(np.array(lates, np.float64), [len(each) for each in times])
            yield Points.of_rows(np.concatenate(times) / 1000.0, np.concatenate(values), late_rows)

    def _rollups(
        self, db: sqlite3.Connection, key: tuple[str, str, str], field: str, start_ms: int, end_ms: int
    ) -> Iterator[Points]:
        rows = db.execute(
            f"SELECT minute, n, total, low, high, late FROM rollup WHERE stream = {_STREAM}"  # noqa: S608 - a constant
            " AND field = (SELECT id FROM field WHERE name = ?) AND minute BETWEEN ? AND ?",
            (*key, field, start_ms // MINUTE_MS, end_ms // MINUTE_MS),
        ).fetchall()
        if rows:
            table = np.array(rows, dtype=np.float64)  # NULL becomes NaN
            yield Points(
                table[:, 0] * MINUTE_MS, table[:, 1], table[:, 2], table[:, 3], table[:, 4], table[:, 5]
            )

    def _reaches(
        self, path: Path, db: sqlite3.Connection, key: tuple[str, str, str], start_ms: int, end_ms: int
    ) -> bool:
        """Whether a finished day has rows of the stream in the span; True for the day being written."""
        if path == self._newest:
            return True
        spans = self._spans.get(path)
        if spans is None:
            rows = db.execute(
                "SELECT node, device, name, min(first_us), max(last_us) FROM chunk JOIN stream"
                " ON stream.id = chunk.stream GROUP BY chunk.stream"
            )
            spans = self._spans[path] = {(n, d, s): (first, last) for n, d, s, first, last in rows}
        first, last = spans.get(key, (1, 0))
        return first <= last and first <= end_ms * 1000 + MINUTE_US and last >= start_ms * 1000 - MINUTE_US

    def events(
        self, node: str, device: str, *, limit: int, before: tuple[int, str, int], kind: str = ""
    ) -> list[tuple[str, dict[str, Any]]]:
        """Events with their cursors, the newest first, from before the cursor `(ts, file, id)`."""
        found: list[tuple[int, str, int, dict[str, Any]]] = []
        for path, db in self._days():
            number = path.name[:6]
            # with the cursor's own time, only events before it in its file, and all in older files
            same = before[2] if number == before[1] else (_ALL if number < before[1] else 0)
            with self._guard(path):
                rows = db.execute(_EVENTS, (node, device, before[0], before[0], same, kind, kind, limit))
                for at, ts, recv, etype, sev, body in rows:
                    head = {"ts": ts, "recv": recv, "device": device, "type": etype, "sev": sev}
                    found.append((ts, number, at, {**msgspec.json.decode(body), **head}))
        found.sort(key=lambda one: one[:3], reverse=True)
        return [(f"{ts}.{number}.{at}", event) for ts, number, at, event in found[:limit]]

    def quarantine(self, limit: int) -> tuple[int, list[Quarantined]]:
        """The total count, and the newest ones."""
        total, items = 0, list[Quarantined]()
        for path, db in self._days():
            with self._guard(path):
                row = db.execute("SELECT n FROM total WHERE key = 'quarantined'").fetchone()
                total = max(total, row[0] if row else 0)
                if len(items) < limit:
                    rows = db.execute(
                        "SELECT recv, topic, why, size, head FROM quarantine ORDER BY id DESC LIMIT ?",
                        (limit - len(items),),
                    )
                    items += [Quarantined(*row) for row in rows]
        return total, items

    def rows(
        self, node: str, device: str, stream: str, *, start_ms: int, end_ms: int, limit: int = sys.maxsize
    ) -> Table:
        """Every row of a stream with `start_ms <= time < end_ms`, in order of time.

        Raises:
            TooManyRows: there are more than `limit` (plus the other rows of their chunks).
        """
        table, key = Table(), (node, device, stream)
        for path, db in self._days():
            with self._guard(path):
                query = f"SELECT body FROM chunk WHERE stream = {_STREAM} AND last_us >= ? AND first_us < ?"  # noqa: S608 - a constant
                for (body,) in db.execute(query, (*key, start_ms * 1000, end_ms * 1000)):
                    table.add(body)
                    if len(table) > limit + CHUNK_ROWS:
                        raise TooManyRows(f"more than {limit:,} rows: ask for a shorter time")
        return table.between(start_ms * 1000, end_ms * 1000)

    def chunks(self) -> Iterator[tuple[str, str, list[int], int]]:
        """`(node, ep, seqs, rows)` of every chunk, then of every event; for the audit."""
        for path, db in self._days():
            with self._guard(path):
                rows = db.execute("SELECT node, ep, body FROM chunk JOIN stream ON stream.id = chunk.stream")
                for node, ep, body in rows:
                    head, times, _ = unpack(body, ())
                    yield node, ep, [seq for seq, _ in head.messages], len(times)
                for node, ep, seq in db.execute("SELECT node, ep, seq FROM event"):
                    yield node, ep, [seq], 1

    def _days(self) -> Iterator[tuple[Path, sqlite3.Connection]]:
        """Every day file with a connection, the newest first; an unreadable one is noted and left out."""
        self.damaged = {path.name.removesuffix(".damaged") for path in aside(self._folder)}
        files = day_files(self._folder)
        self._newest = files[-1] if files else None
        for path in list(self._open):
            if path not in files or identity(path) != self._identities[path]:
                self._open.pop(path).close()  # removed or replaced: closing frees its space
                self._spans.pop(path, None)
        for path in reversed(files):
            with self._guard(path):
                db = self._connect(path)
                if db is not None:
                    yield path, db

    @contextmanager
    def _guard(self, path: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError:
            if path.exists():
                raise
        except (sqlite3.DatabaseError, WireError):
            self.damaged.add(path.name)

    def _connect(self, path: Path) -> sqlite3.Connection | None:
        db = self._open.get(path)
        if db is None:
            self._identities[path] = identity(path)
            db = connect(path)
            if version(db) == 0:  # being created now
                db.close()
                return None
            db.set_progress_handler(lambda: time.monotonic() > self.deadline, 20_000)
            self._open[path] = db
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return db

    def close(self) -> None:
        """Close every connection."""
        for db in self._open.values():
            db.close()
        self._open.clear()


_ALL = 2**62
_EVENTS = """
SELECT id, ts, recv, type, sev, body FROM event INDEXED BY event_by_time
WHERE node = ? AND device = ? AND ts <= ? AND (ts < ? OR id < ?) AND (? = '' OR type = ?)
ORDER BY ts DESC, id DESC LIMIT ?"""
_STREAM = "(SELECT id FROM stream WHERE node = ? AND device = ? AND name = ?)"
# the chunks before and after a span; their `late` is null because their rows are not in it
_ASIDE = f"SELECT ep, body, NULL FROM chunk WHERE stream = {_STREAM} AND "  # noqa: S608 - a constant
_BEFORE = _ASIDE + "last_us < ? ORDER BY last_us DESC LIMIT 1"
_AFTER = _ASIDE + "last_us > ?4 AND first_us > ?4 ORDER BY last_us LIMIT 1"


def read_cursor(text: str) -> tuple[int, str, int]:
    """Parse `before=` of the events: a time in ms, or the cursor of the last event.

    Raises:
        EdgebedError: it is neither.
    """
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts) or len(parts) not in (
        1,
        3,
    ):
        raise EdgebedError(f"before={text[:40]!r} is neither a time in ms nor a cursor")
    if len(parts) == 1:
        return int(parts[0]), "", 0
    return int(parts[0]), parts[1], int(parts[2])
