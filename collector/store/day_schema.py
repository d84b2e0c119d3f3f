"""The form of a day file: its tables, its errors, and how one is opened and read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from collector.store.event_seal import COLUMNS, SEALED
from collector.store.group import Saved
from collector.store.landed import RAW
from collector.store.marks import read_account
from wire.errors import EdgebedError, TryAgain

SCHEMA = 3
WITH_RAW = 2  # the first schema with the table `raw`
WITH_SEALS = 3  # the first schema whose events and landed messages have a seal
APPLICATION = 0x65646264  # "edbd" in the file header: edgebed made this file
UNREADABLE, HOLE = "unreadable", "hole/"  # keys in `total` of a rescued file
STATED = "pruned/"  # begins the keys in `state` under which a file states what retention removed from it
PAGE_BYTES = 8192
SPARSE = 2  # added to `late` of a chunk without rollups

# A rescue may put the first page of a new file before the others of an old one, so the tables of schema 1
# come first and in their order: `last`, too, which nothing writes or reads since schema 2.
TABLES = """
CREATE TABLE stream(
    id INTEGER PRIMARY KEY, node TEXT NOT NULL, device TEXT NOT NULL, name TEXT NOT NULL,
    UNIQUE(node, device, name));
CREATE TABLE field(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,
    recv_ms INTEGER NOT NULL, late INTEGER NOT NULL, rows INTEGER NOT NULL, ep TEXT NOT NULL,
    seq_a INTEGER NOT NULL, seq_b INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX chunk_by_time ON chunk(stream, last_us, first_us, rows);
CREATE TABLE rollup(
    stream INTEGER NOT NULL, field INTEGER NOT NULL, minute INTEGER NOT NULL, n INTEGER NOT NULL,
    low REAL, high REAL, total REAL, late INTEGER NOT NULL,
    PRIMARY KEY(stream, field, minute)) WITHOUT ROWID;
CREATE TABLE hour(
    stream INTEGER NOT NULL, hour INTEGER NOT NULL, messages INTEGER NOT NULL, rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL, late INTEGER NOT NULL, PRIMARY KEY(stream, hour)) WITHOUT ROWID;
CREATE TABLE event(
    id INTEGER PRIMARY KEY, node TEXT NOT NULL, device TEXT NOT NULL, type TEXT NOT NULL,
    sev INTEGER NOT NULL, ts INTEGER NOT NULL, recv INTEGER NOT NULL, ep TEXT NOT NULL,
    seq INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX event_by_time ON event(node, device, ts, type);
CREATE TABLE last(
    node TEXT NOT NULL, device TEXT NOT NULL, stream TEXT NOT NULL, ts INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY(node, device, stream)) WITHOUT ROWID;
CREATE TABLE quarantine(
    id INTEGER PRIMARY KEY, recv INTEGER NOT NULL, topic TEXT NOT NULL, why TEXT NOT NULL,
    size INTEGER NOT NULL, head BLOB NOT NULL);
CREATE TABLE mark(node TEXT NOT NULL, ep TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY(node, ep))
    WITHOUT ROWID;
CREATE TABLE state(key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE total(key TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX chunk_sparse ON chunk(stream, last_us, first_us) WHERE late >= 2;
CREATE TABLE raw(
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, ep TEXT NOT NULL, seq INTEGER NOT NULL,
    rows INTEGER NOT NULL, recv_ms INTEGER NOT NULL, late INTEGER NOT NULL, skew INTEGER, err INTEGER,
    body BLOB NOT NULL);
CREATE INDEX raw_by_stream ON raw(stream)"""
_SEALS = """;
ALTER TABLE event ADD COLUMN seal BLOB;
ALTER TABLE raw ADD COLUMN seal BLOB;
CREATE INDEX event_by_seal ON event(seal)"""

# messages of each node: data that are packed, events, data that landed
_COUNT_HOUR = (
    "SELECT node, total(messages) AS n FROM hour JOIN stream ON stream.id = hour.stream GROUP BY node"
)
_COUNTS = f"""
SELECT node, total(n) FROM (
    {_COUNT_HOUR}
    UNION ALL SELECT node, count(*) FROM event GROUP BY node%s)
GROUP BY node"""  # noqa: S608 - a constant
_COUNT_RAW = " UNION ALL SELECT node, count(*) FROM raw JOIN stream ON stream.id = raw.stream GROUP BY node"

# Statements and schema are constants, and no message can break a constraint: the file caused the error.
_OF_THE_FILE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_INTERNAL,
)
# sqlite3 raises UnicodeDecodeError when SQLite quotes a damaged schema in its message
SQL_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_OF_THE_GROUP = (0, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE)


class StoreError(EdgebedError):
    """A store that cannot be used; the text names the file and what to do."""

    exit_code = 78


class StoreBusy(TryAgain):
    """The disk is full, or the file is locked: the same group can be committed later."""


class Damaged(EdgebedError):
    """A day file that SQLite cannot read."""


class Displaced(EdgebedError):
    """A day file that is not on its path any more: what is written to it would be lost."""


class Full(EdgebedError):
    """A group that needs more streams or fields than a day may have."""


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def parts(path: Path) -> list[Path]:
    """A day file and the files that SQLite keeps beside it.

    The day file is the last: SQLite would apply a WAL that stays to another file of this name.
    """
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal", "")]


def remove(path: Path) -> None:
    """Remove a day file, if it is there, and what SQLite keeps beside it."""
    for part in parts(path):
        part.unlink(missing_ok=True)


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection.

    Raises:
        sqlite3.Error: the file cannot be opened.
        StoreError: this version cannot read the file.
    """
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0, check_same_thread=False
    )
    db.text_factory = readable_text
    try:
        check(db, path)
    except BaseException:
        db.close()
        raise
    return db


def readable_text(raw: bytes) -> str:
    """A text of a file that may be damaged; sqlite3 itself would give up the whole question."""
    return raw.decode("utf-8", "replace")


def check(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file of another program or of a newer edgebed.

    Raises:
        StoreError: this version must not use the file.
    """
    found, made_by = version(db), db.execute("PRAGMA application_id").fetchone()[0]
    if found > SCHEMA:
        raise StoreError(
            f"{path} has schema {found}, this edgebed knows {SCHEMA}: upgrade edgebed, or use another store"
        )
    if made_by not in (0, APPLICATION):
        raise StoreError(f"{path} was made by another program: use another folder as store")


def schema_of(path: Path) -> int:
    """The schema of a day file; 0 when its creation did not finish.

    Raises:
        Damaged: it is not an SQLite file.
    """
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as db:
            return version(db)
    except SQL_ERRORS as error:
        raise translate(error, path) from error


def end(path: Path) -> Saved:
    """What the next file starts with, of a file of an earlier schema, to which nothing more is added.

    Raises:
        Damaged, StoreError: it cannot be used.
        StoreBusy: it is locked.
    """
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as db:
            check(db, path)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what its collector could not move into it
            return read_saved(db)
    except SQL_ERRORS as error:
        raise translate(error, path) from error
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise Damaged(f"{path.name}: {error}") from error


def make_tables(db: sqlite3.Connection, schema: int = SCHEMA) -> None:
    """Make the tables of a new file; one that is written again keeps its schema, at least `WITH_RAW`."""
    for statement in (TABLES + (_SEALS if schema >= WITH_SEALS else "")).split(";"):
        db.execute(statement)


def raw_columns(schema: int) -> str:
    """What `decoded` takes of a landed message, with its seal where files of this schema have one."""
    seal = "CASE typeof(seal) WHEN 'blob' THEN seal ELSE x'' END" if schema >= WITH_SEALS else "NULL"
    return f"{RAW}, {seal}"


def event_columns(schema: int) -> str:
    """The columns of an event, with its seal where files of this schema have one."""
    return SEALED if schema >= WITH_SEALS else COLUMNS


def version(db: sqlite3.Connection) -> int:
    """The schema version of an open file; 0 when its creation did not finish.

    A number that is too low, after damage or a change by hand, hides neither messages nor seals.
    """
    stated = stated_version(db)
    return stated if stated >= SCHEMA else max(stated, version_of_tables(db))


def stated_version(db: sqlite3.Connection) -> int:
    """The number in the header of an open file, which anybody who writes the file can change."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    return found


def version_of_tables(db: sqlite3.Connection) -> int:
    """The schema version that an open file has by its tables; 0 when it has none."""
    events, raw = (
        {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")} for table in ("event", "raw")
    )
    if "seal" in events | raw:
        return WITH_SEALS
    return WITH_RAW if raw else int(bool(events))


def has_landed(db: sqlite3.Connection) -> bool:
    """Whether messages wait in an open file to be packed."""
    return version(db) >= WITH_RAW and db.execute("SELECT 1 FROM raw LIMIT 1").fetchone() is not None


def read_saved(db: sqlite3.Connection) -> Saved:
    """Marks, states and totals of an open file.

    Raises:
        sqlite3.Error, msgspec.MsgspecError, TypeError, ValueError: damage.
    """
    marks = [read_account(body) for (body,) in db.execute("SELECT body FROM mark")]
    total = db.execute("SELECT n FROM total WHERE key = 'quarantined'").fetchone()
    states = db.execute("SELECT key, body FROM state WHERE key NOT GLOB ?", (f"{STATED}*",))
    return Saved(marks, dict(states), total[0] if total else 0)


def data_messages(db: sqlite3.Connection) -> dict[str, int]:
    """How many data messages of each node an open file has, by its own sums."""
    query = f"{_COUNT_HOUR}{_COUNT_RAW if version(db) >= WITH_RAW else ''}"
    summed = f"SELECT node, total(n) FROM ({query}) GROUP BY node"  # noqa: S608 - constants
    return {node: int(n) for node, n in db.execute(summed).fetchall()}


def messages_in(db: sqlite3.Connection) -> dict[str, int]:
    """How many messages of each node an open file has, by its own sums."""
    query = _COUNTS % (_COUNT_RAW if version(db) >= WITH_RAW else "")
    return {node: int(n) for node, n in db.execute(query).fetchall()}


def translate(error: Exception, path: Path) -> EdgebedError:
    """The edgebed error for an SQLite error."""
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    not_text = isinstance(error, UnicodeDecodeError) or (
        not code and isinstance(error, sqlite3.OperationalError)
    )
    if code in _OF_THE_FILE or not_text:
        return Damaged(f"{path.name}: {error}")
    # the second: there is no room for the file that readers share
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StoreBusy(f"the disk of {path} is full")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"{path} is locked by another program")
    if code in _OF_THE_GROUP:
        return EdgebedError(f"{path.name}: {error}")
    return StoreBusy(f"{path} cannot be written: {error}")
