"""The problems of the collector itself: what `health` and the page show as the reason for `degraded`."""

from __future__ import annotations

import logging
import threading
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from wire.clock import Clock
from wire.log_rate_limit import LogRateLimit
from wire.reasons import Reason

log = logging.getLogger(__name__)

MOST = 100  # problems that are kept; a sender that invents names gets no further ones


class CollectorProblem(Struct, frozen=True, omit_defaults=True):
    """One problem, since a time in ms."""

    code: str
    why: str
    args: dict[str, Any]
    since: int
    part: str | UnsetType = UNSET


def problem(why: Reason, since_ms: int, part: str = "") -> CollectorProblem:
    """Make a problem of a reason."""
    return CollectorProblem(why.code, why.why[:2_000], why.coded()["args"], since_ms, part or UNSET)


class CollectorProblems:
    """The current problems. Every room of the collector reports into it with one call; any thread.

    A problem is its code and `part`, such as the day or the node that it concerns.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], CollectorProblem] = {}
        self._ends_s: dict[tuple[str, str], float] = {}
        self._log_limit = LogRateLimit()

    def report(self, why: Reason, part: str = "", *, for_s: float | None = None) -> None:
        """Add or repeat a problem. It stays until `clear`, or for `for_s` after the last report."""
        key, now = (why.code, part), self._clock.now_ms()
        with self._lock:
            self._expire()
            known = self._found.get(key)
            if known is None and len(self._found) >= MOST:
                return
            self._found[key] = problem(why, now if known is None else known.since, part)
            if for_s is not None:
                self._ends_s[key] = self._clock.monotonic() + for_s
        if known is None and self._log_limit.since(key) is not None:
            log.warning("%s", why.why)

    def clear(self, code: str, part: str = "") -> None:
        """Remove a problem; without effect if it is not there."""
        with self._lock:
            known = self._found.pop((code, part), None)
            self._ends_s.pop((code, part), None)
        if known is not None:
            since_s = (self._clock.now_ms() - known.since) / 1000
            log.info("the problem %s has ended after %.0f s", " ".join((code, part)).strip(), since_s)

    def current(self) -> list[CollectorProblem]:
        """The problems of now, the oldest first."""
        with self._lock:
            self._expire()
            return sorted(self._found.values(), key=lambda one: one.since)

    def _expire(self) -> None:
        now_s = self._clock.monotonic()
        for key in [key for key, end_s in self._ends_s.items() if end_s <= now_s]:
            del self._ends_s[key], self._found[key]
