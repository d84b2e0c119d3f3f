"""Memory of a daemon that owns its process: its heap, and the release of what only the start needed."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 32 * 2**20  # bytes: glibc's own limit; a picture of 3840 x 2160 has 25 MB
_MADV_DONTNEED = 4
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class MemorySettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `memory:` section of an agent's configuration."""

    trim: Annotated[
        bool,
        Meta(
            description="Unmap the program text that only the start needed, 5 s after READY: a smaller "
            "resident size for boards with little memory."
        ),
    ] = False


def rss_mb() -> float:
    """Resident memory of this process in 10^6 bytes."""
    resident = Path("/proc/self/statm").read_text().split()[1]
    return round(int(resident) * _PAGE_MB, 1)


def use_one_heap() -> None:
    """Limit malloc to one heap for all threads (glibc only). Call it before the first thread starts."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        # The threads mostly wait and do not need heaps of their own: 5 MB less private memory.
        libc.mallopt(_M_ARENA_MAX, 1)


def keep_memory_of_pictures() -> None:
    """Let malloc keep the memory of large blocks that are freed (glibc only): the next picture uses it.

    Without this, malloc gives it back and asks for other memory for most pictures. The kernel then clears it
    page by page, which costs up to a tenth of the CPU time of a picture, more on a virtual machine.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE)


def return_free_memory() -> None:
    """Give the kernel what is free in the heap now (glibc only), such as the files of models."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def unmap_program_text() -> None:
    """Unmap the program text that was read so far; the kernel maps a page again when it is needed.

    When memory runs short, the kernel keeps mapped program text longest. Imports and the first session read
    some 20 MB of text that never runs again. Program text is never written to, so nothing is lost.
    """
    gc.collect()
    gc.freeze()  # objects alive now live as long as the daemon: later collections skip them
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "madvise"):
        return
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _, _, inode, *path = line.split(maxsplit=5)
        if permissions != "r-xp" or inode == "0" or not path:
            continue
        low, high = (int(edge, 16) for edge in span.split("-"))
        libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _MADV_DONTNEED)
