"""Reads the files of a model package: regular files inside its folder, never through a link, up to a size."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from agent.inference.decoders import ModelError
from wire.printable import printable

# opening a FIFO must not block, and opening a terminal must not make it this process's own terminal
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_REGULAR = {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR}  # a link, a socket, a device, a folder
_MOST_ENTRIES = 10_000  # of one folder
_MOST_FILES, _DEEPEST = 2_000, 8  # of a whole package
_CHUNK = 1 << 20


def read(folder: Path, name: str, most: int) -> bytes:
    """The content of the file `name` of the package `folder`, at most `most` bytes.

    `folder` itself may be a link; below it no link is followed.

    Raises:
        ModelError: the name leaves the folder, or the file is missing, not regular, too large or unreadable.
    """
    with opened(folder, name, most) as file:
        return _content(file, printable(name), most)


def read_file(path: Path, most: int) -> bytes:
    """The content of a file that the user named, who may name a link; at most `most` bytes.

    Raises:
        ModelError: the file is missing, not regular, too large or unreadable.
    """
    shown = printable(path.name)
    try:
        file = os.open(path, _OPEN)
    except OSError as error:
        raise _refusal(shown, error) from error
    with _closing(file):
        _require_regular(file, shown, most)
        return _content(file, shown, most)


@contextmanager
def opened(folder: Path, name: str, most: int) -> Iterator[int]:
    """A descriptor of the regular file `name` of the package `folder`, which has at most `most` bytes.

    Raises:
        ModelError: as `read`.
    """
    shown = printable(name)
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name:
        raise ModelError(f"{shown!r} is not a path inside the package")
    try:
        at = _open_folder(folder, parts[:-1])
        with _closing(at):
            file = os.open(parts[-1], _OPEN | os.O_NOFOLLOW, dir_fd=at)
    except OSError as error:
        raise _refusal(shown, error) from error
    with _closing(file):
        _require_regular(file, shown, most)
        yield file


def entries(folder: Path, name: str, suffix: str) -> list[str]:
    """The sorted names of what is in the folder `name` of the package and ends in `suffix`; [] without it.

    Raises:
        ModelError: it is a link or another thing than a folder, or has too many entries.
    """
    try:
        at = os.open(folder / name, _OPEN | os.O_NOFOLLOW | os.O_DIRECTORY)
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise ModelError(f"{name} is not a folder (links are not followed)") from error
        raise _refusal(name, error) from error
    with _closing(at), os.scandir(at) as found:
        listed = [entry.name for entry in islice(found, _MOST_ENTRIES + 1)]
    if len(listed) > _MOST_ENTRIES:
        raise ModelError(f"{name} has more than {_MOST_ENTRIES} entries")
    return sorted(each for each in listed if each.endswith(suffix))


def every(folder: Path, skipped: Collection[str] = ()) -> list[str]:
    """The sorted names of everything below a package but folders, as `golden/a.npz`; reads no content.

    What is in `skipped`, by its name from the top, is left out with all that is in it.

    Raises:
        ModelError: there are too many, too deep, or a folder cannot be read.
    """
    found: list[str] = []
    waiting, count = [""], 0
    while waiting:
        prefix = waiting.pop()
        try:
            at = _open_folder(folder, PurePosixPath(prefix).parts)
            with _closing(at), os.scandir(at) as entries_here:
                for entry in entries_here:
                    name = prefix + entry.name
                    if name in skipped:
                        continue
                    count += 1
                    if count > _MOST_FILES or name.count("/") > _DEEPEST:
                        raise ModelError(
                            f"it has more than {_MOST_FILES} files, or folders deeper than {_DEEPEST}"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{name}/")
                    else:
                        found.append(name)
        except OSError as error:
            raise _refusal(printable(prefix or folder.name), error) from error
    return sorted(found)


def sha256(folder: Path, name: str, most: int) -> tuple[str, int]:
    """The hexadecimal sha256 of the file `name` of a package, and its size.

    Raises:
        ModelError: as `read`.
    """
    digest, size = hashlib.sha256(), 0
    with opened(folder, name, most) as file:
        try:
            while size <= most and (chunk := os.read(file, _CHUNK)):
                digest.update(chunk)
                size += len(chunk)
        except OSError as error:
            raise _refusal(printable(name), error) from error
    if size > most:  # it has grown since it was opened
        raise ModelError(f"{printable(name)} has more than {most} bytes")
    return digest.hexdigest(), size


def fingerprint(folder: Path, names: Iterable[str]) -> list[Any]:
    """What changes when one of the files is written, replaced or removed; reads no content."""
    found: list[Any] = []
    for name in names:
        shown = name.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8
        try:
            at = os.lstat(folder / name)
        except (OSError, ValueError) as error:
            found.append((shown, type(error).__name__))
        else:
            found.append((shown, at.st_mode, at.st_size, at.st_mtime_ns, at.st_ctime_ns))
    return found


def _open_folder(folder: Path, parts: Iterable[str]) -> int:
    """A descriptor of a folder inside the package."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        with _closing(at):
            at = os.open(part, _OPEN | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=at)
    return at


@contextmanager
def _closing(file: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(file)


def _require_regular(file: int, shown: str, most: int) -> None:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{shown} is not a regular file")
    if status.st_size > most:
        raise ModelError(f"{shown} has {status.st_size} bytes; {most} are allowed")


def _content(file: int, shown: str, most: int) -> bytes:
    try:
        with os.fdopen(file, "rb", closefd=False) as reader:
            body = reader.read(most + 1)
    except OSError as error:
        raise _refusal(shown, error) from error
    if len(body) > most:  # it has grown since it was opened
        raise ModelError(f"{shown} has more than {most} bytes")
    return body


def _refusal(shown: str, error: OSError) -> ModelError:
    if error.errno in _NOT_REGULAR:
        hint = ": it is a link, put the file itself into the package" if error.errno == errno.ELOOP else ""
        return ModelError(f"{shown} is not a regular file{hint}")
    if error.errno == errno.ENOENT:
        return ModelError(f"{shown} is missing")
    if error.errno == errno.ENOTDIR:
        return ModelError(f"{shown}: a part of this path is not a folder (links are not followed)")
    return ModelError(f"{shown} cannot be read: {error.strerror or error}")
