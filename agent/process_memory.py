"""Memory that only the start needed, given back once the daemon has settled."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_M_ARENA_MAX = -8
_MADV_DONTNEED = 4


def one_heap() -> None:
    """One malloc heap for all threads, as they mostly wait; call it before the first thread (glibc only)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)


def let_go_of_the_start() -> None:
    """Unmap the program text that was read so far: what is still needed comes back page by page.

    The kernel spares mapped program text longest when memory runs short, and importing and building a
    session touches some 20 MB of it that never run again. Only text is let go, which is never written to.
    """
    gc.collect()
    gc.freeze()  # what lives now lives as long as the daemon: no collection need look at it again
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "madvise"):
        return
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _, _, inode, *path = line.split(maxsplit=5)
        if permissions != "r-xp" or inode == "0" or not path:
            continue
        low, high = (int(edge, 16) for edge in span.split("-"))
        libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _MADV_DONTNEED)
