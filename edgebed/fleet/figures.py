"""What a fleet measures: delays, counts, and what each process costs."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STEP = 1.01  # between two buckets: a percentile is at most 1 % too high
_LEAST_S = 1e-5
_TICKS = os.sysconf("SC_CLK_TCK")


class Delays:
    """Delays in buckets of 1 %: their memory does not grow with their number."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.most_s = 0.0

    def add(self, seconds: float) -> None:
        """Note one delay."""
        self._buckets[math.ceil(math.log(max(seconds, _LEAST_S) / _LEAST_S, _STEP))] += 1
        self.count += 1
        self.most_s = max(self.most_s, seconds)

    def percentile_s(self, share: float) -> float:
        """The delay that this share of all does not exceed; 0 without any."""
        left = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(_LEAST_S * _STEP**bucket, self.most_s)
        return 0.0

    def in_ms(self) -> dict[str, float]:
        """p50, p90, p99 and max in milliseconds."""
        found = {f"p{round(100 * share)}": self.percentile_s(share) for share in (0.5, 0.9, 0.99)}
        return {name: round(1000 * seconds, 1) for name, seconds in {**found, "max": self.most_s}.items()}


@dataclass(frozen=True, slots=True)
class Usage:
    """The CPU time of a process so far, and its resident memory."""

    cpu_s: float
    rss_mb: float

    @classmethod
    def of(cls, pid: int) -> Usage | None:
        """Read it from /proc; None for a process that has ended."""
        try:
            # the name of the program, in parentheses, may have spaces
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
        return cls(cpu_s, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


@dataclass(slots=True)
class Costs:
    """What processes cost between `begin` and `end`, by their role."""

    pids: dict[str, int]
    _before: dict[str, Usage] = field(default_factory=dict)
    _after: dict[str, Usage] = field(default_factory=dict)

    def begin(self) -> None:
        """Note the CPU time so far."""
        self._before = self._read()

    def end(self) -> None:
        """Note the CPU time and the memory now; a later call replaces this one."""
        self._after = {**self._after, **self._read()}

    def _read(self) -> dict[str, Usage]:
        found = {role: Usage.of(pid) for role, pid in self.pids.items()}
        return {role: usage for role, usage in found.items() if usage is not None}

    def per_message(self, messages: int) -> dict[str, dict[str, float]]:
        """CPU seconds, microseconds of CPU for each message, and memory, by role."""
        costs = {}
        for role, after in self._after.items():
            if (before := self._before.get(role)) is not None:
                cpu_s = after.cpu_s - before.cpu_s
                costs[role] = {
                    "cpu_s": round(cpu_s, 2),
                    "cpu_us_per_message": round(1e6 * cpu_s / messages, 1) if messages else 0.0,
                    "rss_mb": round(after.rss_mb, 1),
                }
        return costs


@dataclass(slots=True)
class Figures:
    """The counts of a run. A message counts once in `offered` and once in `acknowledged`."""

    costs: Costs
    offered: int = 0
    acknowledged: int = 0
    sent_again: int = 0  # publications after the first one of a message
    not_taken: int = 0  # too many messages waited
    refusals: int = 0
    repeated_acks: int = 0  # more than the message was sent: a broker may send a publication twice
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0
    lost_connections: int = 0  # that no fault of the plan ended
    unacknowledged: int = 0
    sending_s: float = 0.0
    drain_s: float = 0.0
    offered_in_time: int = 0  # before the sending ended
    acknowledged_in_time: int = 0
    all: Delays = field(default_factory=Delays)  # from the first publication to the ack
    healthy: Delays = field(default_factory=Delays)  # of nodes without a fault
    late: Delays = field(default_factory=Delays)  # of this process behind its plan
    stored: int | None = None  # found in the store of the run's own collector

    def acknowledge(self, seconds: float, *, healthy: bool) -> None:
        """Note the first acknowledgement of a message, so long after its first publication."""
        self.acknowledged += 1
        self.all.add(seconds)
        if healthy:
            self.healthy.add(seconds)

    def end_of_sending(self) -> None:
        """Keep the counts of the time of sending, for rates."""
        self.offered_in_time, self.acknowledged_in_time = self.offered, self.acknowledged

    def note_wrong(self, what: str) -> None:
        """Note an acknowledgement that must not be; the first ten are kept as sentences."""
        self.wrong_count += 1
        if len(self.wrong) < 10:
            self.wrong.append(what)

    def as_json(self) -> dict[str, Any]:
        """All figures by name; times in milliseconds."""
        seconds = self.sending_s or 1.0
        return {
            "offered": self.offered,
            "offered_per_s": round(self.offered_in_time / seconds, 1),
            "acknowledged": self.acknowledged,
            "acknowledged_per_s": round(self.acknowledged_in_time / seconds, 1),
            "unacknowledged": self.unacknowledged,
            "wrongly_acknowledged": self.wrong_count,
            "not_taken": self.not_taken,
            "sent_again": self.sent_again,
            "refusals": self.refusals,
            "repeated_acks": self.repeated_acks,
            "lost_connections": self.lost_connections,
            "sending_s": round(self.sending_s, 2),
            "drain_s": round(self.drain_s, 2),
            "publish_to_ack_ms": self.all.in_ms(),
            "publish_to_ack_ms_without_fault": self.healthy.in_ms(),
            "late_ms": self.late.in_ms(),
            "cost": self.costs.per_message(self.acknowledged),
            "stored": self.stored,
            "wrong": self.wrong,
        }
