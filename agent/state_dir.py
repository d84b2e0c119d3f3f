"""The state folder: makes it, keeps it for one node and one agent, and checks whether its agent runs."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from wire.errors import ConfigError, TryAgain, WireError, unwritable
from wire.topics import Address

log = logging.getLogger(__name__)

LOCK = "agent.lock"
NODE_FILE = "node"  # the address of the node that the folder belongs to
_MAX_NODE = 1_024  # bytes
_PATIENCE_S = 1.0  # for a process that was just killed, or for `is_running` in another process


@contextlib.contextmanager
def locked(state: Path, node: str) -> Iterator[None]:
    """Own the folder, making it if needed. The kernel frees it when this process ends, even by a kill.

    Raises:
        ConfigError: the folder cannot be made or written, or belongs to another node than `node`.
        TryAgain: another agent owns the folder, or the disk is full.
    """
    check_node(state, node)  # before the lock: another node may run on the folder
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(f"state folder {state}", error) from error
    try:
        if not _lock(handle):
            pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise TryAgain(f"another agent (process {pid}) runs on state folder {state}: stop it first")
        with contextlib.suppress(OSError):  # a full disk: the number is only for the message above
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        _claim(state, node)
        yield
    finally:
        os.close(handle)


def check_node(state: Path, node: str) -> None:
    """Check that no other node than `node` has used the folder: one outbox has the messages of one node.

    Raises:
        ConfigError: the folder belongs to another node.
    """
    owner = _owner(state)
    if owner not in ("", node):
        raise belongs_to(state, owner, node)


def belongs_to(state: Path, owner: str, node: str) -> ConfigError:
    """The error for a state folder of another node."""
    return ConfigError(
        f"state folder {state} belongs to node {owner}, not to {node}: give {node} another `state` folder,"
        " or correct `node`"
    )


def is_running(state: Path) -> bool:
    """Whether an agent owns this folder now."""
    try:
        handle = os.open(state / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def keep(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file in one step, durably. Raises OSError and keeps the old file."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)  # left by a write that was cut off, perhaps with another mode
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _owner(state: Path) -> str:
    """The node that the folder belongs to; empty for a new folder and for one of an earlier release."""
    try:
        with (state / NODE_FILE).open("rb") as file:
            return str(Address.parse(file.read(_MAX_NODE).decode("ascii").strip()))
    except (OSError, UnicodeDecodeError, WireError):  # damaged: it is written again
        return ""


def _claim(state: Path, node: str) -> None:
    """Note in the folder, once, that it belongs to `node`."""
    check_node(state, node)  # an agent that has just ended may have claimed it
    if _owner(state):
        return
    try:
        keep(state / NODE_FILE, f"{node}\n".encode("ascii"))
    except OSError as error:  # a deployed agent reads its devices also with a full disk
        log.warning("%s cannot be written (%s)", state / NODE_FILE, error.strerror)


def _lock(handle: int) -> bool:
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until_s:
                return False
            time.sleep(0.05)
        else:
            return True
