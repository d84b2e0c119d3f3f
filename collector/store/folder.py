"""The folder of a store: the names of its day files, and the lock of its one writer."""

from __future__ import annotations

import fcntl
import os
import re
from datetime import date
from pathlib import Path

from wire.errors import TryAgain, unwritable

_NAME = re.compile(r"(\d{6})-(\d{4}-\d{2}-\d{2})\.db")
LOCK = "lock"


def day_files(folder: Path) -> list[Path]:
    """The usable day files of a store, in the order in which they were written."""
    return sorted(path for path in folder.glob("*.db") if _NAME.fullmatch(path.name))


def day_of(path: Path) -> date:
    """The day of receipt of a day file."""
    return date.fromisoformat(path.name[7:17])


def begins_later(folder: Path) -> bool:
    """Whether the first day files of a store are gone."""
    names = sorted(path.name for path in (*day_files(folder), *aside(folder)))
    return bool(names) and int(names[0][:6]) > 1


def aside(folder: Path) -> list[Path]:
    """Damaged day files that were renamed."""
    return sorted(
        path for path in folder.glob("*.db.damaged") if _NAME.fullmatch(path.name.removesuffix(".damaged"))
    )


def lock(folder: Path) -> int:
    """Own a store's folder until the returned descriptor is closed or the process ends.

    Raises:
        TryAgain: another collector owns it, or the disk is full.
        ConfigError: the folder is not writable.
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
