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

WARNINGS = {"token-file"}  # shown, but they make nothing degraded
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
        self._weights: dict[tuple[str, str], int] = {}
        self._ends_s: dict[tuple[str, str], float] = {}
        self._log_limit = LogRateLimit()

    def report(self, why: Reason, part: str = "", *, for_s: float | None = None, weight: int = 0) -> None:
        """Add or repeat a problem. It stays until `clear`, or for `for_s` after the last report.

        A problem with a `weight` is one of many of its kind: where there is no room, the lightest goes.
        """
        key, now = (why.code, part), self._clock.now_ms()
        with self._lock:
            self._expire()
            known = self._found.get(key)
            if known is None and len(self._found) >= MOST and not self._makes_room(weight):
                return
            self._weights[key] = weight
            self._found[key] = problem(why, now if known is None else known.since, part)
            if for_s is not None:
                self._ends_s[key] = self._clock.monotonic() + for_s
        if known is None and self._log_limit.since(key) is not None:
            log.warning("%s", why.why)

    def clear(self, code: str, part: str = "") -> None:
        """Remove a problem; without effect if it is not there."""
        with self._lock:
            known = self._remove((code, part))
        if known is not None:
            since_s = (self._clock.now_ms() - known.since) / 1000
            log.info("the problem %s has ended after %.0f s", " ".join((code, part)).strip(), since_s)

    def current(self) -> list[CollectorProblem]:
        """The problems of now: the oldest first, then those with a weight, the heaviest first."""
        with self._lock:
            self._expire()
            some = [(self._weights[key], one) for key, one in self._found.items()]
        return [one for _, one in sorted(some, key=lambda each: (each[0] > 0, -each[0], each[1].since))]

    def _makes_room(self, weight: int) -> bool:
        """Remove the lightest problem for one that is heavier or has no weight."""
        light = {key: one for key, one in self._weights.items() if one and (not weight or one < weight)}
        if not light:
            return False
        self._remove(min(light, key=light.__getitem__))
        return True

    def _remove(self, key: tuple[str, str]) -> CollectorProblem | None:
        self._ends_s.pop(key, None)
        self._weights.pop(key, None)
        return self._found.pop(key, None)

    def _expire(self) -> None:
        now_s = self._clock.monotonic()
        for key in [key for key, end_s in self._ends_s.items() if end_s <= now_s]:
            self._remove(key)
