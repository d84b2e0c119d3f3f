"""The store: a folder of day files with one writer, and the interface for another database."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct, field

from collector.store.checkpoint import Checkpoint, read_copy
from collector.store.day_file import DayFile
from collector.store.day_schema import (
    SCHEMA,
    SQL_ERRORS,
    Damaged,
    Displaced,
    StoreBusy,
    StoreError,
    connect,
    end,
    has_landed,
    identity,
    messages_in,
    parts,
    read_saved,
    remove,
    schema_of,
    translate,
    version,
)
from collector.store.folder import LOCK, aside, begins_later, day_files, day_of, lock
from collector.store.group import Group, Saved
from collector.store.prune import SUFFIX, Due, Leaving, place, planned, rewrite, settled
from collector.store.pruned import held_in, of_files, stated_in
from collector.store.removed import Pruned, Removed
from collector.store.rescue import damage, rescue, unreadable
from collector.store.retention import Retention, RetentionRule, today_of
from collector.store.snapshot import Step
from collector.store.source import Source
from collector.store.sqlite_source import SqliteSource
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain

log = logging.getLogger(__name__)

WORK_EVERY_S = 1.0
DayName = tuple[str, tuple[int, int] | None]  # name, and which file that is
MOST_ENDED = 8  # files that are packed beside the one being written: a clock may jump over many midnights


class StoreStatus(Struct):
    """The state of a store, for people and monitors."""

    folder: str
    day: str
    days: int
    bytes: int
    free_bytes: int
    damaged: list[str]
    problem: str = field(name="trouble", default="")


class Store(Protocol):
    """Where groups are committed; only one thread calls `commit`, `work` and `take_sizes`."""

    folder: Path

    def load(self) -> Saved:
        """What was saved before this start."""
        ...

    def commit(self, group: Group) -> None:
        """Write a group to disk, all of it or nothing.

        Raises:
            StoreBusy: the same group can be committed later.
        """
        ...

    def work(self) -> None:
        """Do a short piece of what commits leave to do; between any two commits, and it raises nothing."""
        ...

    def take_sizes(self) -> Mapping[str, int]:
        """By how many bytes what is stored of each node grew since the last call."""
        ...

    def source(self) -> Source:
        """A new source of what is committed; any thread, and each source for one."""
        ...

    def status(self) -> StoreStatus:
        """The state now; any thread."""
        ...

    def close(self) -> None:
        """Release the store."""
        ...


class SqliteStore:
    """`Store` on SQLite day files named `{number}-{date of receipt}.db`; the highest number is being written.

    Raises on opening:
        TryAgain: another collector owns the folder, or it is not writable.
        StoreError: a newer edgebed or another program made a file.
    """

    def __init__(
        self, folder: Path, clock: Clock, retention_days: int = 0, rules: Sequence[RetentionRule] = ()
    ) -> None:
        self.folder = folder.absolute()
        self.retention = Retention(retention_days, rules)
        self._clock = clock
        self._placing = threading.Lock()  # held while old day files are replaced or removed
        self._is_closed = False
        self._lock = lock(self.folder)
        self._written: Group | None = None  # in the file, but not confirmed to be on its path
        self._number = 0  # highest number of a day file that this store used
        self._suspects = set[str]()  # open files that readers found to be damaged
        self.problem = ""  # what happened to its files since the start
        self.packing_problem = ""  # why rows that landed cannot be packed now
        self._sizes: Counter[str] = Counter()
        self._ended: list[DayFile] = []  # files before, while rows in them wait to be packed
        self._work_at = clock.monotonic()
        try:
            self._checkpoint = Checkpoint(self.folder, clock)
            self.removed = Removed(self.folder)
            if self.removed.messages() is None and not self.has_begun_later():
                self.removed.add({})
            self._day: DayFile | None = self._open_newest()
            self._open_ended()
            for left in self.folder.glob(f"*{SUFFIX}"):  # of a collector that was ended
                remove(left)
            self._retire()
        except BaseException:
            os.close(self._lock)
            raise

    def _open_newest(self) -> DayFile | None:
        """The file to write to; None when the next commit begins one."""
        while files := day_files(self.folder):
            day = None
            try:
                schema = schema_of(files[-1])
                if not schema:
                    # a crash while it was created: the file before it has all that it would start with
                    remove(files[-1])
                    continue
                if schema < SCHEMA:  # it stays as it is
                    self._checkpoint.restore(end(files[-1]))
                else:
                    day = DayFile(files[-1], sizes=self._sizes)
                    self._checkpoint.restore(day.saved())
            except Damaged as error:
                if day is not None:
                    day.abandon()
                self._set_aside(files[-1], error)
                continue
            if any(path.name > files[-1].name for path in aside(self.folder)):
                # The copy has the marks that the damaged file no longer gives. Beside sound files it is not
                # used: after a restore from a backup it has marks of rows that are not in the files.
                self._checkpoint.restore(read_copy(self.folder))
                if day is not None:
                    day.close()
                return self._create()  # the damaged file gets its name again when it is rescued
            self._number = int(files[-1].name[:6])
            return day
        self._checkpoint.restore(read_copy(self.folder))
        return self._create()

    def _open_ended(self) -> None:
        """Open the files before the newest in which rows wait: a collector ended before it packed them."""
        for path in day_files(self.folder):
            if path.name == self._writes or len(self._ended) >= MOST_ENDED:
                continue
            with contextlib.suppress(EdgebedError, *SQL_ERRORS):  # readers find what is wrong with it
                with contextlib.closing(connect(path)) as db:
                    waits = has_landed(db)
                if waits:
                    self._ended.append(DayFile(path, sizes=self._sizes))

    def _create(self) -> DayFile:
        numbers = [int(path.name[:6]) for path in (*day_files(self.folder), *aside(self.folder))]
        # Not the number of a file that was removed while it was open: readers still hold its -shm file.
        number = max(self._number, *numbers, 0) + 1
        path = self.folder / f"{number:06d}-{self._today().isoformat()}.db"
        try:
            day = DayFile(path, self._checkpoint.saved(), self._sizes)
            self._number = number
            return day
        except EdgebedError:  # for example a full disk: the next try must not leave a second half-made file
            with contextlib.suppress(OSError):
                remove(path)
            raise

    def load(self) -> Saved:
        """Marks and states of all days."""
        return self._checkpoint.saved()

    def commit(self, group: Group) -> None:
        """Write a group in one transaction to today's file; replace a damaged or removed file by a new one.

        Nothing fails after the group is in the file that is on its path.

        Raises:
            StoreBusy: the disk is full, the file is locked or not writable, or the folder was replaced:
                commit the same group again.
        """
        try:
            self._require_folder()
            if self._written is not group:
                self._write(group)
            self._confirm(group)
        except OSError as error:
            raise StoreBusy(f"{self.folder} cannot be used: {error.strerror or error}") from error
        self._written = None
        try:
            self._checkpoint.note(group)
            self._checkpoint.copy()
        except Exception as error:
            log.exception("the marks of a commit were not noted: please report this")
            self._checkpoint.problem = f"the marks of a commit were not noted: {error}"

    def work(self) -> None:
        """Pack rows that landed: of the files before, all; of today's, those that waited long enough."""
        now_s = self._clock.monotonic()
        if self._work_at <= now_s < self._work_at + WORK_EVERY_S:
            return
        self._work_at = now_s
        try:
            self._require_folder()
            self._pack()
        except (OSError, StoreBusy) as error:
            self.packing_problem = f"{error}: messages are kept as they came, and packed later"
        except Exception as error:
            log.exception("rows cannot be packed: please report this")
            self.packing_problem = f"rows cannot be packed: {error}"
        else:
            self.packing_problem = ""

    def _pack(self) -> None:
        self._leave_suspects()
        busy: StoreBusy | None = None
        for day in self._open_days():
            try:
                more = day.pack(self._clock.now_ms(), everything=day is not self._day)
            except Damaged as error:
                self._abandon(day, error)
                continue
            except StoreBusy as error:  # of this file: the others do not wait for it
                busy = error
                continue
            if more:
                self._work_at -= WORK_EVERY_S  # go on after the next commit
            elif day is not self._day:
                self._ended.remove(day)
                day.close()
        if busy is not None:
            raise busy

    def take_sizes(self) -> Mapping[str, int]:
        """What the day files noted."""
        found = self._sizes.copy()
        self._sizes.clear()
        return found

    def _write(self, group: Group) -> None:
        day = self._current()
        try:
            day.write(group)
        except Damaged as error:
            if not day.is_proven:  # a new file has no damage: the group itself does not fit
                raise EdgebedError(str(error)) from error
            self._abandon(day, error)
            self._current().write(group)
        self._written = group

    def _confirm(self, group: Group) -> None:
        """Have `group` in a file that is on its path."""
        for _ in range(3):
            if self._day is not None and self._is_in_place(self._day):
                return
            self._write(group)
        raise StoreBusy(f"the day files in {self.folder} are removed as soon as they are made")

    def _is_in_place(self, day: DayFile) -> bool:
        """Whether what was written is on disk; a file that is not on its path is left for a new one."""
        try:
            if not day.confirm():
                log.error("%s-wal was removed: what it held is saved; a new file is started", day.path.name)
                self._day = None
                day.abandon()
            return True
        except Displaced as error:
            self.problem = f"{error}: what was stored in it is lost unless it is put back"
            log.error("%s; a new file is started", self.problem)
            self._written = self._day = None
            day.abandon()
        except Damaged as error:
            self._written = None
            self._abandon(day, error)
        return False

    def _require_folder(self) -> None:
        """Refuse a folder that is not the one that was opened, for example below a disk that was unmounted.

        Raises:
            StoreBusy: it is another folder, or another collector owns it.
        """
        held, path = os.fstat(self._lock), self.folder / LOCK
        found = identity(path)
        if found == (held.st_dev, held.st_ino):
            return
        near = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        if found is not None or near.stat().st_dev != held.st_dev:
            raise StoreBusy(
                f"{self.folder} is not the folder that this collector opened: mount its disk again, "
                "or restart the collector"
            )
        self._lock, gone = lock(self.folder), self._lock  # the folder was emptied or removed
        os.close(gone)

    def _current(self) -> DayFile:
        """Today's file; after midnight UTC a new one, which starts with the marks and states of the last."""
        self._leave_suspects()
        day = self._day
        if day is not None and day.path.name[7:17] == self._today().isoformat():
            return day
        self._checkpoint.copy(now=True)
        self._day = self._create()
        if day is not None:
            self._ended.append(day)
        if len(self._ended) > MOST_ENDED:  # the next start packs what is left of it
            self._ended.pop(0).close()
        try:
            self._retire()
        except OSError as error:  # the next midnight tries again
            log.error("an old day file cannot be removed: %s", error)
        return self._day

    def _leave_suspects(self) -> None:
        """Set files aside that readers found to be damaged."""
        for day in self._open_days():
            if day.path.name in self._suspects:
                self._suspects.discard(day.path.name)
                self._abandon(day, Damaged(f"{day.path.name} has rows that cannot be read"))

    def _abandon(self, day: DayFile, error: Damaged) -> None:
        if day is self._day:
            self._day = None
        else:
            self._ended.remove(day)
        day.abandon()
        self._set_aside(day.path, error)

    def _today(self) -> date:
        return today_of((), self._clock)

    def _retire(self) -> None:
        """Remove the day files that are older than every rule."""
        most = self.retention.longest()
        if not most:
            return
        for path, day in self._dates().items():
            if path.name != self._writes and day < self.retention_day() - timedelta(days=most):
                log.info("day file %s is older than %d days: removed", path.name, most)
                with self._placing:
                    self._note_removal(path)
                    remove(path)

    def _dates(self) -> dict[Path, date]:
        return {path: day_of(path) for path in day_files(self.folder)}

    def retention_day(self) -> date:
        """The day from which the age of day files is counted."""
        ended = [day for path, day in self._dates().items() if path.name != self._writes]
        return today_of(ended, self._clock)

    def ended_days(self) -> dict[Path, date]:
        """The day files that are not written any more, the oldest first; any thread."""
        opened = {day.path for day in self._open_days()}
        return {path: day for path, day in self._dates().items() if path not in opened}

    def prune(self, path: Path, due: Due, step: Step) -> Leaving:
        """Remove what is due from a day file that ended; what was removed, empty when nothing was.

        For one thread beside the writer.

        Raises:
            Damaged: the file cannot be read.
            StoreBusy: there is no room, or rows in the file wait to be packed.
            Stopped: `step` was stopped; the file is as it was.
            OSError: the disk fails.
        """
        was = identity(path)
        gone = planned(path, due)
        if not gone or not settled(path):
            return Leaving()
        work = rewrite(path, gone, path.name[7:17], step)
        try:
            with self._placing:
                if self._is_closed or path not in self.ended_days() or identity(path) != was:
                    return Leaving()
                place(work, path)
        finally:
            remove(work)
        return gone

    def _note_removal(self, path: Path) -> None:
        try:
            with contextlib.closing(connect(path)) as db:
                stated, held = stated_in(db), held_in(db, path.name[7:17])
                messages = Counter(messages_in(db))
        except (*SQL_ERRORS, EdgebedError, msgspec.MsgspecError, TypeError, ValueError) as error:
            log.warning("%s is damaged, and its messages are not counted as removed: %s", path.name, error)
            return
        for one in stated:
            messages[one.node] += one.messages
        self.removed.add(messages, [path.name], [*stated, *held])

    def _set_aside(self, path: Path, error: EdgebedError) -> None:
        log.error("%s; renamed to %s.damaged, and a new file is started", error, path.name)
        aside_path = path.with_name(f"{path.name}.damaged")
        for part, renamed in zip(parts(path), parts(aside_path), strict=True):
            with contextlib.suppress(FileNotFoundError):
                part.rename(renamed)

    @property
    def copy_problem(self) -> str:
        """Why the copy of the marks cannot be written, "" when it can."""
        return self._checkpoint.problem

    @property
    def _writes(self) -> str:
        return self._day.path.name if self._day else ""

    def _open_days(self) -> list[DayFile]:
        return [*self._ended, *([self._day] if self._day else [])]

    def rescue(self, suspects: Iterable[str] = ()) -> dict[str, int]:
        """Copy what damaged files still give into sound ones; the names of damaged files and rows they lost.

        `suspects` are files that readers found to be damaged. For one thread beside the writer.

        Raises:
            OSError, EdgebedError: a file cannot be read or written now.
        """
        for path in day_files(self.folder):
            if path.name in suspects and path in [day.path for day in self._open_days()]:
                self._suspects.add(path.name)  # the writer sets it aside
            elif path.name in suspects:
                self._set_aside(path, Damaged(f"{path.name} has rows that cannot be read"))
        found: dict[str, int] = {}
        for damaged in aside(self.folder):
            sound = damaged.with_name(damaged.name.removesuffix(".damaged"))
            if sound.exists():
                try:
                    with contextlib.closing(connect(sound)) as db:
                        found[sound.name] = unreadable(db).unreadable
                except SQL_ERRORS as error:
                    raise translate(error, sound) from error
                continue
            rescued = rescue(damaged, sound, self._checkpoint.saved())
            if rescued is not None:
                log.warning("%s; %d rows are readable", damage(sound.name, rescued.unreadable), rescued.rows)
                found[sound.name] = rescued.unreadable
        return found

    def aside(self) -> list[Path]:
        """Damaged day files that were renamed."""
        return aside(self.folder)

    def files(self) -> set[DayName]:
        """The usable day files."""
        return {(path.name, identity(path)) for path in day_files(self.folder)}

    def pruned(self) -> list[Pruned]:
        """What was removed from the day files by retention."""
        return list(of_files(self.folder))

    def has_begun_later(self) -> bool:
        """Whether the first day files are gone."""
        return begins_later(self.folder)

    def source(self) -> Source:
        """Connections of its own to the day files."""
        return SqliteSource(self.folder)

    def status(self) -> StoreStatus:
        """Sizes, days and problems; any thread."""
        files = day_files(self.folder)
        return StoreStatus(
            folder=str(self.folder),
            day=self._writes,
            days=len(files),
            bytes=sum(_size(path) for path in files),
            free_bytes=shutil.disk_usage(self.folder).free,
            damaged=[path.name for path in aside(self.folder)],
            problem=self._checkpoint.problem or self.problem,
        )

    def close(self) -> None:
        """Update the copy, close the day file, release the folder."""
        self._checkpoint.copy(now=True)
        for day in self._open_days():
            day.close()
        with self._placing:
            self._is_closed = True
            os.close(self._lock)


def peek(folder: Path) -> Saved:
    """What a store saved; a collector may be running beside this.

    Raises:
        StoreError: the folder is not a store, or a newer edgebed wrote it.
        TryAgain: it cannot be read now.
    """
    files = day_files(folder)
    if not files:
        raise StoreError(f"{folder} is not a store: it has no day files")
    for path in reversed(files):
        try:
            with contextlib.closing(connect(path)) as db:
                if version(db):
                    return read_saved(db)
        except (msgspec.MsgspecError, TypeError, ValueError):
            continue  # damaged
        except sqlite3.Error as error:
            if not isinstance(translate(error, path), Damaged):
                raise TryAgain(f"{path} cannot be read: {error}") from error
    return read_copy(folder)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # removed by retention in this moment
        return 0
