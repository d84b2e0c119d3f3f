"""What the worker processes of this process use: they count as its own CPU time and memory."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from agent import process_memory

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_lock = threading.Lock()
_running: set[int] = set()
_ended_s = 0.0  # CPU seconds of those that have ended


def started(pid: int) -> None:
    """Count a worker from now on."""
    with _lock:
        _running.add(pid)


def ended(pid: int, cpu_s: float) -> None:
    """Note that a worker has ended, and the CPU seconds that it used in all."""
    global _ended_s  # noqa: PLW0603 - workers belong to the process
    with _lock:
        _running.discard(pid)
        _ended_s += cpu_s


def running_cpu_s() -> float:
    """CPU seconds of the workers that run."""
    with _lock:
        return sum(map(_cpu_s, _running))


def cpu_s() -> float:
    """CPU seconds of this process and of all its workers."""
    with _lock:
        return time.process_time() + _ended_s + sum(map(_cpu_s, _running))


def rss_mb() -> float:
    """Resident memory of this process, and the private memory of its workers, in 10^6 bytes."""
    with _lock:
        return round(process_memory.rss_mb() + sum(map(private_mb, _running)), 1)


def private_mb(pid: int) -> float:
    """Memory of a process without the pages of files, in 10^6 bytes; 0 if it has ended."""
    try:
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3])
    except (OSError, ValueError):
        return 0.0
    return (resident - shared) * _PAGE_MB


def _cpu_s(pid: int) -> float:
    try:
        # behind the name in brackets, which may contain spaces
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return sum(map(int, fields.split()[11:13])) / _TICKS
    except (OSError, ValueError):
        return 0.0
