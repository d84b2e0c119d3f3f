"""The state folder: makes it, keeps it for one node and one agent, and checks whether its agent runs."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from wire.errors import ConfigError, TryAgain, Unreachable, WireError, unwritable
from wire.folder_sync import sync_folder
from wire.printable import printable
from wire.topics import Address

log = logging.getLogger(__name__)

LOCK = "agent.lock"
NODE_FILE = "node"  # the address of the node that the folder belongs to
_MAX_NODE = 1_024  # bytes
RELOAD = "reload"  # the id of the newest request to read the config again
_MAX_REQUEST = 64  # bytes
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


@contextlib.contextmanager
def reloading(state: Path, request: str) -> Iterator[None]:
    """Send SIGHUP to the agent of this folder, with the id `request`; one at a time.

    The file `reload` has the id, and its lock keeps others waiting until this context ends.

    Raises:
        Unreachable: no agent runs on this folder.
        ConfigError: the agent belongs to another user, or runs where its process cannot be seen.
        TryAgain: another `edgebed agent reload` waits for its result.
    """
    if not is_running(state):
        raise Unreachable(f"no agent runs on state folder {state}: start it; it reads its config then")
    try:
        handle = os.open(state / RELOAD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise unwritable(f"{state / RELOAD}", error) from error
    try:
        if not _lock(handle):
            raise TryAgain(f"another reload of the agent on {state} has not ended: wait for its result")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{request}\n".encode("ascii"), 0)
        _hang_up(state)
        yield
    finally:
        os.close(handle)


def reload_request(state: Path) -> str:
    """The id of the newest `reloading`; "" where there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError), (state / RELOAD).open("rb") as file:
        return printable(file.read(_MAX_REQUEST).decode("ascii").strip())
    return ""


def _hang_up(state: Path) -> None:
    """Send SIGHUP to the process that owns the folder, and to no other one with its number."""
    text = (state / LOCK).read_text("ascii", "replace").strip()
    pid = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    elsewhere = ConfigError(
        f"process {pid} does not hold {state / LOCK}: the agent runs in another container, or as another"
        " user; run this command there, or send it SIGHUP"
    )
    if not pid:
        raise elsewhere
    try:
        process = os.pidfd_open(pid)  # from here on the number cannot pass to another process
    except OSError as error:
        raise elsewhere from error
    try:
        if not _has_open(pid, state / LOCK):
            raise elsewhere
        signal.pidfd_send_signal(process, signal.SIGHUP)
    except PermissionError as error:
        raise elsewhere from error
    except ProcessLookupError as error:
        raise Unreachable(f"the agent on state folder {state} has just ended") from error
    finally:
        os.close(process)


def _has_open(pid: int, path: Path) -> bool:
    wanted = path.stat()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(entry.stat(), wanted):
                return True
    return False


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
    sync_folder(path.parent)


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
