"""The store: a folder of day files with one writer, and the seam behind which another database may stand."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from collector.store.checkpoint import KEPT, Checkpoint, read_copy
from collector.store.day_file import (
    Damaged,
    DayFile,
    StoreError,
    connect,
    is_complete,
    read_saved,
    translate,
    version,
)
from collector.store.group import Group, Saved
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain, unwritable

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{6})-(\d{4}-\d{2}-\d{2})\.db")
LOCK = "lock"


class StoreStatus(Struct):
    """The state of a store for people and monitors."""

    folder: str
    day: str
    days: int
    bytes: int
    free_bytes: int
    damaged: list[str]
    problem: str = field(name="trouble", default="")


class Store(Protocol):
    """Where groups go; `commit` is called by one thread only."""

    def load(self) -> Saved:
        """What the store remembers, after opening."""
        ...

    def commit(self, group: Group) -> None:
        """Make a group durable, all of it or nothing.

        Raises:
            StoreBusy: the same group can be committed later.
        """
        ...

    def status(self) -> StoreStatus:
        """Any thread."""
        ...

    def close(self) -> None:
        """Give the store back."""
        ...


class SqliteStore:
    """`Store` on SQLite day files named `{number}-{date of receipt}.db`; the highest number is written.

    Raises on opening:
        TryAgain: another collector has the folder, or it cannot be written.
        StoreError: a file is of a newer edgebed or of another program.
    """

    def __init__(self, folder: Path, clock: Clock, retention_days: int = 0) -> None:
        self.folder = folder.absolute()
        self._clock = clock
        self._retention_days = retention_days
        self._lock = lock(self.folder)
        try:
            self._checkpoint = Checkpoint(self.folder, clock)
            self._day: DayFile | None = self._open_newest()
            self._retire()
        except BaseException:
            os.close(self._lock)
            raise

    def _open_newest(self) -> DayFile:
        while files := day_files(self.folder):
            try:
                if not is_complete(
                    files[-1]
                ):  # a crash while it was made: what it must remember is before it
                    _each_part(files[-1], Path.unlink)
                    continue
                day = DayFile(files[-1])
                self._checkpoint.restore(day.saved())
            except Damaged as error:
                self._set_aside(files[-1], error)
                continue
            if any(path.name > files[-1].name for path in aside(self.folder)):
                # The copy knows what the damaged file did not give; of a sound one it knows nothing more,
                # unless that was restored from a backup: then the copy tells of rows that are not there.
                self._checkpoint.restore(read_copy(self.folder))
                day.write(self._remembered())
            return day
        self._checkpoint.restore(read_copy(self.folder))
        return self._create()

    def _remembered(self) -> Group:
        saved = self._checkpoint.saved()
        custody = {key: body for key, body in saved.states.items() if key.startswith(KEPT)}
        return Group(self._clock.now_ms(), marks=saved.marks, custody=custody)

    def _create(self) -> DayFile:
        numbers = [int(path.name[:6]) for path in (*day_files(self.folder), *aside(self.folder))]
        today = self._today().isoformat()
        path = self.folder / f"{max(numbers, default=0) + 1:06d}-{today}.db"
        try:
            return DayFile(path, self._checkpoint.saved())
        except EdgebedError:  # a full disk, say: the next try must not leave another half beside it
            with contextlib.suppress(OSError):
                _each_part(path, Path.unlink)
            raise

    def load(self) -> Saved:
        """Marks, states and last values of all days."""
        return self._checkpoint.saved()

    def commit(self, group: Group) -> None:
        """One transaction in the file of today; a damaged file is set aside and a new one begun.

        Raises:
            StoreBusy: disk full, locked or not writable: commit the same group again.
        """
        try:
            self._current().write(group)
        except Damaged as error:
            self._abandon(error)
            self._current().write(group)
        self._checkpoint.note(group)
        self._checkpoint.copy()

    def _current(self) -> DayFile:
        """Today's file; a new one begins where the last ended."""
        day = self._day
        if day is not None and day.path.name[7:17] == self._today().isoformat():
            return day
        self._checkpoint.copy(now=True)
        self._day = self._create()
        if day is not None:
            day.close()
        self._retire()
        return self._day

    def _abandon(self, error: Damaged) -> None:
        day, self._day = self._day, None
        if day is not None:
            day.abandon()
            self._set_aside(day.path, error)

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now_ns() / 1e9, UTC).date()

    def _retire(self) -> None:
        if not self._retention_days:
            return
        dates = {path: date.fromisoformat(path.name[7:17]) for path in day_files(self.folder)}
        before = [day for path, day in dates.items() if path.name != self._writes]
        # By two days, or a clock that is wrong for a minute after a start would take every file along.
        today = min(self._today(), before[-1] + timedelta(days=1)) if before else self._today()
        oldest = today - timedelta(days=self._retention_days)
        for path, day in dates.items():
            if path.name != self._writes and day < oldest:
                log.info("day %s is older than %d days and goes", path.name, self._retention_days)
                _each_part(path, Path.unlink)

    def _set_aside(self, path: Path, error: EdgebedError) -> None:
        log.error("%s; it is kept as %s.damaged and a new file begins", error, path.name)
        _each_part(path, lambda part: part.rename(f"{part}.damaged"))

    @property
    def _writes(self) -> str:
        return self._day.path.name if self._day else ""

    def status(self) -> StoreStatus:
        """Sizes, days and what is wrong; any thread."""
        files = day_files(self.folder)
        return StoreStatus(
            folder=str(self.folder),
            day=self._writes,
            days=len(files),
            bytes=sum(_size(path) for path in files),
            free_bytes=shutil.disk_usage(self.folder).free,
            damaged=[path.name for path in aside(self.folder)],
            problem=self._checkpoint.problem,
        )

    def close(self) -> None:
        """Close the day file, bring the copy up to date, give the folder back."""
        self._checkpoint.copy(now=True)
        if self._day is not None:
            self._day.close()
        os.close(self._lock)


def day_files(folder: Path) -> list[Path]:
    """The usable day files of a store, in the order they were written."""
    return sorted(path for path in folder.glob("*.db") if _NAME.fullmatch(path.name))


def peek(folder: Path) -> Saved:
    """What a store remembers, read beside a collector that may be running.

    Raises:
        StoreError: there is no store, or a newer edgebed wrote it.
        TryAgain: it cannot be read now.
    """
    files = day_files(folder)
    if not files:
        raise StoreError(f"{folder} holds no day files: it is no store")
    for path in reversed(files):
        try:
            with contextlib.closing(connect(path)) as db:
                if version(db):
                    return read_saved(db)
        except sqlite3.Error as error:
            if not isinstance(translate(error, path), Damaged):
                raise TryAgain(f"{path} cannot be read: {error}") from error
    return read_copy(folder)


def aside(folder: Path) -> list[Path]:
    """Day files that were damaged and set aside."""
    return sorted(
        path for path in folder.glob("*.db.damaged") if _NAME.fullmatch(path.name.removesuffix(".damaged"))
    )


def lock(folder: Path) -> int:
    """Own a store's folder until the descriptor is closed, or the process ends however it does.

    Raises:
        TryAgain: another collector owns it, or the disk is full.
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(f"the store folder {folder}", error) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise TryAgain(f"another collector writes to {folder}: stop it, or name another store") from error
    return held


def _each_part(path: Path, act: Callable[[Path], object]) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            act(path.with_name(path.name + suffix))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # retired while we looked
        return 0
