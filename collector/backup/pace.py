"""How fast a backup works, how far it is, and whether it was stopped."""

from __future__ import annotations

import threading
import time

from collector.store.snapshot import Stopped

_LONGEST_S = 0.5  # of a pause


class Pace:
    """The worker calls `step`, another thread may call `stop` and `text`.

    Half of the time is left to the collector: each pause is as long as the step before it.
    """

    def __init__(self, *, pauses: bool = True) -> None:
        self._pauses = pauses
        self._stopped = threading.Event()
        self._began = time.monotonic()
        self._what = ""
        self._bytes = 0
        self._of = 0

    def stop(self) -> None:
        """Have the next `step` raise."""
        self._stopped.set()

    def begin(self, what: str, size: int = 0) -> None:
        """Name the work that begins; `size` is how many bytes it has."""
        self._what, self._bytes, self._of = what, 0, size

    def step(self, size: int) -> None:
        """Note that `size` bytes were handled, and leave time to others.

        Raises:
            Stopped: `stop` was called.
        """
        self._bytes += size
        took = time.monotonic() - self._began
        if self._stopped.is_set() or (self._pauses and self._stopped.wait(min(took, _LONGEST_S))):
            raise Stopped
        self._began = time.monotonic()

    def text(self) -> str:
        """How far it is, for a terminal."""
        share = f" of {self._of / 1e6:.1f}" if self._of else ""
        return f"{self._what}: {self._bytes / 1e6:.1f}{share} MB" if self._what else ""
