"""Writes a day file that ended again without what retention removes, and puts it in the place of the old one.

The new file is written beside the old one, in pieces, and is on disk before it takes the name. It states
what was removed, so rows and statement change in one step.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from collector.store.day_file import ROLLUP_BYTES
from collector.store.day_schema import (
    APPLICATION,
    PAGE_BYTES,
    SQL_ERRORS,
    STATED,
    WITH_RAW,
    Damaged,
    StoreBusy,
    connect,
    event_columns,
    has_landed,
    make_tables,
    messages_in,
    parts,
    remove,
    translate,
    version,
)
from collector.store.landed import BODY_BYTES
from collector.store.pruned import numbered, numbers_of, stated_in
from collector.store.removed import joined
from collector.store.retention import Class
from collector.store.snapshot import BLOCK, Step
from wire.custody import CUSTODY
from wire.errors import WireError
from wire.folder_sync import sync_folder

SUFFIX = ".prune"  # of a file that is being written
PIECE = 500  # rows that one statement copies at most; between two pauses it is `BLOCK` bytes
ROOM_BYTES = 64 * 1024 * 1024  # that stay free on the disk
ROW_BYTES = 120  # about what a row takes besides its body

_SIZES = (
    "SELECT node, total(length(body) + :row) FROM chunk JOIN stream ON stream.id = chunk.stream GROUP BY 1",
    "SELECT node, :rollup * count(*) FROM rollup JOIN stream ON stream.id = rollup.stream GROUP BY 1",
    "SELECT node, total(length(body) + :row) FROM event GROUP BY 1",
    "SELECT node, total(length(body) + :landed) FROM raw JOIN stream ON stream.id = raw.stream GROUP BY 1",
)

_EACH = {"row": ROW_BYTES, "rollup": ROLLUP_BYTES, "landed": BODY_BYTES}

Due = Callable[[str, Class], bool]  # whether what a node has of a class goes


@dataclass(slots=True)
class Leaving:
    """What goes from one day file."""

    streams: set[int] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)  # whose events go, except signed statements
    quarantine: set[int] = field(default_factory=set)
    sizes: dict[tuple[str, Class], tuple[int, int]] = field(default_factory=dict)  # things, bytes

    def __bool__(self) -> bool:
        return bool(self.sizes)

    @property
    def bytes(self) -> int:
        """About how many bytes that is."""
        return sum(size for _, size in self.sizes.values())

    def by_tenant(self) -> dict[tuple[str, Class], int]:
        """Bytes by tenant and class."""
        found: Counter[tuple[str, Class]] = Counter()
        for (node, cls), (_, size) in self.sizes.items():
            found[(node.partition("/")[0], cls)] += size
        return found

    def add(self, owner: str, cls: Class, count: int, size: int) -> None:
        """Note things of a node, or of a tenant where no node is known."""
        known = self.sizes.get((owner, cls), (0, 0))
        self.sizes[(owner, cls)] = (known[0] + count, known[1] + size)


def leaving(db: sqlite3.Connection, due: Due) -> Leaving:
    """What is due in an open day file.

    Raises:
        sqlite3.Error: damage.
    """
    found = Leaving()
    streams = [(at, node) for at, node in db.execute("SELECT id, node FROM stream") if due(node, "data")]
    for at, node in streams:
        query = "SELECT count(*), total(length(body)) FROM chunk INDEXED BY chunk_by_time WHERE stream = ?"
        count, size = db.execute(query, (at,)).fetchone()
        if count:
            found.streams.add(at)
            found.add(node, "data", count, int(size) + ROW_BYTES * count)
    for (node,) in db.execute("SELECT DISTINCT node FROM event").fetchall():
        if not due(node, "event"):
            continue
        query = "SELECT count(*), total(length(body)) FROM event WHERE node = ? AND type <> ?"
        count, size = db.execute(query, (node, CUSTODY)).fetchone()
        if count:
            found.nodes.add(node)
            found.add(node, "event", count, int(size) + ROW_BYTES * count)
    for at, topic, size in db.execute("SELECT id, topic, length(head) FROM quarantine"):
        node = "/".join(topic.split("/")[1:5])
        if due(node, "quarantine"):
            found.quarantine.add(at)
            found.add(node, "quarantine", 1, size + ROW_BYTES)
    return found


def planned(path: Path, due: Due) -> Leaving:
    """What is due in a day file.

    Raises:
        Damaged, StoreError: it cannot be used.
        StoreBusy: it is locked, or rows in it wait to be packed.
    """
    try:
        with closing(connect(path)) as db:
            if has_landed(db):
                raise StoreBusy(f"messages in {path.name} wait to be packed")
            return leaving(db, due)
    except SQL_ERRORS as error:
        raise translate(error, path) from error


def bytes_in(path: Path) -> dict[str, int]:
    """About how many bytes of a day file each node's data and events take.

    Raises:
        Damaged, StoreError: it cannot be used.
        StoreBusy: it is locked.
    """
    found: Counter[str] = Counter()
    try:
        with closing(connect(path)) as db:
            for query in _SIZES if version(db) >= WITH_RAW else _SIZES[:-1]:
                for node, size in db.execute(query, _EACH):
                    found[node] += int(size)
    except SQL_ERRORS as error:
        raise translate(error, path) from error
    return found


def rewrite(path: Path, gone: Leaving, day: str, step: Step) -> Path:
    """A new file beside `path`, on disk, without what is `gone`; its statement has what was removed on `day`.

    Raises:
        Damaged: the day file cannot be read.
        StoreBusy: the disk has no room.
        Stopped: `step` was stopped; nothing of the work stays.
    """
    work = path.with_suffix(SUFFIX)
    remove(work)
    size = path.stat().st_size
    room = shutil.disk_usage(path.parent).free
    if room < max(0, size - gone.bytes) + ROOM_BYTES:
        raise StoreBusy(f"{path.name} needs {size + ROOM_BYTES >> 20} MB of free disk to be pruned")
    try:
        with closing(sqlite3.connect(work, isolation_level=None, uri=True)) as db:
            _Copying(db, path, work, gone, step).run(day)
        shutil.copymode(path, work)
        _sync(work)
    except SQL_ERRORS as error:
        remove(work)
        raise translate(error, path) from error
    except (WireError, msgspec.MsgspecError, TypeError, ValueError) as error:
        remove(work)
        raise Damaged(f"{path.name}: {error}") from error
    except BaseException:
        remove(work)
        raise
    return work


def settled(path: Path) -> bool:
    """Whether all of an ended day file is in the file itself; moves into it what its log still holds."""
    log = parts(path)[0]
    if _size(log):
        with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=1.0)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return not _size(log)


def place(work: Path, path: Path) -> None:
    """Put a written file in the place of a day file; who has the old one open goes on reading it.

    SQLite finds the log by the name, so the old one, which is empty, goes first. Who opens the old file in
    between makes an empty one.

    Raises:
        OSError: the disk fails; the old or the new file is there.
    """
    beside = parts(path)[:-1]
    for part in beside:
        part.unlink(missing_ok=True)
    work.replace(path)
    for part in beside:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Copying:
    """One day file that is written again; the old one does not change meanwhile."""

    def __init__(self, db: sqlite3.Connection, path: Path, work: Path, gone: Leaving, step: Step) -> None:
        self._db = db
        self._path = path
        self._work = work
        self._gone = gone
        self._step = step
        self._written = 0
        self._schema = WITH_RAW

    def run(self, day: str) -> None:
        db = self._db
        # no journal: a file that is not whole has version 0 and is not read
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -16000")
        db.execute("ATTACH ? AS old", (f"{self._path.absolute().as_uri()}?mode=ro",))
        # events without seals must not look like events whose seals were removed
        with closing(connect(self._path)) as old:
            self._schema = max(WITH_RAW, version(old))
        make_tables(db, self._schema)
        db.execute("PRAGMA temp_store = MEMORY")
        self._mark_leaving()
        pruned = numbered(day, self._numbers())
        self._copy_all()
        db.execute("DETACH old")
        with closing(connect(self._path)) as old:
            self._check(messages_in(old), sum(one.messages for one in pruned))
            stated = joined((*stated_in(old), *pruned))
        db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?,?)",
            [(f"{STATED}{one.key}", msgspec.json.encode(one)) for one in stated],
        )
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {self._schema}")

    def _mark_leaving(self) -> None:
        db = self._db
        for name, kind in (("gone_stream", "INTEGER"), ("gone_node", "TEXT"), ("gone_bad", "INTEGER")):
            db.execute(f"CREATE TEMP TABLE {name}(id {kind} PRIMARY KEY)")
        db.executemany("INSERT INTO gone_stream VALUES (?)", [(one,) for one in self._gone.streams])
        db.executemany("INSERT INTO gone_node VALUES (?)", [(one,) for one in self._gone.nodes])
        db.executemany("INSERT INTO gone_bad VALUES (?)", [(one,) for one in self._gone.quarantine])

    def _numbers(self) -> Iterator[tuple[str, str, str, list[int], int]]:
        """The numbers of what goes."""
        for low, high, _ in self._pieces("chunk"):
            for node, ep, rows, body in self._db.execute(
                "SELECT s.node, c.ep, c.rows, c.body FROM old.chunk c JOIN old.stream s ON s.id = c.stream"
                " WHERE c.id BETWEEN ? AND ? AND c.stream IN (SELECT id FROM gone_stream)",
                (low, high),
            ):
                yield "data", node, ep, numbers_of(body, rows), rows
            self._step(0)
        for node, ep, seq in self._db.execute(
            "SELECT node, ep, seq FROM old.event WHERE node IN (SELECT id FROM gone_node) AND type <> ?",
            (CUSTODY,),
        ):
            yield "event", node, ep, [seq], 1

    def _copy_all(self) -> None:
        keeps = "stream NOT IN (SELECT id FROM gone_stream)"
        columns = "id, stream, first_us, last_us, recv_ms, late, rows, ep, seq_a, seq_b, body"
        self._copy("stream", "*", "id NOT IN (SELECT id FROM gone_stream)")
        self._copy("field", "*", f"id IN (SELECT field FROM old.rollup WHERE {keeps})")  # noqa: S608
        self._copy("chunk", columns, keeps)
        stays = f"(type = '{CUSTODY}' OR node NOT IN (SELECT id FROM gone_node))"  # noqa: S608
        self._copy("event", f"id, {event_columns(self._schema)}", stays)
        self._copy("quarantine", "*", "id NOT IN (SELECT id FROM gone_bad)")
        for (stream,) in self._db.execute("SELECT id FROM main.stream").fetchall():
            for table in ("rollup", "hour"):
                self._run(
                    f"INSERT INTO main.{table} SELECT * FROM old.{table} WHERE stream = ?",  # noqa: S608
                    (stream,),
                )
        for table in ("mark", "state", "total"):
            self._run(f"INSERT INTO main.{table} SELECT * FROM old.{table}", ())  # noqa: S608 - constants

    def _copy(self, table: str, columns: str, where: str) -> None:
        """Copy the rows of a table with ids, a piece at a time."""
        query = (
            f"INSERT INTO main.{table} SELECT {columns} FROM old.{table}"  # noqa: S608 - constants
            f" WHERE id BETWEEN ? AND ? AND {where}"
        )
        for low, high, size in self._pieces(table):
            self._run(query, (low, high), size)

    def _pieces(self, table: str) -> Iterator[tuple[int, int, int]]:
        """First and last id, and bytes, of parts of a table."""
        size = "length(body)" if table in ("chunk", "event") else "0"
        query = f"SELECT id, {size} FROM old.{table} WHERE id > ? ORDER BY id LIMIT {PIECE}"  # noqa: S608
        low = 0
        while rows := self._db.execute(query, (low,)).fetchall():
            high = total = 0
            for at, each in rows:
                high, total = at, total + each + ROW_BYTES
                if total >= BLOCK:
                    break
            yield low + 1, high, total
            low = high

    def _run(self, query: str, parameters: Iterable[object], size: int = 0) -> None:
        changes = self._db.execute(query, tuple(parameters)).rowcount
        self._written += size or ROW_BYTES * max(0, changes)
        if self._written >= BLOCK:  # a flush of all at once would delay the commits of the collector
            _sync(self._work)
            self._step(self._written)
            self._written = 0

    def _check(self, before: Mapping[str, int], removed: int) -> None:
        """Compare the sums: what the old file had is in the new one, or is stated as removed now."""
        had, has = sum(before.values()), sum(messages_in(self._db).values())
        if had != has + removed:
            raise ValueError(f"it counts {had} messages, and {has + removed} were found")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
