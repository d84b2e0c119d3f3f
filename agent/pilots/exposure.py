"""Follows the schedule of a plan: switches the intervention, and records each switch as it happened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from wire.clock import Clock
from wire.messages import Event
from wire.pilot.frozen import Opened
from wire.pilot.plan import Plan
from wire.pilot.schedule import Arm, Period
from wire.reasons import NO_REASON, Reason
from wire.topics import Address

log = logging.getLogger("edgebed.agent")

EVENT = "exposure"
LOOK_S = 1.0  # between two looks at the clock, which may be set


class Switch(Protocol):
    """What the plan switches; both methods return at once and may be repeated."""

    def set(self, plan: Plan, arm: Arm) -> tuple[Arm, Reason]:
        """Switch on or off; returns what is the case now, and why where it is something else."""
        ...

    def release(self) -> None:
        """Leave everything as the node's own config has it."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """What the newest event states. `number` counts the periods of the trial from 0; -1 is outside of it."""

    pilot: str
    hash: str
    phase: Literal["baseline", "trial", "outside", "over"]
    number: int
    planned: Arm | None
    actual: Arm
    reason: Reason = NO_REASON


class Exposure:
    """The exposure of one node; `look` is called from time to time, and `stop` when the agent ends.

    The schedule is read by the wall clock at each look, so that a restart or a clock that is set leads to the
    period of now. Until the trial is over the intervention is off outside of the periods that are on.
    """

    def __init__(
        self,
        address: Address,
        clock: Clock,
        plan: Callable[[], Opened | None],
        switch: Switch,
        record: Callable[[Event], None],
    ) -> None:
        self._address = str(address)
        self._clock = clock
        self._plan = plan
        self._switch = switch
        self._record = record
        self._is_first = True  # this run has not looked yet: a plan that is there now is from the run before
        self._has_ended = False
        self._stated: State | None = None

    async def run(self) -> None:
        """Follow the schedule until cancelled."""
        while True:
            self.look()
            await self._clock.sleep(self._rest_s())

    def look(self) -> None:
        """Switch as the schedule says for now, and record what changed."""
        if self._has_ended:  # the tasks of the agent end one after the other
            return
        is_first, self._is_first = self._is_first, False
        opened, before = self._plan(), self._stated
        if opened is None:
            if before is not None:
                self._switch.release()
                self._stated = None
            return
        now = self._state(opened)
        if now == before:
            return
        if now.phase == "over" and (before is None or before.phase == "over"):
            return  # a restart after the trial
        self._stated = now
        self._state_it(now, is_restart=is_first and now.phase != "over")

    def stop(self) -> None:
        """Record that the intervention ends with the agent."""
        if (last := self._stated) is not None and last.phase != "over" and last.actual == "on":
            self._state_it(State(last.pilot, last.hash, last.phase, last.number, last.planned, "off"))
        self._has_ended = True

    def _state(self, opened: Opened) -> State:
        frozen, now_ms = opened.plan, self._clock.now_ms()
        pilot = frozen.plan.pilot
        if now_ms >= frozen.schedule.trial_ms[1]:
            self._switch.release()
            return State(pilot, opened.hash, "over", -1, None, "on")
        period = frozen.schedule.at(now_ms)
        planned = self._planned(opened, period)
        actual, reason = self._switch.set(frozen.plan, planned)
        trial = frozen.schedule.trial
        number = trial.index(period) if period in trial else -1
        phase = "outside" if period is None else period.phase
        return State(pilot, opened.hash, phase, number, planned, actual, reason)

    def _planned(self, opened: Opened, period: Period | None) -> Arm:
        plan, treated = opened.plan.plan, opened.plan.schedule.treated
        if period is None or plan.design.kind == "paired":
            return "off"  # a model that is compared with a rule runs in shadow all the time
        if plan.design.kind == "parallel" and not any(self._is_here(machine) for machine in treated):
            return "off"
        return period.arm

    def _is_here(self, machine: str) -> bool:
        return machine == self._address or machine.startswith(f"{self._address}/")

    def _state_it(self, now: State, *, is_restart: bool = False) -> None:
        detail: dict[str, Any] = {
            "pilot": now.pilot,
            "hash": now.hash,
            "phase": now.phase,
            "period": now.number,
            "planned": now.planned,
            "actual": now.actual,
            "from": self._clock.now_ms(),
        }
        if is_restart:
            detail["restart"] = True
        log.info("pilot %s: %s, the intervention is %s", now.pilot, now.phase, now.actual)
        fields = now.reason.fields() if now.reason.why else {}
        self._record(Event(ts=self._clock.now_ms(), type=EVENT, detail=detail, **fields))

    def _rest_s(self) -> float:
        """Until the next look: at the next switch, a second at most."""
        opened, now_ms = self._plan(), self._clock.now_ms()
        if opened is None:
            return LOOK_S
        edges = (edge for each in opened.plan.schedule.periods for edge in (each.start_ms, each.end_ms))
        next_ms = min((edge for edge in edges if edge > now_ms), default=now_ms + 1_000 * LOOK_S)
        return min(LOOK_S, (next_ms - now_ms) / 1_000)
