"""Pictures and large windows in memory that worker processes can read and cannot write.

The agent copies a picture once, however many workers see it. The memory is a sealed memfd: a worker can
neither change what another one sees nor make it shorter, which would end the agent.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SEAL_FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE of <linux/fcntl.h>, which Python 3.11 does not name
_SPARE = 4  # parts that are kept although no worker reads them
_WASTE = 4  # a part is used for data of at least a fourth of its size


class Part:
    """A part of the shared memory; `descriptor` reads it, `number` is never used again."""

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size = number, size
        writing = os.memfd_create("edgebed-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(writing, size)
            self._map = mmap.mmap(writing, size)
            fcntl.fcntl(writing, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            with suppress(OSError):  # before Linux 5.1 only the descriptor keeps a worker from writing
                fcntl.fcntl(writing, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)
            self.descriptor = os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writing)
        self.readers = 0
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._of: weakref.ref[NDArray[Any]] | None = None

    def fill(self, data: NDArray[Any], *, lasting: bool) -> None:
        """Copy `data` to the beginning of the part."""
        np.copyto(self._bytes[: data.nbytes].view(data.dtype).reshape(data.shape), data)
        self._of = weakref.ref(data) if lasting else None

    def has(self, data: NDArray[Any]) -> bool:
        """Whether the part holds this very array, which has not changed since."""
        return self._of is not None and self._of() is data

    @property
    def wanted(self) -> bool:
        """Whether somebody reads it, or its picture is still in use, so that another worker may read it."""
        return self.readers > 0 or (self._of is not None and self._of() is not None)

    def close(self) -> None:
        """Give the memory back, as far as no worker has it."""
        os.close(self.descriptor)
        del self._bytes
        self._map.close()


class SharedFrames:
    """The shared memory of one agent; any thread may use it. `copies` counts what was copied."""

    def __init__(self) -> None:
        self.copies = 0
        self._parts: list[Part] = []  # the one filled last is at the end
        self._numbers = 0
        self._lock = threading.Lock()

    def take(self, data: NDArray[Any], *, lasting: bool) -> Part:
        """A part that holds `data` until `release`; `lasting` data never changes, so one copy serves all."""
        with self._lock:
            part = next((each for each in self._parts if lasting and each.has(data)), None)
            if part is None:
                part = self._free(data.nbytes)
                part.fill(data, lasting=lasting)
                self.copies += 1
            part.readers += 1
            return part

    def release(self, part: Part) -> None:
        """Note that a worker has read the part."""
        with self._lock:
            part.readers -= 1

    def close(self) -> None:
        """Give all memory back; the workers have ended."""
        with self._lock:
            for part in self._parts:
                part.close()
            self._parts.clear()

    def _free(self, size: int) -> Part:
        """A part for `size` bytes, moved to the end; removes what is too many."""
        idle = [each for each in self._parts if not each.readers]
        fitting = [each for each in idle if size <= each.size <= _WASTE * size + mmap.PAGESIZE]
        found = next((each for each in fitting if not each.wanted), None)
        if found is None and len(idle) >= _SPARE:
            found = fitting[0] if fitting else None  # its picture is copied again where it is still needed
            if found is None:
                self._parts.remove(idle[0])
                idle[0].close()
        if found is None:
            self._numbers += 1
            found = Part(self._numbers, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        else:
            self._parts.remove(found)
        self._parts.append(found)
        return found
