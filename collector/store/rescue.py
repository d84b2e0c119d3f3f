"""Reads what damaged tables still give, and copies it into a sound file of the same name.

A row that cannot be read costs itself, not the rows around it.
"""

from __future__ import annotations

import logging
import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from collector.store.chunk import Chunk, ChunkRows, as_floats, pack, read_chunk, roll_up
from collector.store.day_file import DayFile
from collector.store.day_schema import (
    HOLE,
    PAGE_BYTES,
    SPARSE,
    SQL_ERRORS,
    UNREADABLE,
    WITH_RAW,
    WITH_SEALS,
    Damaged,
    event_columns,
    raw_columns,
    readable_text,
    remove,
    translate,
    version,
)
from collector.store.group import EventRow, Group, Quarantined, Saved
from collector.store.landed import UNDECODABLE, decoded, joined
from collector.store.pruned import stated_in
from wire.errors import EdgebedError, WireError
from wire.folder_sync import sync_folder

log = logging.getLogger(__name__)

GROUP_CHUNKS = 200
MAX_FAILURES = 20_000  # spans of ids that fail; a table with more is read no further
STEP = 1_000  # ids that are read at once
MAX_HOLES = 100  # that a file lists; the newest is extended over all later ones
_HEADER = 100  # bytes of an SQLite file before its first page's content
_CHUNKS = (
    "SELECT id, stream, first_us, last_us, recv_ms, late, rows, ep, body FROM chunk NOT INDEXED"
    " WHERE id BETWEEN ? AND ?"
)
_RAW = "SELECT stream, %s FROM raw NOT INDEXED WHERE id BETWEEN ? AND ?"
_RAW_TYPES = [str, int, int, int, int, bytes]  # of ep, seq, rows, recv_ms, late and the body
_EVENTS = "SELECT %s FROM event NOT INDEXED WHERE id BETWEEN ? AND ?"
_QUARANTINE = "SELECT recv, topic, why, size, head FROM quarantine WHERE id BETWEEN ? AND ?"


@dataclass(slots=True)
class Rescued:
    """What a rescue found: rows that were read, rows that were not, and when those were (ms)."""

    rows: int = 0
    unreadable: int = 0
    landed: int = 0  # of both: rows that were not packed yet, which the file's own count does not have
    holes: list[tuple[int, int]] = field(default_factory=list)

    def lose(self, first_ms: int, last_ms: int, rows: int) -> None:
        """Note rows that cannot be read."""
        self.unreadable += rows
        if self.holes and (first_ms <= self.holes[-1][1] + 1000 or len(self.holes) >= MAX_HOLES):
            low, high = self.holes[-1]
            self.holes[-1] = (min(low, first_ms), max(high, last_ms))
        else:
            self.holes.append((first_ms, last_ms))


def damage(name: str, rows: int) -> str:
    """The sentence about a damaged day file; its own count of rows may be damaged too."""
    return f"day file {name} is damaged" + (f": at least {rows} rows cannot be read" if rows else "")


def rescue(damaged: Path, sound: Path, saved: Saved) -> Rescued | None:
    """Write what `damaged` gives to `sound`, which gets `saved` too; None when it gives nothing.

    Raises:
        OSError: there is no room, or the disk fails.
        EdgebedError: the new file cannot be written.
    """
    room, size = shutil.disk_usage(sound.parent).free, damaged.stat().st_size
    if room < 2 * size:
        raise EdgebedError(f"{damaged.name} needs {2 * size >> 20} MB of free disk to be read again")
    work, copy = sound.with_suffix(".rescue"), sound.with_suffix(".repair")
    remove(work)
    remove(copy)
    try:
        for source in (damaged, copy):
            if source is copy:
                _repair_schema(damaged, copy, work)
            try:
                with closing(_opened(source)) as db:
                    found = _copied(db, work, saved, is_repaired=source is copy)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                log.warning("%s: %s", source.name, error)
                remove(work)
            else:
                work.replace(sound)
                return found
        return None
    finally:
        remove(work)
        remove(copy)


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    db.text_factory = readable_text
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        db.execute("SELECT id FROM chunk NOT INDEXED LIMIT 0")
    except BaseException:
        db.close()
        raise
    return db


def _repair_schema(damaged: Path, copy: Path, work: Path) -> None:
    """Copy a file and give it the first page of a new one: every day file has the same tables there."""
    DayFile(work, Saved()).close()
    page, made = work.read_bytes()[:PAGE_BYTES], work.stat().st_size // PAGE_BYTES
    remove(work)
    shutil.copyfile(damaged, copy)
    with copy.open("r+b") as file:
        pages = max(copy.stat().st_size // PAGE_BYTES, made)
        file.truncate(pages * PAGE_BYTES)
        head = bytearray(page)
        head[18:20] = b"\1\1"  # no WAL: it would be another file's
        head[28:32] = pages.to_bytes(4, "big")
        head[32:40] = bytes(8)  # no free pages
        head[92:96] = head[24:28]  # the page count is valid
        file.write(head)


def _copied(db: sqlite3.Connection, work: Path, saved: Saved, *, is_repaired: bool) -> Rescued:
    events, schema = _events(db), max(WITH_RAW, version(db))
    if is_repaired and not any(each.seal for each in events):
        schema = WITH_RAW  # the first page is that of a new file, and the events are of an old one
    found, out = Rescued(), DayFile(work, saved, schema=schema)
    try:
        for group, chunks in _groups(db, found, events, schema):
            out.write(group, chunks)
        if not found.rows:
            raise sqlite3.DatabaseError("it has no row that can be read")
        expected = _expected(db) + found.landed
        found.unreadable = max(found.unreadable, expected - found.rows)
        out.note_unreadable(found.unreadable, found.holes)
        with suppress(*SQL_ERRORS, msgspec.MsgspecError, TypeError, ValueError):
            out.note_pruned(stated_in(db))
    finally:
        out.close()
    sync_folder(work.parent)
    return found


def _expected(db: sqlite3.Connection) -> int:
    """How many rows the file had, by its own count; 0 when that is damaged too."""
    with suppress(sqlite3.DatabaseError, OverflowError):
        count = int(db.execute("SELECT total(rows) FROM hour").fetchone()[0])
        events = db.execute("SELECT count(*) FROM event NOT INDEXED").fetchone()[0]
        if 0 <= count <= db.execute("PRAGMA page_count").fetchone()[0] * PAGE_BYTES * 100:
            return count + int(events)
    return 0


def _events(db: sqlite3.Connection) -> list[EventRow]:
    """The events that can be read, each with its seal as it is: a file that is written again makes none."""
    schema, found = version(db), []
    query = _EVENTS % event_columns(schema)
    for row in readable(db, query, (), highest_id(db, "event")):
        columns, stored = (row[:-1], row[-1]) if schema >= WITH_SEALS else (row, b"")
        if _is_event(columns):
            found.append(replace(EventRow(*columns), seal=stored if isinstance(stored, bytes) else b""))
    return found


def _groups(
    db: sqlite3.Connection, found: Rescued, events: list[EventRow], schema: int
) -> Iterator[tuple[Group, list[Chunk]]]:
    streams = {
        at: (node, device, name)
        for at, node, device, name in readable(
            db,
            "SELECT id, node, device, name FROM stream NOT INDEXED WHERE id BETWEEN ? AND ?",
            (),
            highest_id(db, "stream"),
        )
    }
    chunks: list[Chunk] = []
    readable_chunks, unreadable_chunks = 0, 0
    newest_ms, pending = 0, 0  # when the last readable chunk arrived; unreadable ids since

    def lost(first: int, last: int) -> None:
        nonlocal pending
        pending += last - first + 1

    for _, stream, *row in readable(db, _CHUNKS, (), highest_id(db, "chunk"), lost):
        chunk = _chunk(streams.get(stream), row, found)
        if chunk is None:
            continue
        recv_ms = chunk.rows.recv_ms
        if pending:
            found.lose(newest_ms or recv_ms, recv_ms, 0)
            unreadable_chunks, pending = unreadable_chunks + pending, 0
        readable_chunks += 1
        newest_ms = recv_ms
        found.rows += chunk.rows.count
        chunks.append(chunk)
        if len(chunks) >= GROUP_CHUNKS:
            yield Group(newest_ms), chunks
            chunks = []
    if pending:
        found.lose(newest_ms, newest_ms, 0)
    # an estimate, for a file whose own count is damaged
    found.unreadable += unreadable_chunks * found.rows // max(1, readable_chunks)
    yield Group(newest_ms), [*chunks, *_landed(db, streams, found, schema)]
    found.rows += len(events)
    bad = [
        Quarantined(*row)
        for row in readable(db, _QUARANTINE, (), highest_id(db, "quarantine"))
        if list(map(type, row)) == [int, str, str, int, bytes]
    ]
    yield Group(newest_ms, events=events, quarantine=bad), []


def _chunk(stream: tuple[str, str, str] | None, row: list[Any], found: Rescued) -> Chunk | None:
    """A chunk as it is committed; None when it cannot be read."""
    first_us, last_us, recv_ms, late, count, ep, body = row
    try:
        if stream is None or list(map(type, row)) != [int, int, int, int, int, str, bytes]:
            raise WireError("its columns are damaged")
        one = read_chunk(body, None, count)
        times = one.times
        numbers = {
            name: None if _is_text(column) else as_floats(column) for name, column in one.columns.items()
        }
        rows = ChunkRows(*stream, ep, one.head.clk, bool(late & 1), recv_ms, count, [times])
        rows.messages, rows.size = one.head.messages, len(body)
        rows.columns = {name: _listed(column) for name, column in one.columns.items()}
        is_sparse = bool(late & SPARSE)
        rollups = [] if is_sparse else roll_up(times, numbers, rows.late)
        chunk = Chunk(rows, int(times.min()), int(times.max()), body, rollups, is_sparse)
    except (WireError, TypeError, ValueError, IndexError):
        if isinstance(count, int) and isinstance(first_us, int) and isinstance(last_us, int):
            found.lose(first_us // 1000, last_us // 1000, count if 0 < count < 10**6 else 0)
        return None
    return chunk


def _landed(
    db: sqlite3.Connection, streams: dict[int, tuple[str, str, str]], found: Rescued, schema: int
) -> Iterator[Chunk]:
    """Chunks of the messages that waited to be packed; none of a file that has no table for them."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'raw'").fetchone() is None:
        return
    several: list[ChunkRows] = []
    failed, pending = 0, 0

    def lost(first: int, last: int) -> None:
        nonlocal pending
        pending += last - first + 1

    for stream, *row in readable(db, _RAW % raw_columns(schema), (), highest_id(db, "raw"), lost):
        ep, seq, count, recv_ms, late, _, _, body, _ = row
        if list(map(type, (ep, seq, count, recv_ms, late, body))) != _RAW_TYPES:
            failed += 1
            continue
        try:
            several.append(decoded(streams[stream], *row))
            failed, pending = failed + pending, 0  # ids behind the last message may never have been used
        except (KeyError, *UNDECODABLE):
            failed += 1
            found.lose(recv_ms, recv_ms, 0)
    rows = sum(one.count for one in several)
    with suppress(sqlite3.DatabaseError):  # the index knows better than the damaged table
        count = db.execute("SELECT count(*) FROM raw INDEXED BY raw_by_stream").fetchone()[0]
        failed = max(0, count - len(several))
    missing = failed * rows // max(1, len(several))
    found.unreadable += missing
    found.landed = rows + missing
    for one in joined(several):
        found.rows += one.count
        yield pack(one)


def _is_text(column: Any) -> bool:
    return isinstance(column, list) and any(isinstance(value, str) for value in column)


def _listed(column: Any) -> list[Any]:
    values = column if isinstance(column, list) else column.tolist()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def _is_event(row: Sequence[Any]) -> bool:
    if list(map(type, row)) != [str, str, str, int, int, int, str, int, bytes]:
        return False
    try:
        return isinstance(msgspec.json.decode(row[-1]), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def unreadable(db: sqlite3.Connection) -> Rescued:
    """What a rescue of this file could not read."""
    found = Rescued()
    for key, n in db.execute(
        "SELECT key, n FROM total WHERE key = ? OR key LIKE ?", (UNREADABLE, f"{HOLE}%")
    ):
        if key == UNREADABLE:
            found.unreadable = n
        else:
            found.holes.append((int(key.removeprefix(HOLE)), n))
    return found


def highest_id(db: sqlite3.Connection, table: str) -> int:
    """An id that no row of the table exceeds."""
    try:
        found: int | None = db.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608 - a constant
    except SQL_ERRORS as error:
        _require_damage(error)
        # the last page is damaged: a row needs at least 32 bytes
        pages = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
        return int(pages) // 32
    return found or 0


def readable(
    db: sqlite3.Connection,
    query: str,
    parameters: tuple[Any, ...],
    highest: int,
    lost: Callable[[int, int], None] = lambda _first, _last: None,
) -> Iterator[tuple[Any, ...]]:
    """The rows of `query` that can be read, in order of id; `lost` gets the spans of ids that cannot.

    The query ends with `id BETWEEN ? AND ?` and reads the table itself, without an index.
    """
    failures = 0
    for start in range(1, highest + 1, STEP):
        spans = [(start, min(start + STEP - 1, highest))]
        while spans:
            first, last = spans.pop()
            try:
                yield from db.execute(query, (*parameters, first, last)).fetchall()
            except SQL_ERRORS as error:
                _require_damage(error)
                failures += 1
                if failures > MAX_FAILURES:
                    lost(first, highest)
                    return
                if first == last:
                    lost(first, last)
                else:
                    middle = (first + last) // 2
                    spans += [(middle + 1, last), (first, middle)]


def _require_damage(error: Exception) -> None:
    """Raise an error again unless damage caused it: a deadline, a lock or a failing disk."""
    if not isinstance(translate(error, Path()), Damaged):
        raise error
