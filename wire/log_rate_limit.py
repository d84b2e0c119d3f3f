"""Limit log lines that a fault of another party could repeat endlessly: one of each kind in ten minutes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

EVERY_S = 600.0
MOST = 100  # kinds within that time; a sender that produces ever new kinds gets no further lines


class LogRateLimit:
    """Decides whether a log line of a kind may be written now; a kind is any small hashable. Thread-safe."""

    def __init__(
        self, every_s: float = EVERY_S, most: int = MOST, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._every_s, self._most, self._now = every_s, most, now
        self._lock = threading.Lock()
        self._written: dict[Hashable, tuple[float, int]] = {}  # kind -> time of the last line, skipped since

    def since(self, kind: Hashable) -> int | None:
        """None if the line must be skipped, else how many lines of its kind were skipped since the last."""
        with self._lock:
            return self._since(kind, self._now())

    def _since(self, kind: Hashable, now_s: float) -> int | None:
        at_s, skipped = self._written.get(kind, (None, 0))
        if at_s is None and len(self._written) >= self._most:
            self._written = {key: one for key, one in self._written.items() if now_s - one[0] < self._every_s}
            if len(self._written) >= self._most:
                return None
        if at_s is not None and now_s - at_s < self._every_s:
            self._written[kind] = (at_s, skipped + 1)
            return None
        self._written[kind] = (now_s, 0)
        return skipped
