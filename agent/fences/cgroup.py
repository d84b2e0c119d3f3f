"""The kernel's limits of CPU and memory: cgroup v2, where systemd delegates the agent's own cgroup to it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from agent.fences.settings import FenceSettings
from wire.errors import EdgebedError

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
LEAF = "agent"  # the kernel allows limits only below a cgroup that has no process itself
_PERIOD_US = 100_000
_MB = 1_000_000


class NotDelegated(EdgebedError):
    """The cgroup of this process is not the agent's to change; the text states why."""


class Cgroup:
    """The cgroup that has this process, its threads and its children, such as gates of models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cpu_s = 0.0

    def cpu_s(self) -> float:
        """CPU seconds of all that ran in it."""
        try:
            words = (self.folder / "cpu.stat").read_text().split()
            self._cpu_s = int(words[words.index("usage_usec") + 1]) / 1e6
        except (OSError, ValueError, IndexError) as error:
            log.debug("cpu.stat cannot be read: %s", error)  # the last value stays
        return self._cpu_s

    def memory_mb(self) -> float:
        """The memory that the kernel counts for it, with its part of the page cache; 0 if it counts none."""
        try:
            return int((self.folder / "memory.current").read_text()) / _MB
        except (OSError, ValueError):
            return 0.0


def limits(fence: FenceSettings) -> dict[str, str]:
    """The files to write and their content: above the fence, which the agent keeps itself and by name.

    The kernel slows readings too and ends processes, so it is for what does not keep to the fence.
    """
    found = {}
    if fence.cpu_pct:
        found["cpu.max"] = f"{fence.cpu_pct * _PERIOD_US // 80} {_PERIOD_US}"
    if fence.memory_mb:
        found["memory.high"] = str(fence.memory_mb * _MB * 9 // 8)
        found["memory.max"] = str(fence.memory_mb * _MB * 5 // 4)
    return found


def keep_limits(fence: FenceSettings) -> Cgroup | None:
    """`enter` if there is a limit to keep; None where the agent keeps it itself, with the reason logged."""
    if not limits(fence):
        return None
    try:
        found = enter(fence)
    except NotDelegated as error:
        log.info("the agent keeps the limits of CPU and memory itself: %s", error)
        return None
    log.info("the kernel keeps the limits of CPU and memory too: %s", found.folder)
    return found


def enter(fence: FenceSettings, root: Path = ROOT) -> Cgroup:
    """Put this process under the limits of its fence, in a cgroup below its own.

    Raises:
        NotDelegated: it may not, or the kernel refuses; then the agent keeps the limits itself.
    """
    wanted = limits(fence)
    try:
        own = _own(root)
        needed = {name.partition(".")[0] for name in wanted}
        absent = needed - {*(own / "cgroup.controllers").read_text().split()}
        if absent:
            raise NotDelegated(f"{own} has no controller {' and no '.join(sorted(absent))}")
        leaf = own / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        (own / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(needed)))
        for name, content in wanted.items():
            (leaf / name).write_text(content)
    except OSError as error:
        raise NotDelegated(f"{error.filename or root}: {error.strerror or error}") from error
    return Cgroup(leaf)


def _own(root: Path) -> Path:
    """The cgroup of this process, if it belongs to the agent alone."""
    if not (root / "cgroup.controllers").is_file():
        raise NotDelegated(f"this machine has no cgroup v2 at {root}")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    own = root / path.lstrip("/")
    if own == root:
        raise NotDelegated("the agent is in the root cgroup")
    if not _is_delegated(own):
        raise NotDelegated(f"{own} is not delegated to the agent (Delegate= in its unit)")
    if (own / "cgroup.procs").read_text().split() != [str(os.getpid())]:
        raise NotDelegated(f"{own} has other processes than the agent")
    return own


def _is_delegated(own: Path) -> bool:
    """Whether systemd delegated it: it marks it, and gives it to the user of the unit."""
    user = os.geteuid()
    if user and own.stat().st_uid == user:
        return True
    marks = ("user.delegate", "trusted.delegate") if user == 0 else ("user.delegate",)
    return any(_mark(own, name) == b"1" for name in marks)


def _mark(own: Path, name: str) -> bytes:
    try:
        return os.getxattr(own, name)
    except OSError:
        return b""
