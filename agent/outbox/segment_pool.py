"""The files of the outbox that hold nothing now, and the limit on how many there may be."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from pathlib import Path

from agent.outbox import segment

SPARE = 2  # one to write to, one so that the loss of a third can be declared before it is overwritten
_MIN_SIZE, _MAX_SIZE = 131_072, 4_194_304  # bytes of one segment
_RETRY_S = 5.0  # between attempts to grow on a full disk


class Pool:
    """Free files, recycled in turn; new ones up to the limit. Not thread-safe: the committer's alone."""

    def __init__(self, folder: Path, max_bytes: int, free: list[Path]) -> None:
        self.segment_size = min(max(_MIN_SIZE, max_bytes // 16 // segment.PAGE * segment.PAGE), _MAX_SIZE)
        self._folder = folder
        self._limit = max(max_bytes // self.segment_size, SPARE + 4)
        self._files = {path.name for path in folder.glob("*.seg")}
        self._free: deque[Path] = deque()
        self._retry_at = 0.0
        for path in free:
            self.give(path)

    def __len__(self) -> int:
        """How many files are free."""
        return len(self._free)

    @property
    def full(self) -> bool:
        """Whether the quota is used up."""
        return len(self._files) >= self._limit

    def get(self) -> Path:
        """A file to write to; raises OSError where there is none."""
        if not self._free:
            self.grow()
        return self._free.popleft()

    def give(self, path: Path) -> None:
        """Take a file back; one of another size or over the quota is deleted."""
        if len(self._files) > self._limit or path.stat().st_size != self.segment_size:
            path.unlink()
            self._files.discard(path.name)
        else:
            self._free.append(path)

    def grow(self) -> None:
        """Add a file. Raises OSError: EDQUOT at the quota, else what the disk says."""
        if self.full:
            raise OSError(errno.EDQUOT, "the outbox's quota is used up")
        if time.monotonic() < self._retry_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number = 1
        while f"{number:06}.seg" in self._files:
            number += 1
        path = self._folder / f"{number:06}.seg"
        try:
            segment.create(path, self.segment_size)
            sync(self._folder)
        except OSError:
            self._retry_at = time.monotonic() + _RETRY_S
            raise
        self._files.add(path.name)
        self._free.append(path)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
