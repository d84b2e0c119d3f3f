"""Makes a store of a backup: all of it, or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from collector.backup.manifest import BackedUpFile, sha256_of
from collector.backup.pace import Pace
from collector.backup.verify import Verified, verify
from collector.backup.work_folder import work_folder
from collector.rollout.restored import mark_restored
from collector.state.audit import audited
from collector.state.state_file import STATE, StateFile
from collector.store.folder import LOCK, lock
from collector.store.snapshot import copy_plain
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain

SPARE_BYTES = 16 * 1024 * 1024


def restore(backup: Path, store: Path, clock: Clock, pace: Pace, warn: Callable[[str], object]) -> Verified:
    """Check a backup, and copy it to the folder `store`, which must be empty or absent; what it holds.

    Raises:
        EdgebedError: the backup is not as it was made, or the folder cannot be used.
        TryAgain: a collector runs on the folder, or the disk is full.
        Stopped: `pace` was stopped; there is no store.
    """
    _require_place(store)
    found = verify(backup, pace)
    if found.manifest is None:
        raise EdgebedError(f"{backup} is a store, not a backup: copy it while its collector is stopped")
    if not found.is_intact:
        raise EdgebedError(f"{backup} is damaged: {'; '.join(found.problems)}; nothing was restored")
    _require_room(found.manifest.bytes, store)
    before = store.stat() if store.exists() else None
    with work_folder(store, "restore") as work:
        for one in found.manifest.files:
            _copy(backup, work, one, pace)
        # a collector that still writes to a folder that was here before finds that it is another one
        (work / LOCK).touch()
        mark_restored(work)
        with (
            contextlib.closing(StateFile(work, owns_store=True)) as state,
            audited(state, clock, "restore", str(backup.absolute()), warn),
        ):
            pass
        _give(work, before)
    return found


def _require_place(store: Path) -> None:
    if store.is_symlink():
        raise EdgebedError(f"{store} is a link: name the folder itself")
    if not store.parent.is_dir():
        raise EdgebedError(f"{store.parent} is not a folder: make it first")
    if not store.exists():
        return
    if not store.is_dir():
        raise EdgebedError(f"{store} is a file: name a folder")
    if (store / LOCK).exists():
        os.close(lock(store))  # raises while a collector runs
    if next(store.iterdir(), None) is not None:
        raise EdgebedError(f"{store} is not empty: move it away, or name another folder")
    if store.is_mount():
        raise EdgebedError(f"{store} is a mounted disk: name a new folder on it, and set `store` to that")


def _require_room(need: int, store: Path) -> None:
    free = shutil.disk_usage(store.parent).free
    if free < need + SPARE_BYTES:
        raise TryAgain(
            f"{store.parent} has {free / 1e6:.0f} MB free and the store needs "
            f"{(need + SPARE_BYTES) / 1e6:.0f} MB: free some space"
        )


def _copy(backup: Path, work: Path, one: BackedUpFile, pace: Pace) -> None:
    pace.begin(f"restore {one.name}", one.bytes)
    (work / one.name).parent.mkdir(exist_ok=True)
    copy_plain(backup / one.name, work / one.name, pace.step)
    if one.name == STATE:
        (work / one.name).chmod(0o600)  # it is used before `_give`, and it is refused if others can read it
    if sha256_of(work / one.name, pace.step) != one.sha256:
        raise EdgebedError(f"{backup / one.name} changed while it was restored: nothing was restored")


def _give(work: Path, before: os.stat_result | None) -> None:
    """Give the folder owner and mode of the empty one that was there, or those of a new one."""
    os.umask(mask := os.umask(0))
    work.chmod(0o777 & ~mask if before is None else before.st_mode & 0o7777)
    inside = list(work.rglob("*"))
    for path in inside:
        if path.is_file():
            path.chmod(0o600 if path.name.startswith(STATE) else 0o666 & ~mask)
    if before is not None and os.geteuid() == 0:
        for path in (work, *inside):
            os.chown(path, before.st_uid, before.st_gid)
