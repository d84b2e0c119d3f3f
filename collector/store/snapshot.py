"""Copies SQLite files of a store while a collector writes to them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from collector.store.day_schema import SQL_ERRORS, translate

Step = Callable[[int], None]  # gets the number of bytes that were handled since the last call
BLOCK = 512 * 1024
WAIT_S = 5.0  # for a lock of another program


class Stopped(Exception):
    """A `Step` raises it to end the work; nothing of the work stays."""


def snapshot(source: Path, target: Path, step: Step) -> None:
    """Copy an SQLite file as it is at one moment to a new file on disk, which needs no file beside it.

    Raises:
        FileNotFoundError: it was removed.
        Damaged: SQLite cannot read it.
        StoreBusy: the disk is full, or the file is locked.
    """
    source.stat()
    try:
        with closing(_reading(source)) as db, closing(sqlite3.connect(target, isolation_level=None)) as copy:
            _copy(db, copy, target, step)
        # the copy has the mode of the source: without WAL it can be read on a medium that is read-only
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = DELETE")
    except SQL_ERRORS as error:
        source.stat()
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
        raise translate(error, target if full else source) from error
    _sync(target)


def _reading(source: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT_S, isolation_level=None
    )
    try:
        # What is committed from here on is not in the copy. Without this transaction, SQLite would begin
        # again with each commit of the collector and never end.
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def _copy(db: sqlite3.Connection, copy: sqlite3.Connection, target: Path, step: Step) -> None:
    page: int = db.execute("PRAGMA page_size").fetchone()[0]
    copy.execute("PRAGMA journal_mode = OFF")
    copy.execute("PRAGMA synchronous = OFF")  # `progress` writes to disk
    pages = max(1, BLOCK // page)
    stopped: list[Exception] = []

    def progress(_status: int, _left: int, _total: int) -> None:
        try:
            # little by little: a flush of the whole file would delay the commits of the collector
            _sync(target)
            step(pages * page)
        except (Stopped, OSError) as error:
            stopped.append(error)
            raise

    try:
        db.backup(copy, pages=pages, progress=progress)
    except SQL_ERRORS:
        if stopped:
            raise stopped[0] from None
        raise


def copy_plain(source: Path, target: Path, step: Step) -> None:
    """Copy the bytes of a file to a new file on disk.

    Raises:
        OSError: it is not there, or there is no room.
    """
    with source.open("rb") as file, target.open("xb") as out:
        while block := file.read(BLOCK):
            out.write(block)
            out.flush()
            os.fdatasync(out.fileno())
            step(len(block))
        os.fsync(out.fileno())


def schema_of(path: Path) -> int:
    """The schema version of an SQLite file; 0 when it has none or cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
            found: int = db.execute("PRAGMA user_version").fetchone()[0]
            return found
    except SQL_ERRORS:
        return 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
