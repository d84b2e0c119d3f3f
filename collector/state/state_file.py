"""Opens `state.db`: makes it, upgrades it, refuses a file that is newer, damaged or of another program."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from collector.state.migrations import STEPS, Step, migrate, version
from wire.errors import ConfigError, EdgebedError, TryAgain, unwritable
from wire.folder_sync import sync_folder

Db = sqlite3.Connection  # what a transaction gives

STATE = "state.db"
APPLICATION = 0x65646273  # "edbs" in the file header: edgebed made this file
WAIT_S = 5.0  # for another process that writes

# sqlite3 raises UnicodeDecodeError when SQLite quotes a damaged schema in its message
_SQL_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_MISSED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


class StateNewer(EdgebedError):
    """A `state.db` that this version cannot use, because a newer one or another program wrote it."""

    exit_code = 78


class StateDamaged(EdgebedError):
    """A `state.db` that SQLite cannot read."""


class StateFile:
    """`state.db` in a store's folder; it is opened with the first use. Any thread.

    The collector that owns the store also upgrades the file. Commands use it beside a running collector, and
    wait for each other, but leave an older file as it is.
    """

    def __init__(self, folder: Path, *, owns_store: bool = False, steps: Sequence[Step] = STEPS) -> None:
        self.path = folder.absolute() / STATE
        self._owns_store = owns_store
        self._steps = steps
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None  # of the open file

    @contextmanager
    def transaction(self, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block is on disk at its end, or nothing of it.

        One that only reads waits for no other process.

        Raises:
            StateNewer, StateDamaged: the file cannot be used.
            TryAgain: it is locked, its disk is full, or the collector has not upgraded it yet.
            sqlite3.IntegrityError: the block violates a constraint of a table.
            ConfigError: it is not readable or writable.
        """
        with self._lock:
            try:
                db = self._opened()
                db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                try:
                    yield db
                    db.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):  # the first error is the one to raise
                        if db.in_transaction:
                            db.execute("ROLLBACK")
                    raise
            except _SQL_ERRORS as error:
                if _code(error) == sqlite3.SQLITE_CONSTRAINT:  # the caller's: for example a name that exists
                    raise
                self._forget()
                raise self._translated(error) from error
            except OSError as error:
                raise unwritable(str(self.path), error) from error

    def mark(self) -> object:
        """A value that changes when another process changes or replaces the file.

        Raises:
            EdgebedError: as `transaction`.
        """
        with self.transaction(writes=False) as db:
            return self._identity, db.execute("PRAGMA data_version").fetchone()[0]

    def check(self) -> None:
        """Open the file, or raise why it cannot be used.

        Raises:
            EdgebedError: as `transaction`.
        """
        with self.transaction():
            pass

    def store_id(self) -> str:
        """The random name that the store got when its `state.db` was made."""
        with self.transaction() as db:
            found: str = db.execute("SELECT value FROM fact WHERE key = 'store'").fetchone()[0]
            return found

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._db is not None:
            self._db.close()
        self._db = self._identity = None

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that is on the path now."""
        if self._db is not None and _identity(self.path) == self._identity:
            return self._db
        self._forget()
        if _identity(self.path) is None:
            with _alone(self.path.parent):
                if _identity(self.path) is None:
                    self._create()
        self._identity = _identity(self.path)
        db = _connect(self.path)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        found = version(db)
        if found > len(self._steps):
            raise StateNewer(
                f"{self.path} was written by a newer version of edgebed (schema {found}, this one knows "
                f"{len(self._steps)}): upgrade edgebed, or restore a backup that this version made"
            )
        made_by = db.execute("PRAGMA application_id").fetchone()[0]
        if made_by not in (0, APPLICATION):
            raise StateNewer(f"{self.path} was made by another program: move it away")
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o037:
            raise ConfigError(
                f"{self.path} has mode {mode:04o}: other users could read or change who may log in; "
                f"run chmod 600 {self.path}"
            )
        if not found:  # `_create` puts only whole files on the path
            raise StateDamaged(self._damage("it is empty"))
        sound = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if sound != "ok":
            raise StateDamaged(self._damage(sound))
        db.execute("PRAGMA journal_mode = WAL")
        if found < len(self._steps):
            if not self._owns_store:
                raise TryAgain(
                    f"{self.path} has schema {found} of an older version: start the collector of this "
                    "version, which upgrades it"
                )
            migrate(db, self._steps)

    def _create(self) -> None:
        """Make the file beside its path and rename it, so that a file on the path is whole."""
        work = self.path.with_name(f"{STATE}.new")
        for part in (work, work.with_name(f"{work.name}-journal")):
            part.unlink(missing_ok=True)
        os.close(os.open(work, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if os.geteuid() == 0:  # a command as root must not lock the collector's user out
            owner = self.path.parent.stat()
            os.chown(work, owner.st_uid, owner.st_gid)
        with closing(_connect(work)) as db:
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            migrate(db, self._steps)
        work.replace(self.path)
        sync_folder(self.path.parent)

    def _damage(self, why: object) -> str:
        line = " ".join(str(why).split())
        return (
            f"{self.path} is damaged ({line}): stop the collector, move the file away, and put one from a "
            "backup in its place; the day files are not affected"
        )

    def _translated(self, error: Exception) -> EdgebedError:
        code = _code(error)
        if code in _MISSED:
            return TryAgain(f"{self.path} cannot be used now: {error}")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return EdgebedError(f"{self.path} cannot be written ({error}): run this as the collector's user")
        return StateDamaged(self._damage(error))


def _code(error: Exception) -> int:
    found: int = getattr(error, "sqlite_errorcode", 0)
    return found & 0xFF


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing file."""
    db = sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False
    )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA trusted_schema = OFF")  # a restored file may come from anywhere
    return db


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes a file here; OSError when the folder is not there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
