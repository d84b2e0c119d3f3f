"""Reads a day file from its first to its last byte: pages, chunks, events, marks and counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from collector.store.chunk import read_chunk
from collector.store.day_schema import (
    SQL_ERRORS,
    WITH_RAW,
    Damaged,
    connect,
    event_columns,
    messages_in,
    raw_columns,
    read_saved,
    stated_version,
    translate,
    version,
    version_of_tables,
)
from collector.store.event_seal import is_changed
from collector.store.landed import UNDECODABLE, decoded
from collector.store.marks import Key
from collector.store.snapshot import Step, Stopped
from wire.errors import WireError
from wire.ranges import Ranges

SHOWN = 10  # problems of one kind that are listed
_EVERY = 50_000  # instructions of SQLite between two calls of `step`


@dataclass(slots=True)
class Content:
    """What files hold, and what is wrong with them."""

    chunks: int = 0
    rows: int = 0
    events: int = 0
    messages: int = 0
    twice: int = 0  # messages that are stored more than once
    stored: dict[Key, Ranges] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def store(self, key: Key, seq: int) -> None:
        """Count a message."""
        ranges = self.stored.setdefault(key, Ranges())
        self.twice += seq in ranges
        ranges.add(seq)
        self.messages += 1


def check_day(path: Path, content: Content, step: Step) -> None:
    """Add what a day file holds; what is wrong with it is in `content.problems`.

    Raises:
        StoreError: a newer version of edgebed or another program made it.
        StoreBusy: it is locked or its disk fails.
    """
    found: list[str] = []

    def read(db: sqlite3.Connection) -> None:
        found.extend(_pages(db))
        stated, has = stated_version(db), version_of_tables(db)
        if stated != has:
            found.append(f"its schema number is {stated}, and its tables are those of schema {has}")
        before = content.messages
        rows = _read_chunks(db, content, found, step)
        if version(db) >= WITH_RAW:
            _read_landed(db, content, found, step)
        _read_events(db, content, found)
        sums = sum(messages_in(db).values())
        if sums != content.messages - before:
            found.append(f"it has {content.messages - before} messages and counts {sums}")
        counted = int(db.execute("SELECT total(rows) FROM hour").fetchone()[0])
        if counted != rows:
            found.append(f"it has {rows} rows and counts {counted}")
        read_saved(db)

    _examine(path, lambda: connect(path), read, found, step)
    content.problems += _joined(path, found)


def check_pages(path: Path, step: Step) -> list[str]:
    """What is wrong with the pages of an SQLite file that is not a day file."""
    found: list[str] = []

    def opened() -> sqlite3.Connection:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)

    _examine(path, opened, lambda db: found.extend(_pages(db)), found, step)
    return _joined(path, found)


def _examine(
    path: Path,
    opened: Callable[[], sqlite3.Connection],
    read: Callable[[sqlite3.Connection], None],
    found: list[str],
    step: Step,
) -> None:
    """Call `read` with a connection whose long statements call `step`; note the damage that it meets."""
    stopped: list[Stopped] = []

    def tick() -> int:
        try:
            step(0)
        except Stopped as error:  # SQLite passes no exception on from here
            stopped.append(error)
            return 1
        return 0

    try:
        with closing(opened()) as db:
            db.set_progress_handler(tick, _EVERY)
            db.execute("BEGIN")  # all of it as it is at one moment
            read(db)
    except SQL_ERRORS as error:
        if stopped:
            raise stopped[0] from None
        translated = translate(error, path)
        if not isinstance(translated, Damaged):
            raise translated from error
        found.append(str(error))
    except (msgspec.MsgspecError, TypeError, ValueError, AttributeError) as error:
        found.append(str(error))


def _joined(path: Path, found: list[str]) -> list[str]:
    """One sentence about a file; none when nothing was found."""
    if not found:
        return []
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    lines = [" ".join(one.split()) for one in [*found[:SHOWN], *more]]
    return [f"{path.name} is damaged: {'; '.join(lines)}"]


def _pages(db: sqlite3.Connection) -> list[str]:
    found = [text for (text,) in db.execute(f"PRAGMA integrity_check({SHOWN})")]
    return [] if found == ["ok"] else found


def _read_chunks(db: sqlite3.Connection, content: Content, found: list[str], step: Step) -> int:
    """Unpack every chunk; returns how many rows they have."""
    streams = dict(db.execute("SELECT id, node FROM stream"))
    query = "SELECT id, stream, first_us, last_us, rows, ep, seq_a, seq_b, body FROM chunk NOT INDEXED"
    total = 0
    for at, stream, first_us, last_us, rows, ep, low, high, body in db.execute(query):
        try:
            one = read_chunk(body, None, rows)
            seqs = [seq for seq, _ in one.head.messages]
            if (min(seqs), max(seqs)) != (low, high):
                raise WireError("its message numbers are others than stated")
            if (int(one.times.min()), int(one.times.max())) != (first_us, last_us):
                raise WireError("its times are others than stated")
        except (WireError, TypeError, ValueError) as error:
            found.append(f"chunk {at}: {error}")
            continue
        if stream not in streams:
            found.append(f"chunk {at} belongs to no stream")
            continue
        for seq in seqs:
            content.store((streams[stream], ep), seq)
        content.chunks += 1
        content.rows += rows
        total += rows
        step(len(body))
    return total


def _read_landed(db: sqlite3.Connection, content: Content, found: list[str], step: Step) -> None:
    """Decode every message that waits to be packed."""
    streams = {at: key for at, *key in db.execute("SELECT id, node, device, name FROM stream")}
    query = f"SELECT id, stream, {raw_columns(version(db))} FROM raw NOT INDEXED"  # noqa: S608 - constants
    for at, stream, *row in db.execute(query):
        if stream not in streams:
            found.append(f"message {at} belongs to no stream")
            continue
        try:
            rows = decoded(tuple(streams[stream]), *row)
        except UNDECODABLE as error:
            found.append(f"message {at}: {error}")
            continue
        content.store((rows.node, rows.ep), rows.messages[0][0])
        content.rows += rows.count
        step(rows.size)


def _read_events(db: sqlite3.Connection, content: Content, found: list[str]) -> None:
    query = f"SELECT id, {event_columns(version(db))} FROM event NOT INDEXED"  # noqa: S608 - constants
    for at, *row in db.execute(query):
        node, _, _, _, _, _, ep, seq, body, *_ = row
        content.store((node, ep), seq)
        content.events += 1
        if is_changed(row):
            found.append(f"event {at} was changed after being stored: it does not agree with its checksum")
        try:
            msgspec.json.decode(body, type=dict)
        except (msgspec.MsgspecError, RecursionError) as error:
            found.append(f"event {at}: {error}")
