"""Log lines that somebody else's fault could repeat without end: one of a kind in ten minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

EVERY_S = 600.0
MOST = 100  # kinds told within that time: who invents ever new ones is told of no more


class Seldom:
    """Thread-safe. Ask with the kind of a line; a kind is any small hashable."""

    def __init__(
        self, every_s: float = EVERY_S, most: int = MOST, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s, self._most, self._now = every_s, most, now
        self._lock = threading.Lock()
        self._told: dict[Hashable, tuple[float, int]] = {}  # when, and how many were left out since

    def since(self, kind: Hashable) -> int | None:
        """Whether to write the line: None for no, else how many of its kind were left out since the last."""
        with self._lock:
            return self._since(kind, self._now())

    def _since(self, kind: Hashable, now_s: float) -> int | None:
        at_s, left_out = self._told.get(kind, (None, 0))
        if at_s is None and len(self._told) >= self._most:
            self._told = {key: one for key, one in self._told.items() if now_s - one[0] < self._every_s}
            if len(self._told) >= self._most:
                return None
        if at_s is not None and now_s - at_s < self._every_s:
            self._told[kind] = (at_s, left_out + 1)
            return None
        self._told[kind] = (now_s, 0)
        return left_out
