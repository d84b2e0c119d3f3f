"""Puts the names in a folder on disk: after a power cut, a new, renamed or removed file is as it was last."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk.

    Raises:
        OSError: it is not a folder, or the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    """Have the names in a folder, and in every folder below it, on disk.

    Raises:
        OSError: the disk fails.
    """
    for path in (folder, *(each for each in folder.rglob("*") if each.is_dir())):
        sync_folder(path)
