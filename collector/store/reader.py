"""Answers questions from the day files: series, rows, events, quarantine; on read-only connections."""

from __future__ import annotations

import logging
import math
import queue
import sqlite3
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.store import queries
from collector.store.chunk import MINUTE_US, Unpacked, as_floats, read_chunk, read_head
from collector.store.day_file import SQL_ERRORS, Damaged, connect, identity, messages_in, translate, version
from collector.store.declared import Declared, Gap, Lost
from collector.store.folder import aside, day_files
from collector.store.group import Quarantined
from collector.store.rescue import Rescued, damage, unreadable
from collector.store.salvage import highest_id, readable
from collector.store.series import Points, Series, downsample, joined
from collector.store.table import Table
from wire.errors import EdgebedError, TryAgain, WireError
from wire.messages import MAX_DEPTH, ClockState, is_deep

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str, str]  # node, device, stream

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
        self._lock = threading.Lock()
        self._suspects: set[str] = set()
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
            with self._lock:
                self._suspects |= reader.suspects
            reader.suspects = set()
            self._idle.put(reader)

    def take_suspects(self) -> set[str]:
        """The names of day files that gave less than they should since the last call; any thread."""
        with self._lock:
            found, self._suspects = self._suspects, set()
        return found

    def close(self) -> None:
        """Close every connection, after the questions that are being answered."""
        for _ in range(self._count):
            self._idle.get(timeout=2 * DEADLINE_S).close()


class StoredStream(NamedTuple):
    """The newest chunk of a stream: its last time in Unix ms, and the kind of each column (d q b j)."""

    last_ms: int
    kinds: dict[str, str]


class StoreReader:
    """Read-only connections to day files; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.deadline = math.inf
        self.damaged: set[str] = set()  # files that give nothing
        self.suspects: set[str] = set()  # files that gave less than they should, since the start
        self._gaps: list[Gap] = []  # where rows could not be read, for the question being answered
        self._declared = Declared(())
        self._unset: list[tuple[int, int]] = []  # spans in ms in which the node's clock was never set
        self._folder = folder.absolute()
        self._newest: Path | None = None
        self._open: OrderedDict[Path, sqlite3.Connection] = OrderedDict()
        self._lost: dict[Path, Rescued] = {}  # what the open files lost when they were rescued
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
        self._declared, self._unset, self._gaps = Declared(losses), [], []
        coarse = (end_ms - start_ms) >= points * MINUTE_MS
        if not coarse:
            coarse = self._count(key, start_ms, end_ms) > MAX_ROWS
        read = self._rollups if coarse else self._rows
        found: list[Points] = []
        for path, db in self._days():
            with self._guard(path):
                if self._reaches(path, db, key, start_ms, end_ms):
                    found += read(path, db, key, field, start_ms, end_ms)
        series = downsample(found, start_ms, end_ms, points, grid_ms=MINUTE_MS if coarse else 0)
        series.source = "rollup" if coarse else "rows"
        series.unset = joined(self._unset, start_ms, end_ms)
        series.gaps = self._declared.gaps(start_ms, end_ms)
        series.gaps += self._holes(start_ms, end_ms)
        return series

    def _holes(self, start_ms: int, end_ms: int) -> list[Gap]:
        """Where stored rows of the span cannot be read."""
        for path in self._open:
            lost = self._lost[path]
            why = damage(path.name, lost.unreadable)
            self._gaps += [(low, high, why) for low, high in lost.holes]
        holes = [(max(start_ms, low), min(end_ms, high), why) for low, high, why in self._gaps]
        whole = [(start_ms, end_ms, f"day file {name} is damaged") for name in sorted(self.damaged)]
        return [hole for hole in dict.fromkeys((*holes, *whole)) if hole[0] <= hole[1]]

    def _count(self, key: Key, start_ms: int, end_ms: int) -> float:
        total = 0.0
        for path, db in self._days():
            with self._guard(path):
                total += db.execute(
                    f"SELECT total(rows) FROM chunk WHERE stream = {queries.STREAM}"  # noqa: S608 - a constant
                    " AND last_us >= ? AND first_us <= ?",
                    (*key, start_ms * 1000, end_ms * 1000 + 999),
                ).fetchone()[0]
        return total

    def _rows(
        self, path: Path, db: sqlite3.Connection, key: Key, field: str, start_ms: int, end_ms: int
    ) -> Iterator[Points]:
        start_us, end_us = start_ms * 1000, end_ms * 1000 + 999
        rows = self._chunks(path, db, key, start_us, end_us)
        times: list[NDArray[np.int64]] = []
        values: list[NDArray[np.float64]] = []
        lates: list[int] = []
        for ep, late, *chunk in chain(rows, self._beside(db, key, start_us, end_us)):
            found = self._read(path, chunk, (field,))
            if found is None:
                continue
            head, at, columns = found.head, found.times, found.columns
            self._declared.add(ep, head.messages, at)
            if head.clk == ClockState.UNSYNCED:
                self._unset.append((int(at.min()) // 1000, int(at.max()) // 1000))
            if field in columns and late is not None:
                times.append(at)
                values.append(as_floats(columns[field]))
                lates.append(_is_late(late))
        if times:
            late_rows = np.repeat(np.array(lates, np.float64), [len(each) for each in times])
            yield Points.of_rows(np.concatenate(times) / 1000.0, np.concatenate(values), late_rows)

    def _chunks(
        self, path: Path, db: sqlite3.Connection, key: Key, start_us: int, end_us: int
    ) -> Iterator[tuple[Any, ...]]:
        """The chunks in a span: `ep, late, first_us, last_us, rows, body`; all that a damaged file gives."""
        seen: set[int] = set()
        try:
            for at, *chunk in db.execute(queries.IN_SPAN, (*key, start_us, end_us)):
                seen.add(at)
                yield tuple(chunk)
        except SQL_ERRORS as error:
            if not isinstance(translate(error, path), Damaged):
                raise
            self._note(path)
            self._gaps.append((start_us // 1000, end_us // 1000, f"day file {path.name} is damaged"))
            highest = highest_id(db, "chunk")
            for at, *chunk in readable(db, queries.BY_ID, (*key, start_us, end_us), highest):
                if at not in seen:
                    yield tuple(chunk)

    def _beside(
        self, db: sqlite3.Connection, key: Key, start_us: int, end_us: int
    ) -> Iterator[tuple[Any, ...]]:
        """The chunks before and after a span, which show where declared losses begin and end."""
        if self._declared:
            with suppress(sqlite3.DatabaseError):  # damage: the span itself is read all the same
                yield from db.execute(queries.BEFORE, (*key, start_us))
                yield from db.execute(queries.AFTER, (*key, end_us))

    def _read(self, path: Path, chunk: Sequence[Any], names: tuple[str, ...] | None) -> Unpacked | None:
        """Read one chunk; what cannot be read becomes a gap."""
        return self._tried(path, chunk, lambda body, rows: read_chunk(body, names, rows))

    def _tried(self, path: Path, chunk: Sequence[Any], read: Callable[[bytes, int], T]) -> T | None:
        first_us, last_us, rows, body = chunk
        try:
            return read(body, rows)
        except (WireError, TypeError) as error:  # a type: damage made another one of the column
            log.warning("%s: %s", path.name, error)
        self._note(path)
        if isinstance(first_us, int) and isinstance(last_us, int) and isinstance(rows, int):
            why = f"day file {path.name} is damaged: {rows} rows cannot be read"
            self._gaps.append((first_us // 1000, last_us // 1000, why))
        return None

    def _note(self, path: Path) -> None:
        self.suspects.add(path.name)

    def _rollups(
        self, path: Path, db: sqlite3.Connection, key: Key, field: str, start_ms: int, end_ms: int
    ) -> Iterator[Points]:
        rows = db.execute(
            queries.MINUTES, (*key, field, start_ms // MINUTE_MS, end_ms // MINUTE_MS)
        ).fetchall()
        if rows:
            table = np.array(rows, dtype=np.float64)  # NULL becomes NaN
            yield Points(
                table[:, 0] * MINUTE_MS, table[:, 1], table[:, 2], table[:, 3], table[:, 4], table[:, 5]
            )
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'chunk_sparse'").fetchone() is None:
            return  # a file of a release that wrote rollups of every chunk
        start_us, end_us = start_ms // MINUTE_MS * MINUTE_US, end_ms * 1000 + 999
        for _, late, *chunk in db.execute(queries.SPARSE_IN_SPAN, (*key, start_us, end_us)):
            found = self._read(path, chunk, (field,))
            if found is not None and field in found.columns:
                minutes = (found.times // MINUTE_US * MINUTE_MS).astype(np.float64)
                lates = np.full(len(minutes), float(_is_late(late)))
                yield Points.of_rows(minutes, as_floats(found.columns[field]), lates)

    def _reaches(self, path: Path, db: sqlite3.Connection, key: Key, start_ms: int, end_ms: int) -> bool:
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
            same = before[2] if number == before[1] else (queries.ALL if number < before[1] else 0)
            with self._guard(path):
                rows = db.execute(
                    queries.EVENTS, (node, device, before[0], before[0], same, kind, kind, limit)
                )
                for at, ts, recv, etype, sev, body in rows:
                    head = {"ts": ts, "recv": recv, "device": device, "type": etype, "sev": sev}
                    try:
                        found.append((ts, number, at, {**_event(body), **head}))
                    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError):
                        self._note(path)
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
        self._gaps = []
        for path, db in self._days():
            with self._guard(path):
                for _, _, *chunk in self._chunks(path, db, key, start_ms * 1000, end_ms * 1000 - 1):
                    found = self._read(path, chunk, None)
                    if found is not None:
                        table.add(found)
                    if len(table) > limit + CHUNK_ROWS:
                        raise TooManyRows(f"more than {limit:,} rows: ask for a shorter time")
        table.gaps = self._holes(start_ms, end_ms)
        return table.between(start_ms * 1000, end_ms * 1000)

    def streams(self, node: str) -> dict[str, set[str]]:
        """The stored streams of a node by device; a device that only has events has none."""
        found: dict[str, set[str]] = {}
        for path, db in self._days():
            with self._guard(path):
                for device, name in db.execute("SELECT device, name FROM stream WHERE node = ?", (node,)):
                    found.setdefault(device, set()).add(name)
                for (device,) in db.execute("SELECT DISTINCT device FROM event WHERE node = ?", (node,)):
                    found.setdefault(device, set())
        return found

    def newest(self, node: str) -> dict[str, dict[str, StoredStream]]:
        """What is stored of each device of a node, also of those that the node no longer declares."""
        found: dict[str, dict[str, StoredStream]] = {}
        for path, db in self._days():
            with self._guard(path):
                for device, name in db.execute("SELECT device, name FROM stream WHERE node = ?", (node,)):
                    streams = found.setdefault(device, {})
                    if name in streams:
                        continue  # a newer day has it
                    key = (node, device, name)
                    for _, _, *chunk in db.execute(queries.BEFORE, (*key, queries.ALL)):
                        if (head := self._tried(path, chunk, read_head)) is not None:
                            kinds = {field: kind for field, kind, _ in head.columns}
                            streams[name] = StoredStream(chunk[1] // 1000, kinds)
        return found

    def counts(self) -> dict[str, int]:
        """How many messages of each node the day files have, by their own sums."""
        found: dict[str, int] = {}
        for path, db in self._days():
            with self._guard(path):
                for node, n in messages_in(db).items():
                    found[node] = found.get(node, 0) + n
        return found

    def chunks(self, nodes: Collection[str] | None = None) -> Iterator[tuple[str, str, list[int], int]]:
        """`(node, ep, seqs, rows)` of every chunk, then of every event, of `nodes` or of all."""
        for path, db in self._days():
            with self._guard(path):
                rows = db.execute(
                    "SELECT node, ep, first_us, last_us, rows, body"
                    " FROM chunk JOIN stream ON stream.id = chunk.stream"
                )
                for node, ep, *chunk in rows:
                    if nodes is not None and node not in nodes:
                        continue
                    found = self._read(path, chunk, ())
                    if found is not None:
                        yield node, ep, [seq for seq, _ in found.head.messages], len(found.times)
                for node, ep, seq in db.execute("SELECT node, ep, seq FROM event"):
                    if nodes is None or node in nodes:
                        yield node, ep, [seq], 1

    def _days(self) -> Iterator[tuple[Path, sqlite3.Connection]]:
        """Every day file with a connection, the newest first; an unreadable one is noted and left out."""
        files = day_files(self._folder)
        names = {path.name for path in files}  # a damaged file that was rescued has its name again
        self.damaged = {path.name.removesuffix(".damaged") for path in aside(self._folder)} - names
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
        except sqlite3.Error as error:
            if isinstance(translate(error, path), Damaged):
                self.damaged.add(path.name)
                self._note(path)
            elif path.exists():
                raise
        except (WireError, msgspec.MsgspecError, TypeError, ValueError):
            self.damaged.add(path.name)  # a value of another type than was stored is damage, too
            self._note(path)

    def _connect(self, path: Path) -> sqlite3.Connection | None:
        db = self._open.get(path)
        if db is None:
            self._identities[path] = identity(path)
            db = connect(path)
            if version(db) == 0:  # being created now
                db.close()
                return None
            db.set_progress_handler(lambda: time.monotonic() > self.deadline, 20_000)
            self._lost[path] = Rescued()
            # damage: the rows are read all the same
            with suppress(sqlite3.DatabaseError, TypeError, ValueError):
                self._lost[path] = unreadable(db)
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


def _is_late(stored: object) -> int:
    """Whether rows are late; damage may have made something else of the column."""
    return stored & 1 if isinstance(stored, int) else 0


def _event(body: bytes) -> dict[str, Any]:
    """The body of an event; an earlier release stored some that nest deeper than an answer can."""
    found = msgspec.json.decode(body, type=dict[str, Any])
    if is_deep(found):
        found["detail"] = {"error": f"it nests more than {MAX_DEPTH} deep"}
    return found


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
