"""A file system in a file, on a loop device that counts writes and can be copied at any time."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from wire.errors import EdgebedError

SECTOR = 512  # bytes: the kernel counts in this unit for every device
_QUIET_S = 10.0  # how long to wait for a moment without writes


class Written(NamedTuple):
    """Numbers of a device since it was attached."""

    writes: int
    sectors: int
    flushes: int


class Volume:
    """An ext4 file system in the file `image`, mounted at `folder` while entered.

    With `make` false, `image` is used as it is, for example a copy of another volume.
    """

    def __init__(self, image: Path, folder: Path, *, megabytes: int = 32, make: bool = True) -> None:
        self.image = image
        self.folder = folder
        self._megabytes = megabytes
        self._make = make
        self._stat = Path("/nowhere")

    def __enter__(self) -> Self:
        """Make and mount the file system.

        Raises:
            EdgebedError: mounting is not permitted, or a program is missing.
        """
        if os.geteuid():
            raise EdgebedError("only root may mount a file system")
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._make:
            with self.image.open("wb") as file:
                file.truncate(self._megabytes << 20)
            _run(
                "mkfs.ext4",
                "-q",
                "-F",
                "-b",
                "4096",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
                str(self.image),
            )
        _run("mount", "-o", "loop", str(self.image), str(self.folder))
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        device = next(source for source, at, *_ in mounts if at == str(self.folder.resolve()))
        self._stat = Path("/sys/block") / Path(device).name / "stat"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _run("umount", str(self.folder))
        except EdgebedError:  # a file is still open: unmount when it is closed
            _run("umount", "--lazy", str(self.folder))

    def written(self) -> Written:
        """What the file system has written to the device so far."""
        counts = [int(word) for word in self._stat.read_text().split()]
        return Written(counts[4], counts[6], counts[15] if len(counts) > 15 else 0)

    def copy(self, to: Path) -> None:
        """Copy the device as it is now, without a flush: this is what a power cut would leave.

        Raises:
            EdgebedError: there is no moment without writes.
        """
        until = time.monotonic() + _QUIET_S
        while time.monotonic() < until:
            before = self._moment()
            if before is not None:
                shutil.copyfile(self.image, to)
                if self._moment() == before:
                    return
            time.sleep(0.001)
        raise EdgebedError(f"{self.image} is written to all the time: stop the writer first")

    def _moment(self) -> Written | None:
        """What was written so far; None while a write is in flight."""
        written = self.written()
        waiting = (self._stat.parent / "inflight").read_text().split()
        return written if set(waiting) == {"0"} else None


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
        )
    except OSError as error:
        raise EdgebedError(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode:
        raise EdgebedError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
