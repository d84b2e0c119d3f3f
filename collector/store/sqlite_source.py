"""`Source` on SQLite day files: the SQL of every question, on read-only connections."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from collector.store.chunk import MINUTE_US, Chunk, as_floats, pack, read_chunk, read_head
from collector.store.day_schema import (
    SPARSE,
    SQL_ERRORS,
    WITH_RAW,
    WITH_SEALS,
    Damaged,
    connect,
    event_columns,
    identity,
    messages_in,
    raw_columns,
    translate,
    version,
)
from collector.store.event_seal import SEALED, begins, is_changed, sealed_ms
from collector.store.folder import aside, day_files
from collector.store.group import Quarantined
from collector.store.landed import UNDECODABLE, decoded, joined
from collector.store.messages import Span, StoredMessage, messages_of
from collector.store.rescue import Rescued, damage, highest_id, readable, unreadable
from collector.store.series import Points
from collector.store.source import (
    ALL,
    CHANGED,
    MOST_CHANGED,
    ChangedEvent,
    Cursor,
    Hole,
    Key,
    StoredChunk,
    StoredNumbers,
    StoredStream,
    TooSlow,
)
from wire.errors import TryAgain, WireError
from wire.messages import MAX_DEPTH, is_deep

log = logging.getLogger(__name__)

T = TypeVar("T")

OPEN_FILES = 32  # per source
MINUTE_MS = 60_000

_EVENTS = """
SELECT id, %s FROM event INDEXED BY event_by_time
WHERE node = ? AND device = ? AND ts >= ? AND ts <= ? AND (ts < ? OR id < ?) AND (? = '' OR type = ?)
ORDER BY ts DESC, id DESC LIMIT ?"""
# What was of a place and time when it was stored, and what is of it now. NULL and text are below all blobs.
_SEALED_THERE = f"""
SELECT {SEALED} FROM event INDEXED BY event_by_seal WHERE seal >= ?6 AND seal < ?7 UNION ALL
SELECT {SEALED} FROM event INDEXED BY event_by_time
    WHERE node = ?1 AND device = ?2 AND type = ?3 AND ts >= ?4 AND ts < ?5
    AND (seal < ?6 OR seal >= ?7) UNION ALL
SELECT {SEALED} FROM event INDEXED BY event_by_seal
    WHERE seal IS NULL AND node = ?1 AND device = ?2 AND type = ?3 UNION ALL
SELECT {SEALED} FROM event INDEXED BY event_by_seal
    WHERE seal < x'' AND node = ?1 AND device = ?2 AND type = ?3"""  # noqa: S608 - constants
# the same without an index
_SEALED_ANYWHERE = f"""
SELECT {SEALED} FROM event NOT INDEXED WHERE (seal >= ?6 AND seal < ?7)
    OR (node = ?1 AND device = ?2 AND type = ?3 AND ((ts >= ?4 AND ts < ?5) OR typeof(seal) <> 'blob'))
ORDER BY seal"""  # noqa: S608 - constants
_EVENT_COUNTS = """
SELECT type, (ts - ?) / ?, count(*) FROM event INDEXED BY event_by_time
WHERE node = ? AND device = ? AND ts >= ? AND ts < ? GROUP BY 1, 2"""
_STREAM = "stream = (SELECT id FROM stream WHERE node = ?1 AND device = ?2 AND name = ?3)"
_CHUNK = "ep, late, first_us, last_us, rows, body"
_SPAN = f"{_STREAM} AND last_us >= ? AND first_us < ?"
# A statement sees the file at one moment, and rows are packed meanwhile: what waits to be packed is asked for
# in the same one. It comes first and has no id; all parts have ten columns.
_WAITING = f"SELECT NULL, %s FROM raw WHERE {_STREAM} UNION ALL "  # noqa: S608 - constants, also below
_REACH = f"SELECT min(first_us), max(last_us) FROM chunk WHERE {_STREAM}"  # noqa: S608
_HAS_RAW = f"SELECT 1 FROM raw WHERE {_STREAM} LIMIT 1"  # noqa: S608
_ROWS = f"SELECT 0, total(rows), 0, 0, 0, 0, 0, 0, 0, 0 FROM chunk WHERE {_SPAN}"  # noqa: S608
_IN_SPAN = f"SELECT id, {_CHUNK}, 0, 0, 0 FROM chunk WHERE {_SPAN}"  # noqa: S608
_MINUTES = (
    f"SELECT 0, minute, n, total, low, high, late, 0, 0, 0 FROM rollup WHERE {_STREAM}"  # noqa: S608
    " AND field = (SELECT id FROM field WHERE name = ?) AND minute BETWEEN ? AND ?"
)
_SPARSE_IN_SPAN = (
    f" UNION ALL SELECT id, {_CHUNK}, 0, 0, 0 FROM chunk INDEXED BY chunk_sparse"  # noqa: S608
    f" WHERE late >= {SPARSE} AND {_SPAN}"
)
_BY_ID = f"SELECT id, {_CHUNK} FROM chunk NOT INDEXED WHERE {_SPAN} AND id BETWEEN ? AND ?"  # noqa: S608
_RAW_BY_ID = f"SELECT %s FROM raw NOT INDEXED WHERE {_STREAM} AND id BETWEEN ? AND ?"  # noqa: S608
_BEFORE = (
    f"SELECT {_CHUNK} FROM chunk WHERE {_STREAM} AND last_us < ?"  # noqa: S608
    " ORDER BY last_us DESC LIMIT 1"
)
_NEWEST = f"SELECT 0, {_CHUNK}, 0, 0, 0 FROM ({_BEFORE})"  # noqa: S608
_AFTER = (
    f"SELECT {_CHUNK} FROM chunk WHERE {_STREAM} AND last_us >= ?4 AND first_us >= ?4"  # noqa: S608
    " ORDER BY last_us LIMIT 1"
)
_NUMBERS = "SELECT node, ep, first_us, last_us, rows, body FROM chunk JOIN stream ON stream.id = chunk.stream"
_RAW_NUMBERS = (
    "SELECT node, ep, NULL, seq, rows, NULL FROM raw JOIN stream ON stream.id = raw.stream UNION ALL "
)


_UNDER = (  # ?1: JSON of how a topic may begin, NULL for all
    "?1 IS NULL OR EXISTS (SELECT 1 FROM json_each(?1) WHERE substr(topic, 1, length(value)) = value)"
)
_COUNT_QUARANTINED = f"SELECT count(*) FROM quarantine WHERE {_UNDER}"  # noqa: S608 - a constant
_QUARANTINED = f"SELECT recv, topic, why, size, head FROM quarantine WHERE {_UNDER} ORDER BY id DESC LIMIT ?2"  # noqa: S608


_TOO_SLOW = "the question took too long: ask for a shorter time"


class SqliteSource:
    """Read-only connections to the day files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.deadline = math.inf
        self.damaged: set[str] = set()  # files that gave nothing
        self.suspects: set[str] = set()  # files that gave less than they should
        self.changed: Counter[str] = Counter()
        self._folder = folder.absolute()
        self._is_closed = False
        self._newest: Path | None = None
        self._open: OrderedDict[Path, sqlite3.Connection] = OrderedDict()
        self._lost: dict[Path, Rescued] = {}  # what these lost when they were rescued
        self._identities: dict[Path, tuple[int, int] | None] = {}  # of the files that were opened
        self._reach: dict[Path, dict[Key, tuple[Any, Any]]] = {}  # of streams that were asked for

    def rows_between(self, key: Key, start_us: int, end_us: int) -> float:
        """The sum over all files."""
        total = 0.0
        for path, db in self._days((key, start_us, end_us)):
            with self._guard(path):
                landed, _, found = self._ask(path, db, _ROWS, key, start_us, end_us)
                total += sum(rows for _, rows, *_ in found)
                total += sum(one.rows.count for one in landed if _is_within(one, start_us, end_us))
        return total

    def chunks_between(
        self,
        key: Key,
        start_us: int,
        end_us: int,
        *,
        names: Collection[str] | None = None,
        beside: bool = False,
    ) -> Iterator[StoredChunk | Hole]:
        """The chunks of each file, the newest file first, then what files do not give."""
        for path, db in self._days((key, start_us, end_us)):
            with self._guard(path):
                yield from self._chunks(path, db, (key, start_us, end_us), names, beside=beside)
                if beside:
                    yield from self._chunks_beside(path, db, key, start_us, end_us)
        yield from self._known_holes()

    def _ask(
        self, path: Path, db: sqlite3.Connection, query: str, key: Key, *rest: Any
    ) -> tuple[list[Chunk], list[Hole], Iterator[tuple[Any, ...]]]:
        """Chunks of what waits to be packed, what cannot be read of it, and the rows of a query beside it."""
        if (schema := version(db)) < WITH_RAW:
            return [], [], db.execute(query, (*key, *rest))
        rows = db.execute(_WAITING % raw_columns(schema) + query, (*key, *rest))
        waiting, other = [], []
        for row in rows:
            if row[0] is not None:
                other.append(row)
                break
            waiting.append(row[1:])
        return *self._landed(path, key, waiting), chain(other, rows)

    def _landed(
        self, path: Path, key: Key, waiting: Iterable[Sequence[Any]]
    ) -> tuple[list[Chunk], list[Hole]]:
        found, holes = [], []
        for row in waiting:
            try:
                found.append(decoded(key, *row))
            except UNDECODABLE as error:
                log.warning("%s: %s", path.name, error)
                self.suspects.add(path.name)
                _, _, count, at_ms, *_ = row
                at_ms = at_ms if isinstance(at_ms, int) else 0
                holes.append(
                    Hole(at_ms, at_ms, f"day file {path.name} is damaged: {count} rows cannot be read")
                )
        return [pack(rows) for rows in joined(found)], holes

    def _chunks(
        self,
        path: Path,
        db: sqlite3.Connection,
        span: tuple[Key, int, int],
        names: Collection[str] | None,
        *,
        beside: bool,
    ) -> Iterator[StoredChunk | Hole]:
        """The chunks of one file in a span; all that a damaged file gives."""
        key, start_us, end_us = span
        seen: set[int] = set()
        has_waiting = version(db) >= WITH_RAW
        try:
            landed, holes, rows = self._ask(path, db, _IN_SPAN, *span)
            has_waiting = False
            yield from self._among(path, landed, holes, span, names, beside=beside)
            for at, *row in rows:
                seen.add(at)
                yield self._stored(path, row[:6], names)
        except SQL_ERRORS as error:
            if not isinstance(translate(error, path), Damaged):
                raise
            self.suspects.add(path.name)
            yield Hole(start_us // 1000, (end_us - 1) // 1000, damage(path.name, 0))
            if has_waiting:
                query = _RAW_BY_ID % raw_columns(version(db))
                found = readable(db, query, key, highest_id(db, "raw"))
                yield from self._among(path, *self._landed(path, key, found), span, names, beside=beside)
            for at, *row in readable(db, _BY_ID, (*key, start_us, end_us), highest_id(db, "chunk")):
                if at not in seen:
                    yield self._stored(path, row, names)

    def _among(
        self,
        path: Path,
        landed: Iterable[Chunk],
        holes: Iterable[Hole],
        span: tuple[Key, int, int],
        names: Collection[str] | None,
        *,
        beside: bool,
    ) -> Iterator[StoredChunk | Hole]:
        """Those of the landed chunks that are in a span, or also the others."""
        yield from holes
        for one in landed:
            if _is_within(one, *span[1:]):
                yield self._stored(path, _row(one), names)
            elif beside:
                yield self._stored(path, _row(one), (), is_beside=True)

    def _chunks_beside(
        self, path: Path, db: sqlite3.Connection, key: Key, start_us: int, end_us: int
    ) -> Iterator[StoredChunk | Hole]:
        with suppress(sqlite3.DatabaseError):  # damage: the span itself is read all the same
            for query, at_us in ((_BEFORE, start_us), (_AFTER, end_us)):
                for row in db.execute(query, (*key, at_us)):
                    yield self._stored(path, row, (), is_beside=True)

    def _stored(
        self, path: Path, row: Sequence[Any], names: Collection[str] | None, *, is_beside: bool = False
    ) -> StoredChunk | Hole:
        ep, late, *chunk = row
        content = self._tried(path, chunk, lambda body, rows: read_chunk(body, names, rows))
        # damage may have made something else of `late`
        is_late = isinstance(late, int) and bool(late & 1)
        return content if isinstance(content, Hole) else StoredChunk(ep, is_late, is_beside, content)

    def _tried(self, path: Path, chunk: Sequence[Any], read: Callable[[bytes, int], T]) -> T | Hole:
        first_us, last_us, rows, body = chunk
        try:
            return read(body, rows)
        except (WireError, TypeError) as error:  # a type: damage made another one of the column
            log.warning("%s: %s", path.name, error)
        self.suspects.add(path.name)
        why = f"day file {path.name} is damaged: {rows} rows cannot be read"
        if isinstance(first_us, int) and isinstance(last_us, int) and isinstance(rows, int):
            return Hole(first_us // 1000, last_us // 1000, why)
        return Hole(0, -1, why)  # when is not known: an empty span

    def _known_holes(self) -> Iterator[Hole]:
        """What a rescue could not read, and files that give nothing."""
        for path, lost in list(self._lost.items()):
            why = damage(path.name, lost.unreadable)
            yield from (Hole(first, last, why) for first, last in lost.holes)
        yield from (Hole(-ALL, ALL, damage(name, 0)) for name in sorted(self.damaged))

    def rollups_between(self, key: Key, field: str, start_us: int, end_us: int) -> Iterator[Points | Hole]:
        """The rollups of each file, the newest file first, then those made here of chunks without rollups."""
        first, last = start_us // MINUTE_US, (end_us - 1) // MINUTE_US
        for path, db in self._days((key, start_us, end_us)):
            with self._guard(path):
                span = first * MINUTE_US, end_us
                asked = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'chunk_sparse'").fetchone()
                # without it: a file of a release that wrote rollups of every chunk
                query, rest = (_MINUTES + _SPARSE_IN_SPAN, span) if asked else (_MINUTES, ())
                landed, holes, found = self._ask(path, db, query, key, field, first, last, *rest)
                yield from holes
                sparse = [_row(one) for one in landed if one.is_sparse and _is_within(one, *span)]
                rows = [
                    (each.minute, each.n, each.total, each.low, each.high, each.late)
                    for one in landed
                    for each in one.rollups
                    if each.field == field and first <= each.minute <= last
                ]
                for at, *row in found:
                    (sparse if at else rows).append(tuple(row[:6]))
                if rows:
                    minutes, *sums = np.array(rows, dtype=np.float64).T  # NULL becomes NaN
                    yield Points(minutes * MINUTE_MS, *sums)
                for each in sparse:
                    chunk = self._stored(path, each, (field,))
                    if isinstance(chunk, Hole):
                        yield chunk
                    elif field in chunk.content.columns:
                        yield _by_minute(chunk, field)
        yield from self._known_holes()

    def _reaches(self, path: Path, span: tuple[Key, int, int]) -> bool:
        """Whether a day may have rows of a stream near a span; False is only said of a finished one."""
        key, start_us, end_us = span
        known = self._reach.get(path, {})
        if path == self._newest or key not in known:
            return True
        first, last = known[key]
        if not isinstance(first, int) or not isinstance(last, int):
            return first is not None  # damage; None: no rows
        return first < end_us + MINUTE_US and last >= start_us - MINUTE_US

    def _note_reach(self, path: Path, db: sqlite3.Connection, key: Key) -> None:
        """Note from when to when a finished day has rows of a stream, unless some wait to be packed."""
        known = self._reach.setdefault(path, {})
        if path == self._newest or key in known:
            return
        try:
            if version(db) < WITH_RAW or not db.execute(_HAS_RAW, key).fetchone():
                known[key] = db.execute(_REACH, key).fetchone()
        except SQL_ERRORS as error:
            if not isinstance(translate(error, path), Damaged):
                raise  # what a damaged file still gives is read

    def events(
        self,
        node: str,
        device: str,
        *,
        limit: int,
        before: Cursor,
        kind: str = "",
        since_ms: float = -math.inf,
    ) -> list[tuple[str, dict[str, Any]]]:
        """A cursor is `(ts, file, id)`."""
        found: list[tuple[int, str, int, dict[str, Any]]] = []
        for path, db in self._days():
            number = path.name[:6]
            # with the cursor's own time, only events before it in its file, and all in older files
            same = before[2] if number == before[1] else (ALL if number < before[1] else 0)
            with self._guard(path):
                asked = (node, device, since_ms, before[0], before[0], same, kind, kind, limit)
                for at, *row in db.execute(_EVENTS % event_columns(version(db)), asked):
                    _, _, etype, sev, ts, recv, ep, seq, body, *_ = row
                    head = {"ts": ts, "recv": recv, "device": device, "type": etype, "sev": sev}
                    head |= {"ep": ep, "seq": seq, **({CHANGED: True} if is_changed(row) else {})}
                    try:
                        found.append((ts, number, at, {**_event(body), **head}))
                    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError):
                        self.suspects.add(path.name)
        found.sort(key=lambda one: one[:3], reverse=True)
        # damage may have made a float of a time
        return [(f"{int(max(ts, -ALL))}.{number}.{at}", event) for ts, number, at, event in found[:limit]]

    def changed_events(
        self, place: Key, start_ms: int, end_ms: int, most: int = MOST_CHANGED
    ) -> list[ChangedEvent]:
        """By the index of the seals, and by that of the columns; by neither where one cannot be used."""
        found = set[ChangedEvent]()
        asked = (*place, start_ms, end_ms, *(begins(*place, max(0, each)) for each in (start_ms, end_ms)))
        for path, db in self._days():
            with self._guard(path):
                for row, is_copy in self._sealed(path, db, asked) if version(db) >= WITH_SEALS else ():
                    if is_changed(row) and len(found) < most:
                        found.add(ChangedEvent(_times_of(row, place), path.name))
                    elif is_copy:  # it may replace any event
                        found.add(ChangedEvent((), path.name))
        if len(found) == most:  # there may be more
            found.add(ChangedEvent((), "several files"))
        return sorted(found)

    def _sealed(
        self, path: Path, db: sqlite3.Connection, asked: tuple[Any, ...]
    ) -> Iterator[tuple[tuple[Any, ...], bool]]:
        """The events of a place in the order of their seals, and whether each is a copy of the one before.

        Where an index is missing or damaged, all events are read: some come a second time.
        """
        for query in (_SEALED_THERE, _SEALED_ANYWHERE):
            before = None
            try:
                for row in db.execute(query, asked):
                    yield row, row == before
                    before = row
            except SQL_ERRORS as error:
                if query == _SEALED_ANYWHERE or not isinstance(translate(error, path), Damaged):
                    raise
                log.warning("%s: an index cannot be used, all events are read: %s", path.name, error)
            else:
                return

    def event_counts(
        self, node: str, device: str, start_ms: int, end_ms: int, step_ms: int
    ) -> dict[str, dict[int, int]]:
        """From the index of each file alone."""
        found: dict[str, dict[int, int]] = {}
        for path, db in self._days():
            with self._guard(path):
                asked = (start_ms, step_ms, node, device, start_ms, end_ms)
                for kind, step, count in db.execute(_EVENT_COUNTS, asked):
                    steps = found.setdefault(kind, {})
                    steps[step] = steps.get(step, 0) + count
        return found

    def quarantine(self, limit: int, under: Collection[str] | None = None) -> tuple[int, list[Quarantined]]:
        """From the newest files; the count of `under` is of the messages that are kept."""
        total, items = 0, list[Quarantined]()
        begins = None if under is None else json.dumps(list(under))
        for path, db in self._days():
            with self._guard(path):
                if begins is None:
                    row = db.execute("SELECT n FROM total WHERE key = 'quarantined'").fetchone()
                    total = max(total, row[0] if row else 0)
                else:
                    total += db.execute(_COUNT_QUARANTINED, (begins,)).fetchone()[0]
                if len(items) < limit:
                    rows = db.execute(_QUARANTINED, (begins, limit - len(items)))
                    items += [Quarantined(*row) for row in rows]
        return total, items

    def streams(self, node: str) -> dict[str, set[str]]:
        """From the names in each file."""
        found: dict[str, set[str]] = {}
        for path, db in self._days():
            with self._guard(path):
                for device, name in db.execute("SELECT device, name FROM stream WHERE node = ?", (node,)):
                    found.setdefault(device, set()).add(name)
                for (device,) in db.execute("SELECT DISTINCT device FROM event WHERE node = ?", (node,)):
                    found.setdefault(device, set())
        return found

    def newest(self, node: str) -> dict[str, dict[str, StoredStream]]:
        """From the newest file that has the stream and whose chunk can be read."""
        found: dict[str, dict[str, StoredStream]] = {}
        for path, db in self._days():
            with self._guard(path):
                for device, name in db.execute("SELECT device, name FROM stream WHERE node = ?", (node,)):
                    streams = found.setdefault(device, {})
                    if name in streams:
                        continue  # a newer day has it
                    landed, _, found_rows = self._ask(path, db, _NEWEST, (node, device, name), ALL)
                    rows = [*map(_row, landed), *(row[1:7] for row in found_rows)]
                    for _, _, *chunk in sorted(rows, key=_last_us)[-1:]:
                        head = self._tried(path, chunk, read_head)
                        if not isinstance(head, Hole):
                            kinds = {field: kind for field, kind, _ in head.columns}
                            streams[name] = StoredStream(chunk[1] // 1000, kinds)
        return found

    def counts(self) -> dict[str, int]:
        """From the sums in each file."""
        found: dict[str, int] = {}
        for path, db in self._days():
            with self._guard(path):
                for node, n in messages_in(db).items():
                    found[node] = found.get(node, 0) + n
        return found

    def all_chunks(self, nodes: Collection[str] | None = None) -> Iterator[StoredNumbers]:
        """Of each file, the newest file first: its chunks, then its events."""
        for path, db in self._days():
            with self._guard(path):
                query = (_RAW_NUMBERS if version(db) >= WITH_RAW else "") + _NUMBERS
                for node, ep, *chunk in db.execute(query):
                    if nodes is not None and node not in nodes:
                        continue
                    if chunk[0] is None:  # it waits to be packed
                        yield StoredNumbers(node, ep, [chunk[1]], chunk[2])
                        continue
                    found = self._tried(path, chunk, lambda body, rows: read_chunk(body, (), rows))
                    if not isinstance(found, Hole):
                        seqs = [seq for seq, _ in found.head.messages]
                        yield StoredNumbers(node, ep, seqs, len(found.times))
                for row in db.execute(f"SELECT {event_columns(version(db))} FROM event"):  # noqa: S608
                    self.changed[path.name] += is_changed(row)
                    node, _, _, _, _, _, ep, seq, *_ = row
                    if nodes is None or node in nodes:
                        yield StoredNumbers(node, ep, [seq], 1)

    def messages(self, span: Span) -> Iterator[StoredMessage]:
        """Of each file, the newest file first."""
        for path, db in self._days():
            with self._guard(path):

                def damaged(error: Exception, path: Path = path) -> None:
                    log.warning("%s: %s", path.name, error)
                    self.suspects.add(path.name)

                yield from messages_of(db, span, damaged=damaged)

    def _days(self, near: tuple[Key, int, int] | None = None) -> Iterator[tuple[Path, sqlite3.Connection]]:
        """Every day file with a connection, the newest first; an unreadable one is noted and left out.

        With `near`, a stream and a span in us, those without rows there are left out too.
        """
        if self._is_closed:
            raise TryAgain("the store was closed: ask again when the collector runs")
        if time.monotonic() > self.deadline:  # short questions do not ask the progress handler
            raise TooSlow(_TOO_SLOW)
        files = day_files(self._folder)
        names = {path.name for path in files}  # a damaged file that was rescued has its name again
        self.damaged = {path.name.removesuffix(".damaged") for path in aside(self._folder)} - names
        self._newest = files[-1] if files else None
        for path in list(self._identities):
            if identity(path) != self._identities[path]:
                self._forget(path)
        for path in reversed(files):
            if near is not None and not self._reaches(path, near):
                continue  # it is not opened: a store may have more days than are open
            with self._guard(path):
                db = self._connect(path)
                if db is not None and near is not None:
                    self._note_reach(path, db, near[0])
                if db is not None and (near is None or self._reaches(path, near)):
                    yield path, db

    @contextmanager
    def _guard(self, path: Path) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(translate(error, path), Damaged):
                self.damaged.add(path.name)
                self.suspects.add(path.name)
            elif getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise TooSlow(_TOO_SLOW) from error
            elif path.exists():
                raise TryAgain(f"the store cannot be read now: {error}") from error
        except (WireError, msgspec.MsgspecError, TypeError, ValueError):
            self.damaged.add(path.name)  # a value of another type than was stored is damage, too
            self.suspects.add(path.name)

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

    def _forget(self, path: Path) -> None:
        """Forget a file that was removed or replaced: closing it frees its space."""
        del self._identities[path]
        self._reach.pop(path, None)
        self._lost.pop(path, None)
        if (db := self._open.pop(path, None)) is not None:
            db.close()

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        for db in self._open.values():
            db.close()
        self._open.clear()


def _times_of(row: Sequence[Any], place: Key) -> tuple[int, ...]:
    """When a changed event was at a place, by its seal and by its columns; none if that is not known."""
    *columns, stored = row
    found = [sealed_ms(stored, *place)]
    if tuple(columns[:3]) == place:
        if not isinstance(stored, bytes):
            return ()  # its time may have been changed, too
        found += [columns[4]] if isinstance(columns[4], int) else []
    return tuple(sorted({each for each in found if each is not None}))


def _last_us(row: Sequence[Any]) -> int:
    return row[3] if isinstance(row[3], int) else 0  # damage


def _is_within(one: Chunk, start_us: int, end_us: int) -> bool:
    return one.last_us >= start_us and one.first_us < end_us


def _row(one: Chunk) -> tuple[Any, ...]:
    """What `_CHUNK` would give of it."""
    return one.rows.ep, int(one.rows.late), one.first_us, one.last_us, one.rows.count, one.body


def _by_minute(found: StoredChunk, field: str) -> Points:
    times = found.content.times
    minutes = (times // MINUTE_US * MINUTE_MS).astype(np.float64)
    late = np.full(len(minutes), float(found.is_late))
    return Points.of_rows(minutes, as_floats(found.content.columns[field]), late)


def _event(body: bytes) -> dict[str, Any]:
    """The body of an event; an earlier release stored some that nest deeper than an answer can."""
    found = msgspec.json.decode(body, type=dict[str, Any])
    if is_deep(found):
        found["detail"] = {"error": f"it nests more than {MAX_DEPTH} deep"}
    return found
