"""Files of a site: each is replaced in one step, with its mode and owner; changes by hand are kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from wire.errors import ConfigError, TryAgain, unwritable
from wire.folder_sync import sync_folder

SECRET, PUBLIC = 0o600, 0o644
_HEAD = "# Written by `edgebed site init`, which replaces it while it is unchanged. sha256 of the rest: "
_WRITTEN = re.compile(re.escape(_HEAD) + "([0-9a-f]{64})")
_MAX_FILE = 16 * 1024 * 1024


class Owner(NamedTuple):
    """The user that a file must belong to, by name and number."""

    name: str
    uid: int
    gid: int


def owner(name: str) -> Owner | None:
    """The user of this machine with this name; None where there is none."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Owner(name, found.pw_uid, found.pw_gid)


def owner_of(folder: Path) -> Owner | None:
    """The user that a folder belongs to, if files can be given to it: to root alone."""
    if os.geteuid() != 0:
        return None
    found = folder.stat()
    return Owner(user_name(found.st_uid), found.st_uid, found.st_gid)


def user_name(uid: int) -> str:
    """The name of a user of this machine, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands from changing the folder during the block.

    Raises:
        TryAgain: another command changes it now.
        ConfigError: the folder cannot be read.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unwritable(str(folder), error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise TryAgain(f"another command changes {folder} now: run this one again after it") from error
    finally:
        os.close(handle)


def make_folder(path: Path, mode: int, user: Owner | None = None) -> None:
    """Make a folder if it is not there, and give it its mode and owner.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(mode=mode, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _set(handle, mode, user)
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(str(path), error) from error


def write(path: Path, data: bytes, mode: int, user: Owner | None = None) -> None:
    """Replace a file in one step, durably, with its mode and owner.

    Raises:
        ConfigError: it cannot be written.
        TryAgain: the disk is full.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)  # of a process that was killed
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET)
        with os.fdopen(handle, "wb") as file:
            _set(handle, mode, user)
            file.write(data)
            file.flush()
            os.fsync(handle)
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(str(path), error) from error


def read(path: Path) -> bytes | None:
    """The bytes of a file; None if it is not there.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


Offered = Literal["made", "updated", "same", "kept"]


def offer(path: Path, text: str, mode: int = PUBLIC, user: Owner | None = None) -> Offered:
    """Write a text unless the file was changed by hand; its first line shows whether it was.

    What was changed is kept: `same` if the text is still the one that was changed, else `kept`, and the new
    text is in `PATH.new`.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    data = f"{_HEAD}{digest}\n{text}".encode()
    beside = path.with_name(f"{path.name}.new")
    old = read(path)
    if old is not None and old != data:
        head, _, rest = old.partition(b"\n")
        written = _WRITTEN.fullmatch(head.decode(errors="replace"))
        if written is None or written[1] != hashlib.sha256(rest).hexdigest():
            if written is not None and written[1] == digest:
                return "same"
            write(beside, data, mode, user)
            return "kept"
    beside.unlink(missing_ok=True)
    if old == data and not wrong_rights(path, mode, user):
        return "same"
    write(path, data, mode, user)
    return "made" if old is None else "same" if old == data else "updated"


def wrong_rights(path: Path, mode: int, user: Owner | None = None) -> str:
    """What is wrong with the mode and owner of a file, with the command that corrects it; else empty."""
    found = path.stat()
    has = stat.S_IMODE(found.st_mode)
    wrong = []
    if has & ~mode or mode & ~has & 0o400:
        wrong.append(f"mode {has:04o} instead of {mode:04o}: chmod {mode:o} {path}")
    if user is not None and found.st_uid != user.uid:
        wrong.append(f"it does not belong to user {user.name}: chown {user.name} {path}")
    return "; ".join(wrong)


def unreachable_folder(path: Path, user: Owner) -> Path | None:
    """The first folder above a file that this user may not enter; None if there is no such folder."""
    for folder in reversed(path.resolve().parents):
        found = folder.stat()
        shift = 6 if found.st_uid == user.uid else 3 if found.st_gid == user.gid else 0
        if user.uid and not found.st_mode >> shift & 1:
            return folder
    return None


def _set(handle: int, mode: int, user: Owner | None) -> None:
    if user is not None and os.geteuid() == 0:
        os.fchown(handle, user.uid, user.gid)
    os.fchmod(handle, mode)  # whatever the umask is
