"""One SQLite file with everything received in one day: its schema, and its transactions."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from collector.store.chunk import HOUR_MS, Chunk, ChunkRows, Rollup, pack
from collector.store.day_schema import (
    APPLICATION,
    HOLE,
    PAGE_BYTES,
    SCHEMA,
    SPARSE,
    SQL_ERRORS,
    STATED,
    UNREADABLE,
    WITH_SEALS,
    Damaged,
    Displaced,
    Full,
    StoreBusy,
    check,
    identity,
    make_tables,
    raw_columns,
    read_saved,
    translate,
    version,
)
from collector.store.event_seal import COLUMNS, SEALED, seal
from collector.store.group import HEAD_BYTES, TOPIC_CHARS, EventRow, Group, Quarantined, Saved
from collector.store.landed import AT_ONCE, BODY_BYTES, RAW, UNDECODABLE, Landed, decoded, joined, landed_seal
from collector.store.marks import Account, encoded
from collector.store.removed import Pruned
from wire.errors import EdgebedError

log = logging.getLogger(__name__)
MAX_STREAMS = 300_000  # of all nodes, per day
MAX_FIELDS = 300_000  # different field names of all streams, per day
MAX_QUARANTINED = 10_000  # messages kept per day; further ones are only counted
NODE_QUARANTINED = 1_000  # of one node: its messages must not displace those of others
LOCKED_MS = 5_000  # a group waits so long for another program that has the file locked
PACKING_LOCKED_MS = 50  # likewise before rows are packed, which groups would wait for
ROLLUP_BYTES = 60  # about what a roll-up takes
_ADD_ROLLUP = """
INSERT INTO rollup VALUES (?,?,?,?,?,?,?,?) ON CONFLICT(stream, field, minute) DO UPDATE SET
    n = n + excluded.n, late = late + excluded.late, total = total + excluded.total,
    low = min(ifnull(low, excluded.low), ifnull(excluded.low, low)),
    high = max(ifnull(high, excluded.high), ifnull(excluded.high, high))"""
_ADD_RAW = f"INSERT INTO raw(stream, {RAW}, seal) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constants
_ADD_CHUNK = """
INSERT INTO chunk(stream, first_us, last_us, recv_ms, late, rows, ep, seq_a, seq_b, body)
    VALUES (?,?,?,?,?,?,?,?,?,?)"""
_ADD_HOUR = """
INSERT INTO hour VALUES (?,?,?,?,?,?) ON CONFLICT(stream, hour) DO UPDATE SET
    messages = messages + excluded.messages, rows = rows + excluded.rows,
    bytes = bytes + excluded.bytes, late = late + excluded.late"""
_ADD_EVENT = f"INSERT INTO event({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)"  # noqa: S608 - constants
_ADD_SEALED_EVENT = f"INSERT INTO event({SEALED}) VALUES (?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
_ADD_TOTAL = "INSERT INTO total VALUES (?,?) ON CONFLICT(key) DO UPDATE SET n = n + excluded.n"
_Rows = Mapping[int, Sequence[ChunkRows]]  # by stream


class DayFile:
    """The file being written, for one thread; an absent file is created with `saved` in it."""

    def __init__(
        self,
        path: Path,
        saved: Saved | None = None,
        sizes: Counter[str] | None = None,
        *,
        schema: int = SCHEMA,
    ) -> None:
        self.path = path
        self._schema = schema  # of a new file
        self._streams: dict[tuple[str, str, str], int] = {}
        self._fields: dict[str, int] = {}
        self._added: list[tuple[dict[Any, int], Any]] = []  # names in this transaction
        self._quarantined: Counter[str] = Counter()  # kept messages by node
        self._landed = Landed()
        self._sizes = Counter[str]() if sizes is None else sizes  # by how much each node's data grew
        # it took a group, or existed before: then an error comes from the file, not from the group
        self.is_proven = path.exists()
        self._db = self._open(saved)
        self._wal = path.with_name(f"{path.name}-wal")
        self._identity = identity(path), identity(self._wal)

    def _open(self, saved: Saved | None) -> sqlite3.Connection:
        db = None
        try:
            db = sqlite3.connect(
                self.path, timeout=LOCKED_MS / 1000, isolation_level=None, check_same_thread=False
            )
            check(db, self.path)
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA cache_size = -16000")
            db.execute("PRAGMA journal_size_limit = 33554432")
            if version(db) == 0:
                self._create(db, saved or Saved())
            self._schema = version(db)
            self._load_names(db)
            self._load_landed(db)
        except SQL_ERRORS as error:
            if db is not None:
                db.close()
            raise translate(error, self.path) from error
        except EdgebedError:
            if db is not None:
                db.close()
            raise
        return db

    def _create(self, db: sqlite3.Connection, saved: Saved) -> None:
        """Write schema and saved state in one transaction: a file is either complete or has version 0."""
        db.execute("BEGIN IMMEDIATE")
        make_tables(db, self._schema)
        _write_marks(db, saved.marks)
        db.executemany("INSERT INTO state VALUES (?,?)", saved.states.items())
        db.execute(_ADD_TOTAL, ("quarantined", saved.quarantined))
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {self._schema}")
        db.execute("COMMIT")

    def _load_names(self, db: sqlite3.Connection) -> None:
        self._streams = {
            (node, device, name): at for at, node, device, name in db.execute("SELECT * FROM stream")
        }
        self._fields = {name: at for at, name in db.execute("SELECT * FROM field")}
        self._quarantined = Counter(_base(topic) for (topic,) in db.execute("SELECT topic FROM quarantine"))

    def _load_landed(self, db: sqlite3.Connection) -> None:
        keys = {at: key for key, at in self._streams.items()}
        columns = raw_columns(self._schema)
        for stream, *row in db.execute(f"SELECT stream, {columns} FROM raw ORDER BY id"):  # noqa: S608
            try:
                rows = decoded(keys[stream], *row)
            except (KeyError, *UNDECODABLE) as error:
                log.warning("%s: a message cannot be read: %s", self.path.name, error)
                self._landed.stuck.add(stream)
            else:
                self._landed.add(stream, [rows], rows.recv_ms)
        for stream in self._landed.stuck:
            self._landed.forget(stream)

    def write(self, group: Group, chunks: Sequence[Chunk] = ()) -> None:
        """Write a group, and chunks, in one transaction; it is on disk when this returns.

        Rows land as they came, or are packed where that is worth it.

        Raises:
            StoreBusy: the same group can be written later.
            Damaged: this file is unusable.
            Full: the group names too many streams or fields.
        """
        with self._transaction():
            landing, packing = self._sorted(group.rows)
            self._land(landing)
            packed = self._pack(packing)
            self._write_chunks([(self._stream(chunk.rows.key), chunk) for chunk in chunks])
            kept = self._kept(group) if group.quarantine else []
            self._write(group, kept)
        self._note(landing, packed, group.at_ms)
        self._quarantined.update(_base(one.topic) for one in kept)
        self.is_proven = True

    def pack(self, now_ms: int, *, everything: bool = False) -> bool:
        """Pack rows that waited long enough, as many as a commit can wait for; whether there are more.

        Raises:
            StoreBusy: nothing changed; it can be done later.
            Damaged: this file is unusable.
        """
        due = list(self._landed.due(now_ms, everything=everything))
        if due:
            self._db.execute(f"PRAGMA busy_timeout = {PACKING_LOCKED_MS}")
            try:
                with self._transaction():
                    packed = self._pack(dict.fromkeys(due, ()))
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {LOCKED_MS}")
            self._note({}, packed, now_ms)
        return len(due) >= AT_ONCE or (everything and bool(self._landed))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(*SQL_ERRORS):  # the first error is the one to raise
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                for table, key in self._added:
                    table.pop(key, None)
                raise
            finally:
                self._added.clear()
        except SQL_ERRORS as error:
            raise translate(error, self.path) from error

    def confirm(self) -> bool:
        """Whether the file and its WAL are on their paths; what a WAL without a path holds is saved first.

        Raises:
            Displaced: the file itself was removed or replaced.
            StoreBusy: the WAL cannot be moved into the file now.
        """
        file, wal = self._identity
        if identity(self.path) != file:
            raise Displaced(f"{self.path.name} was removed or replaced while it was written")
        if wal is None or identity(self._wal) == wal:
            return True
        try:
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except SQL_ERRORS as error:
            raise translate(error, self.path) from error
        if busy:
            raise StoreBusy(f"{self.path} lost its -wal file and a reader still needs it")
        return False

    def _write(self, group: Group, kept: Iterable[Quarantined]) -> None:
        db = self._db
        self._write_events(group.events)
        if group.quarantine:
            self._write_quarantine(group, kept)
        _write_marks(db, group.marks)
        states = {**group.states, **group.custody}
        db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?,?)", [item for item in states.items() if item[1]]
        )
        db.executemany(
            "DELETE FROM state WHERE key = ?", [(key,) for key, body in states.items() if not body]
        )

    def _write_events(self, events: Iterable[EventRow]) -> None:
        rows: list[tuple[object, ...]] = []
        has_seals = self._schema >= WITH_SEALS
        for e in events:
            columns = (e.node, e.device, e.type, e.sev, e.ts, e.recv, e.ep, e.seq, e.body)
            rows.append((*columns, seal(columns) if e.seal is None else e.seal) if has_seals else columns)
        self._db.executemany(_ADD_SEALED_EVENT if has_seals else _ADD_EVENT, rows)

    def _sorted(self, several: Iterable[ChunkRows]) -> tuple[_Rows, _Rows]:
        """Rows by stream: those that land, and those that are packed at once."""
        streams: dict[int, list[ChunkRows]] = {}
        for rows in several:
            streams.setdefault(self._stream(rows.key), []).append(rows)
        landing: dict[int, Sequence[ChunkRows]] = {}
        packing: dict[int, Sequence[ChunkRows]] = {}
        is_full = self._landed.is_full()
        for stream, some in streams.items():
            (packing if is_full or self._landed.is_enough(stream, some) else landing)[stream] = some
        return landing, packing

    def _land(self, landing: _Rows) -> None:
        raw = []
        for stream, some in landing.items():
            for rows in some:
                for name in rows.columns:  # a day without room for a name refuses the message now
                    if name not in self._fields:
                        self._field(name)
                late, skew, error = int(rows.late), rows.offset.skew_ms, rows.offset.uncertainty_ms
                for (seq, count), body in zip(rows.messages, rows.bodies, strict=True):
                    columns = (rows.ep, seq, count, rows.recv_ms, late, skew, error, body)
                    raw.append((stream, *columns, landed_seal(rows.key, columns)))
        if raw:  # a file without seals gets no more
            self._db.executemany(_ADD_RAW, raw)

    def _pack(self, packing: _Rows) -> list[tuple[int, Chunk]]:
        """Write chunks of rows and of what waits of their streams, and remove that; the chunks."""
        packed: list[tuple[int, Chunk]] = []
        for stream, some in packing.items():
            packed += [(stream, chunk) for chunk in self._chunks(stream, some)]
        self._write_chunks(packed)
        waited = [(stream,) for stream in packing if self._landed.size(stream)]
        self._db.executemany("DELETE FROM raw WHERE stream = ?", waited)
        return packed

    def _chunks(self, stream: int, some: Sequence[ChunkRows]) -> list[Chunk]:
        waiting = self._landed.of(stream)
        if waiting:
            try:
                return [pack(rows) for rows in joined([*waiting, *some])]
            except Exception:
                log.exception("messages in %s cannot be packed: please report this", self.path.name)
                self._landed.forget(stream)  # they stay as they came; readers find them
                self._landed.stuck.add(stream)
        return [pack(rows) for rows in some]

    def _write_chunks(self, chunks: Iterable[tuple[int, Chunk]]) -> None:
        db = self._db
        bodies, rollups, hours = [], [], []
        for stream, chunk in chunks:
            rows = chunk.rows
            seqs = [seq for seq, _ in rows.messages]
            bodies.append(
                (stream, chunk.first_us, chunk.last_us, rows.recv_ms,
                 int(rows.late) + SPARSE * chunk.is_sparse, rows.count, rows.ep,
                 min(seqs), max(seqs), chunk.body)
            )  # fmt: skip
            rollups += [self._rollup(stream, one) for one in chunk.rollups]
            late = rows.count if rows.late else 0
            hours.append((stream, rows.recv_ms // HOUR_MS, len(seqs), rows.count, rows.size, late))
        db.executemany(_ADD_CHUNK, bodies)
        db.executemany(_ADD_ROLLUP, rollups)
        db.executemany(_ADD_HOUR, hours)

    def _note(self, landed: _Rows, packed: Iterable[tuple[int, Chunk]], at_ms: int) -> None:
        """Note what a transaction did. It raises nothing: the group would be stored again."""
        try:
            for stream, some in landed.items():
                self._landed.add(stream, some, at_ms)
                for rows in some:
                    self._sizes[rows.node] += rows.size + BODY_BYTES * len(rows.messages)
            for stream, chunk in packed:
                size = len(chunk.body) + ROLLUP_BYTES * len(chunk.rollups)
                self._sizes[chunk.rows.node] += size - self._landed.size(stream)
                self._landed.forget(stream)
        except Exception:  # such as no memory
            log.exception(
                "what waits in %s is packed after the next start: please report this", self.path.name
            )
            self._landed.give_up(landed)

    def _write_quarantine(self, group: Group, kept: Iterable[Quarantined]) -> None:
        self._db.executemany(
            "INSERT INTO quarantine(recv, topic, why, size, head) VALUES (?,?,?,?,?)",
            [
                (one.recv, one.topic[:TOPIC_CHARS], one.why[:500], one.size, one.head[:HEAD_BYTES])
                for one in kept
            ],
        )
        self._db.execute(_ADD_TOTAL, ("quarantined", len(group.quarantine)))

    def _kept(self, group: Group) -> list[Quarantined]:
        kept: list[Quarantined] = []
        room, nodes = MAX_QUARANTINED - self._quarantined.total(), self._quarantined.copy()
        for one in group.quarantine:
            nodes[_base(one.topic)] += 1
            if len(kept) < room and nodes[_base(one.topic)] <= NODE_QUARANTINED:
                kept.append(one)
        return kept

    def _stream(self, key: tuple[str, str, str]) -> int:
        found = self._streams.get(key)
        if found is None:
            if len(self._streams) >= MAX_STREAMS:
                raise Full(f"more than {MAX_STREAMS} streams in one day")
            cursor = self._db.execute("INSERT INTO stream(node, device, name) VALUES (?,?,?)", key)
            found = self._streams[key] = cursor.lastrowid or 0
            self._added.append((self._streams, key))
        return found

    def _rollup(self, stream: int, one: Rollup) -> tuple[object, ...]:
        field = self._fields.get(one.field) or self._field(one.field)
        return (stream, field, one.minute, one.n, one.low, one.high, one.total, one.late)

    def _field(self, name: str) -> int:
        """The id of a new name."""
        if len(self._fields) >= MAX_FIELDS:
            raise Full(f"more than {MAX_FIELDS} field names in one day")
        cursor = self._db.execute("INSERT INTO field(name) VALUES (?)", (name,))
        field = self._fields[name] = cursor.lastrowid or 0
        self._added.append((self._fields, name))
        return field

    def note_unreadable(self, rows: int, holes: Iterable[tuple[int, int]]) -> None:
        """Note what a rescue could not read, and when that was (ms)."""
        totals = {UNREADABLE: rows, **{f"{HOLE}{first}": last for first, last in holes}}
        self._db.executemany("INSERT OR REPLACE INTO total VALUES (?,?)", totals.items())

    def note_pruned(self, pruned: Iterable[Pruned]) -> None:
        """State what retention removed from this file."""
        states = [(f"{STATED}{one.key}", msgspec.json.encode(one)) for one in pruned]
        self._db.executemany("INSERT OR REPLACE INTO state VALUES (?,?)", states)

    def saved(self) -> Saved:
        """What the next file starts with."""
        try:
            return read_saved(self._db)
        except SQL_ERRORS as error:
            raise translate(error, self.path) from error
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise Damaged(f"{self.path.name}: {error}") from error

    def close(self) -> None:
        """Move the WAL into the file and close it; while a reader has it open, the WAL stays."""
        with suppress(sqlite3.Error):  # full disk or a reader: the next opening replays the WAL
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def abandon(self) -> None:
        """Close without writing to the file."""
        self._db.close()


def _base(topic: str) -> str:
    return "/".join(topic.split("/", 5)[:5])


def _write_marks(db: sqlite3.Connection, marks: Iterable[Account]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO mark VALUES (?,?,?)",
        [(mark.node, mark.ep, encoded(mark)) for mark in marks],
    )
