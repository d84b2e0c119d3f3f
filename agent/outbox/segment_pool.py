"""Segment pool: the free files of the outbox, and the limit on how many files there may be."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import deque
from pathlib import Path

from agent.outbox import segment
from agent.outbox.record import PAGE

log = logging.getLogger(__name__)

SPARE = 2  # one to write to, and one so that a loss is declared before the lost segment is overwritten
_MIN_SIZE, _MAX_SIZE = 131_072, 4_194_304  # bytes of one segment
_RETRY_S = 5.0  # between attempts to grow on a full disk


class SegmentPool:
    """Gives out free files in turn and makes new ones up to the limit. Only the committing thread uses it."""

    def __init__(self, folder: Path, max_bytes: int, free: list[Path]) -> None:
        self.segment_size = min(max(_MIN_SIZE, max_bytes // 16 // PAGE * PAGE), _MAX_SIZE)
        self.folder = folder
        self._limit = max(max_bytes // self.segment_size, SPARE + 4)
        self._files = {path.name for path in folder.glob("*.seg")}
        self._free: deque[Path] = deque()
        self._retry_at = 0.0
        for path in free:
            self.give(path)

    def __len__(self) -> int:
        """The number of free files."""
        return len(self._free)

    @property
    def full(self) -> bool:
        """Whether the quota is used up."""
        return len(self._files) >= self._limit

    def get(self) -> Path:
        """A file to write to. Raises OSError if none is free and none can be made."""
        if not self._free:
            self.grow()
        return self._free.popleft()

    def give(self, path: Path) -> None:
        """Take a file back; a file of another size or beyond the quota is deleted. Never raises."""
        try:
            if len(self._files) <= self._limit and path.stat().st_size == self.segment_size:
                self._free.append(path)
                return
            path.unlink()
        except FileNotFoundError:
            pass  # another program deleted it
        except OSError as error:
            log.warning("%s is left alone: %s", path, error.strerror)
            return  # its name stays known: it cannot be made again
        self._files.discard(path.name)

    def grow(self) -> None:
        """Add a file. Raises OSError: EDQUOT at the quota, otherwise the error of the disk."""
        if self.full:
            raise OSError(errno.EDQUOT, "the outbox's quota is used up")
        if time.monotonic() < self._retry_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number = 1
        while f"{number:06}.seg" in self._files:
            number += 1
        path = self.folder / f"{number:06}.seg"
        try:
            segment.create(path, self.segment_size)
            sync(self.folder)
        except OSError:
            self._retry_at = time.monotonic() + _RETRY_S
            raise
        self._files.add(path.name)
        self._free.append(path)


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
