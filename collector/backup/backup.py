"""Copies a store into a backup while its collector runs."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from collector.backup import manifest as manifests
from collector.backup.manifest import FORMAT, MARKS, PLAIN, SET_ASIDE, BackedUpFile, Manifest, sha256_of
from collector.backup.pace import Pace
from collector.backup.work_folder import work_folder
from collector.state.state_file import STATE, StateFile, StateNewer
from collector.store.day_schema import SQL_ERRORS, Damaged, connect, parts, version
from collector.store.folder import aside, day_files
from collector.store.removed import Removed
from collector.store.snapshot import copy_plain, schema_of, snapshot
from collector.store.soundness import Content, check_day, check_pages
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain

SPARE_BYTES = 16 * 1024 * 1024  # that must stay free
TRIES = 3


class _Changed(Exception):
    """A file of the store was renamed or removed while the store was copied."""


def back_up(
    store: Path, target: Path, made_by: str, clock: Clock, pace: Pace, *, base: Path | None = None
) -> Manifest:
    """Copy a store to the new folder `target`, which is there when it is whole; it says what it has.

    Day files that did not change since the backup `base` are linked to the files there.

    Raises:
        EdgebedError: a folder cannot be used, or the store is not readable.
        TryAgain: the disk is full, or the files changed too often.
        Stopped: `pace` was stopped.
    """
    _require_places(store, target)
    earlier = _earlier(store, base)
    for _ in range(TRIES):
        with contextlib.suppress(_Changed), work_folder(target, "backup") as work:
            copying = _Copying(store, work, pace, base, earlier)
            _require_room(copying, target)
            at_ms = clock.now_ms()
            made = Manifest(FORMAT, made_by, store_id(store), at_ms, copying.run())
            manifests.write(work, made)
            return made
    raise TryAgain(f"the files of {store} changed while they were copied, {TRIES} times: try again")


def store_id(store: Path) -> str:
    """The random name of a store; "" when its `state.db` cannot be used.

    Raises:
        StateNewer: a newer version of edgebed wrote it.
    """
    with contextlib.closing(StateFile(store)) as state:
        try:
            return state.store_id()
        except StateNewer:
            raise
        except EdgebedError:
            return ""


def _require_places(store: Path, target: Path) -> None:
    if not day_files(store) and not aside(store):
        raise EdgebedError(f"{store} is not a store: it has no day files")
    manifests.require_readable(day_files(store))
    if target.is_symlink() or target.exists():
        raise EdgebedError(
            f"{target} exists: name a folder that does not exist yet; a backup is never changed"
        )
    if not target.parent.is_dir():
        raise EdgebedError(f"{target.parent} is not a folder: make it first")
    inside, outside = target.parent.resolve() / target.name, store.resolve()
    if inside.is_relative_to(outside):
        raise EdgebedError(
            f"{target} is inside the store {store}: name a folder outside, best on another disk"
        )


def _earlier(store: Path, base: Path | None) -> dict[str, BackedUpFile]:
    """The day files of an earlier backup that ended and were sound, by name."""
    if base is None:
        return {}
    made = manifests.read(base)
    mine = store_id(store)
    if made.store and mine and made.store != mine:
        raise EdgebedError(f"{base} is a backup of another store: leave --base out, or name one of {store}")
    return {one.name: one for one in made.days() if one.source_ns and not one.damage}


def _require_room(copying: _Copying, target: Path) -> None:
    free, need = shutil.disk_usage(target.parent).free, copying.size() + SPARE_BYTES
    if free < need:
        raise TryAgain(
            f"{target.parent} has {free / 1e6:.0f} MB free and a backup needs {need / 1e6:.0f} MB: "
            "free some space, or name a folder on another disk"
        )


class _Copying:
    """One pass over a store.

    The order is what makes the copy consistent. The newest day file has the marks of everything that is
    stored, so it is copied before the files that it speaks of, which do not change any more. The copy of the
    marks may be older than this file but never newer. What retention removed is read last, and its files are
    taken out of the backup.
    """

    def __init__(
        self, store: Path, work: Path, pace: Pace, base: Path | None, earlier: dict[str, BackedUpFile]
    ) -> None:
        self._store = store
        self._work = work
        self._pace = pace
        self._base = base
        self._earlier = earlier
        self._days = [path for path in reversed(day_files(store)) if _is_begun(path)]
        damaged = [part for path in aside(store) for part in parts(path) if not part.name.endswith("-shm")]
        self._others = [path for path in damaged if path.exists()]
        # a file that the collector did not put there would make the manifest one that `read` refuses
        put_aside = sorted(store.glob(f"{SET_ASIDE}/*"))
        self._others += [path for path in put_aside if manifests.is_name(f"{SET_ASIDE}/{path.name}")]

    def size(self) -> int:
        """How many bytes will be copied, at most."""
        sources = [*self._days, *self._others, *(self._store / name for name in (MARKS, STATE, *PLAIN))]
        linked = {path for path in self._days if self._is_unchanged(path)}
        files = [part for path in sources if path not in linked for part in (path, _wal(path))]
        return sum(_size(path) for path in files)

    def run(self) -> list[BackedUpFile]:
        """Copy all of it.

        Raises:
            _Changed: a file is not there any more.
        """
        found = self._database(MARKS)
        for path in self._days:
            try:
                found.append(self._day(path))
            except FileNotFoundError as error:
                if path.name not in Removed(self._store).files():  # retention notes it before it removes it
                    raise _Changed from error
        found += self._database(STATE)
        plain = [path for name in PLAIN if (path := self._store / name).exists()]
        try:
            found += [self._plain(path) for path in (*self._others, *plain)]
        except FileNotFoundError as error:
            raise _Changed from error
        retired = Removed(self._work).files()
        for one in found:
            if one.name in retired:
                (self._work / one.name).unlink()
        return [one for one in found if one.name not in retired]

    def _day(self, path: Path) -> BackedUpFile:
        known = self._linked(path) if self._is_unchanged(path) else None
        if known is not None:
            return known
        source = path.stat() if path != self._days[0] and not _size(_wal(path)) else None
        target = self._work / path.name
        self._pace.begin(f"copy {path.name}", _size(path))
        try:
            snapshot(path, target, self._pace.step)
        except Damaged as error:
            return self._damaged(path, error)
        self._pace.begin(f"check {path.name}", _size(path))
        content = Content()
        check_day(target, content, self._pace.step)
        return self._listed(
            path.name,
            damage="; ".join(content.problems),
            source_bytes=source.st_size if source else 0,
            source_ns=source.st_mtime_ns if source else 0,
        )

    def _damaged(self, path: Path, error: Damaged) -> BackedUpFile:
        """Copy a day file that SQLite cannot read as it is; a collector reads what it still gives."""
        (self._work / path.name).unlink(missing_ok=True)
        copy_plain(path, self._work / path.name, self._pace.step)
        return self._listed(path.name, damage=f"{path.name} is damaged: {error}")

    def _is_unchanged(self, path: Path) -> bool:
        """Whether a day file is as it was when the earlier backup was made."""
        one = self._earlier.get(path.name)
        if one is None or path == self._days[0] or _size(_wal(path)):
            return False
        with contextlib.suppress(FileNotFoundError):
            now = path.stat()
            return (now.st_size, now.st_mtime_ns) == (one.source_bytes, one.source_ns)
        return False

    def _linked(self, path: Path) -> BackedUpFile | None:
        """Link the file of the earlier backup; None when it is another one, or cannot be linked."""
        if self._base is None:
            return None
        one, there = self._earlier[path.name], self._base / path.name
        self._pace.begin(f"compare {path.name}", one.bytes)
        try:
            os.link(there, self._work / path.name, follow_symlinks=False)
            if (self._work / path.name).is_symlink() or sha256_of(there, self._pace.step) != one.sha256:
                raise OSError
        except OSError:
            (self._work / path.name).unlink(missing_ok=True)
            return None
        return one

    def _database(self, name: str) -> list[BackedUpFile]:
        """Copy a small SQLite file, if the store has it."""
        path, target = self._store / name, self._work / name
        if not path.exists():
            return []
        self._pace.begin(f"copy {name}", _size(path))
        try:
            snapshot(path, target, self._pace.step)
        except Damaged as error:
            target.unlink(missing_ok=True)
            copy_plain(path, target, self._pace.step)
            return [self._listed(name, damage=f"{name} is damaged: {error}")]
        return [self._listed(name, damage="; ".join(check_pages(target, self._pace.step)))]

    def _plain(self, path: Path) -> BackedUpFile:
        name = str(path.relative_to(self._store))
        self._pace.begin(f"copy {name}", _size(path))
        (self._work / name).parent.mkdir(mode=0o700, exist_ok=True)
        copy_plain(path, self._work / name, self._pace.step)
        return self._listed(name)

    def _listed(self, name: str, **fields: Any) -> BackedUpFile:
        path = self._work / name
        path.chmod(0o600)
        self._pace.begin(f"hash {name}", _size(path))
        schema = schema_of(path) if name.endswith(".db") else 0
        return BackedUpFile(name, _size(path), sha256_of(path, self._pace.step), schema, **fields)


def _is_begun(path: Path) -> bool:
    """Whether a day file has a schema; without one, its creation goes on now or was ended by a crash."""
    try:
        with contextlib.closing(connect(path)) as db:
            return version(db) > 0
    except SQL_ERRORS:
        return True


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
