"""Follows the schedule of a plan: switches the intervention, and records each switch as it happened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import UNSET

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


Actual = Literal["on", "off", "other"]


class Applied(NamedTuple):
    """What is the case: `other` is neither on nor off. `value` is the number that is in use, if it is one."""

    actual: Actual
    reason: Reason = NO_REASON  # why it is not what was asked
    value: float | None = None


class Switch(Protocol):
    """What the plan switches; the methods return at once and may be repeated."""

    def set(self, plan: Plan, arm: Arm | None) -> Applied | None:
        """Switch on or off, or to what is safe outside of all periods; None: it is not known yet."""
        ...

    def release(self) -> Applied:
        """Leave everything as the node's own config has it."""
        ...

    def stopped(self) -> Applied:
        """What is the case when the agent has ended."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """What the newest event states. `number` counts the periods of the trial from 0; -1 is outside of it."""

    pilot: str
    hash: str
    phase: Literal["baseline", "trial", "outside", "over"]
    number: int
    planned: Arm | None
    actual: Actual
    reason: Reason = NO_REASON
    value: float | None = None
    setup: str = ""


class Exposure:
    """The exposure of one node; `look` is called from time to time, and `stop` when the agent ends.

    `setup` names the devices and models of the config in use: a report shows where it changed.

    The schedule is read by the wall clock at each look, so that a restart or a clock that is set leads to the
    period of now. Until the trial is over the intervention is off outside of the periods that are on; outside
    of all periods a set-point has its safe number.
    """

    def __init__(
        self,
        address: Address,
        clock: Clock,
        plan: Callable[[], Opened | None],
        switch: Switch,
        record: Callable[[Event], None],
        setup: Callable[[], str] = lambda: "",
    ) -> None:
        self._address = str(address)
        self._clock = clock
        self._plan = plan
        self._switch = switch
        self._record = record
        self._setup = setup
        self._is_first = True  # this run has not looked yet: a plan that is there now is from the run before
        self._has_ended = False
        self._has_asked = False  # the switch may hold what a plan asked for, also if nothing is stated yet
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
        opened, before = self._plan(), self._stated
        now = None if opened is None else self._state(opened)
        if opened is None:
            self._is_first = False
            if self._has_asked:
                self._switch.release()
                self._has_asked, self._stated = False, None
        if now is None or now == before:
            return
        is_first, self._is_first = self._is_first, False
        if now.phase == "over" and (before is None or before.phase == "over"):
            return  # a restart after the trial
        self._stated = now
        self._state_it(now, is_restart=is_first and now.phase != "over")

    def hold(self) -> None:
        """Switch nothing any more: the agent ends."""
        self._has_ended = True

    def stop(self) -> None:
        """Record that the intervention ends with the agent."""
        self.hold()
        if (last := self._stated) is None or last.phase == "over":
            return
        actual, reason, value = self._switch.stopped()
        if (actual, value) != (last.actual, last.value):
            self._state_it(replace(last, actual=actual, reason=reason, value=value))

    def _state(self, opened: Opened) -> State | None:
        self._has_asked = True
        frozen, now_ms = opened.plan, self._clock.now_ms()
        pilot = frozen.plan.pilot
        if now_ms >= frozen.schedule.trial_ms[1]:
            return State(pilot, opened.hash, "over", -1, None, *self._switch.release())
        period = frozen.schedule.at(now_ms)
        planned = self._planned(opened, period)
        if (applied := self._switch.set(frozen.plan, planned)) is None:
            return None
        trial = frozen.schedule.trial
        number = trial.index(period) if period in trial else -1
        phase = "outside" if period is None else period.phase
        return State(pilot, opened.hash, phase, number, planned, *applied, setup=self._setup())

    def _planned(self, opened: Opened, period: Period | None) -> Arm | None:
        plan, treated = opened.plan.plan, opened.plan.schedule.treated
        if period is None and plan.intervention.kind == "set-point":
            return None
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
        if now.setup:
            detail["setup"] = now.setup
        if is_restart:
            detail["restart"] = True
        log.info("pilot %s: %s, the intervention is %s", now.pilot, now.phase, now.actual)
        fields = now.reason.fields() if now.reason.why else {}
        value = UNSET if now.value is None else now.value
        self._record(Event(ts=self._clock.now_ms(), type=EVENT, value=value, detail=detail, **fields))

    def _rest_s(self) -> float:
        """Until the next look: at the next switch, a second at most."""
        opened, now_ms = self._plan(), self._clock.now_ms()
        if opened is None:
            return LOOK_S
        edges = (edge for each in opened.plan.schedule.periods for edge in (each.start_ms, each.end_ms))
        next_ms = min((edge for edge in edges if edge > now_ms), default=now_ms + 1_000 * LOOK_S)
        return min(LOOK_S, (next_ms - now_ms) / 1_000)
