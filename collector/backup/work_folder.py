"""A folder that gets its name when it is whole: until then it has another one beside it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wire.errors import EdgebedError, TryAgain, unwritable
from wire.folder_sync import sync_folder

UNFINISHED = "unfinished"  # a file in the folder until it is whole


@contextmanager
def work_folder(target: Path, purpose: str) -> Iterator[Path]:
    """A private folder beside `target` for the block; it is renamed to `target` at the end of the block.

    When the block fails, the folder is removed. What killed processes left beside `target` is removed first.

    Raises:
        TryAgain: another process works on the same target, or the disk is full.
        EdgebedError: `target` appeared meanwhile, or its parent cannot be written.
    """
    work = target.with_name(f".{target.name}.{purpose}")
    _remove_left(target.parent, purpose)
    held = _held(work)
    try:
        (work / UNFINISHED).touch()
        yield work
        (work / UNFINISHED).unlink()
        for folder in (work, *(path for path in work.iterdir() if path.is_dir())):
            sync_folder(folder)
        try:
            work.rename(target)
        except OSError as error:
            raise EdgebedError(
                f"{target} cannot be made: {error.strerror}; choose a name that does not exist yet"
            ) from error
        sync_folder(target.parent)
    except OSError as error:
        raise unwritable(str(target), error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(held)


def _remove_left(folder: Path, purpose: str) -> None:
    """Remove the unfinished folders of processes that were killed."""
    for work in folder.glob(f".*.{purpose}"):
        if work.is_symlink() or not (work / UNFINISHED).is_file():
            continue
        try:
            held = _held(work)
        except EdgebedError:  # another process writes it now
            continue
        shutil.rmtree(work, ignore_errors=True)
        os.close(held)


def _held(work: Path) -> int:
    """Make the folder or take over one that a killed process left; returns the descriptor that locks it."""
    try:
        work.mkdir(0o700, exist_ok=True)
        held = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise unwritable(str(work), error) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(held), work.stat()):
            raise FileNotFoundError  # the other process finished just now
    except OSError as error:
        os.close(held)
        raise TryAgain(f"another process writes {work}: wait until it ends") from error
    return held
