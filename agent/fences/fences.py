"""The fence of one agent: what its models and its uplink may use now, and whether a limit is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from agent import process_children
from agent.fences.bucket import Bucket, FairBucket
from agent.fences.settings import FenceSettings
from wire.clock import Clock
from wire.messages import Live
from wire.reasons import NO_REASON, Reason, because

Key = Literal["inferences_per_s", "cpu_pct"]
By = Literal["agent", "cgroup"]

REPORTED_S = 30.0  # a limit that was reached is reported for so long
_CPU_BURST_S = 2.0  # of the limit may be used at once
_CPU_DEBT_S = 60.0  # of the limit: the longest time without inferences after a busy start
_SETTLE_S = 10.0  # a model that was stopped gives its memory back within this time


class Fences:
    """Limits of one process, measured and enforced by itself; without settings it only counts.

    Times are real seconds: CPU and uplink are those of the machine, also while the clock is simulated.
    `cpu_s` gives the CPU seconds of this process and its workers so far; `disk_mb` is the limit that the
    outbox keeps.
    """

    def __init__(
        self,
        settings: FenceSettings,
        clock: Clock,
        cpu_s: Callable[[], float] = process_children.cpu_s,
        *,
        disk_mb: int = 0,
    ) -> None:
        self.settings = settings
        self.by: By = "agent"  # what keeps the limits of CPU and memory
        self._disk = {"fence_disk_mb": disk_mb} if disk_mb else {}
        self.runs = self.skipped = 0  # inferences since the start
        share = settings.cpu_pct / 100
        per_s = 1_000 * settings.uplink_kb_per_s
        # a debt without limit: each byte that was sent is made up for
        self.uplink = Bucket(per_s, per_s) if per_s else None
        self._inferences = FairBucket(settings.inferences_per_s) if settings.inferences_per_s else None
        self._cpu = Bucket(share, share * _CPU_BURST_S, share * _CPU_DEBT_S) if share else None
        self._cpu_s, self._cpu_seen_s = cpu_s, cpu_s()
        self._clock = clock
        self._uplink_s: float | None = None  # when the uplink last held something back
        self._memory_s: float | None = None  # when a model was last stopped
        self._memory_why = NO_REASON

    def now_s(self) -> float:
        """The time that limits are measured in."""
        return self._clock.flowing_s()

    def refusal(self, slot: str) -> Key | None:
        """Ask for one inference of a model: None allows it, else the limit that forbids it."""
        found: Key | None = None
        if self._cpu is not None and self._cpu_left(self._cpu) <= 0:
            found = "cpu_pct"
        elif self._inferences is not None and not self._inferences.take(slot, self.now_s()):
            found = "inferences_per_s"
        self.skipped += found is not None
        return found

    def unused(self) -> bool:
        """Ask for one inference that acts on nothing: True while half of each limit is left by the models."""
        if self._cpu is not None and self._cpu_left(self._cpu) < self._cpu.depth / 2:
            return False
        return self._inferences is None or self._inferences.take_unused(self.now_s())

    def _cpu_left(self, bucket: Bucket) -> float:
        used_s = self._cpu_s()
        bucket.left(self.now_s())  # what came is taken in before the debt is limited
        bucket.spend(used_s - self._cpu_seen_s)
        self._cpu_seen_s = used_s
        return bucket.left(self.now_s())

    def leave(self, slot: str) -> None:
        """Note that a model ends: its part of the inferences goes to the others."""
        if self._inferences is not None:
            self._inferences.leave(slot)

    def no_room(self, rss_mb: float, model_mb: float = 0.0) -> Reason:
        """Why no model of this size may be opened beside what is there; `NO_REASON` if it may."""
        limit_mb = self.settings.memory_mb
        if not limit_mb or rss_mb + model_mb <= limit_mb:
            return NO_REASON
        text = f"the agent has {rss_mb:.0f} MB"
        if model_mb:
            text += f", the model takes {model_mb:.0f} MB"
        text += f", {limit_mb} MB are allowed: fence.memory_mb"
        return because(text, "fence-memory", rss_mb=round(rss_mb), limit_mb=limit_mb)

    def over_memory(self, rss_mb: float) -> Reason:
        """Why the newest model must be stopped now; `NO_REASON` if none must."""
        self._memory_why = self.no_room(rss_mb)
        now_s = self.now_s()
        settling = self._memory_s is not None and now_s - self._memory_s < _SETTLE_S
        if not self._memory_why.why or settling:
            return NO_REASON
        self._memory_s = now_s
        return self._memory_why

    def uplink_held(self) -> None:
        """Note that the uplink holds something back now."""
        self._uplink_s = self.now_s()

    @property
    def reached(self) -> Reason:
        """The limit of the node, not of one model, that is reached now."""
        if self._memory_why.why:
            return self._memory_why
        if self._uplink_s is not None and self.now_s() - self._uplink_s < REPORTED_S:
            limit = f"{self.settings.uplink_kb_per_s} kB/s"
            return because(f"it sends at most {limit}: fence.uplink_kb_per_s; the rest waits", "fence-uplink")
        return NO_REASON

    def fields(self) -> Live:
        """The limits, and the one that is reached, for the heartbeat."""
        why = self.reached
        return {
            **{f"fence_{name}": limit for name, limit in self.settings.limits().items()},
            **self._disk,
            "fence_by": self.by,
            **({"fence": why.why[:200], "fence_code": why.code} if why.why else {}),
        }


class Slowed:
    """What the fence takes from one model, as a reason that stays the same while little changes."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._runs = 0  # at `_since_s`
        self._skipped = 0  # since then
        self._key: Key | None = None
        self._skipped_s = 0.0  # when input was skipped last
        self._rates = 0.0, 0.0
        self.reason = NO_REASON

    def skipped(self, key: Key, now_s: float) -> None:
        """Note that input was skipped because of the limit `key`."""
        self._key, self._skipped_s = key, now_s
        self._skipped += 1

    def check(self, runs: int, now_s: float, least_s: float) -> Reason:
        """The reason of now; `runs` counts from the start of the daemon. Rates are of `least_s` or more."""
        span_s = now_s - self._since_s
        if span_s >= least_s:
            done, of = (runs - self._runs) / span_s, (runs - self._runs + self._skipped) / span_s
            if self._key is not None and self._skipped:
                self._renew(self._key, done, of)
            elif now_s - self._skipped_s > REPORTED_S:
                self.reason, self._rates = NO_REASON, (0.0, 0.0)
            self._since_s, self._runs, self._skipped = now_s, runs, 0
        return self.reason

    def _renew(self, key: Key, done: float, of: float) -> None:
        near = all(abs(new - old) <= 0.2 * old for new, old in zip((done, of), self._rates, strict=True))
        if near and self.reason.why.endswith(key):
            return
        self._rates = done, of
        done, of = float(f"{done:.2g}"), float(f"{of:.2g}")
        text = f"runs {done:g} of {of:g} inferences/s: fence.{key}"
        if key == "inferences_per_s":
            self.reason = because(text, "fence-inferences", done=done, of=of)
        else:
            self.reason = because(text, "fence-cpu", done=done, of=of)
