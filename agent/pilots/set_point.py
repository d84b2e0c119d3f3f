"""Keeps the set-point of a device at the number that the plan of a pilot asks for; one task writes.

The task first writes the safe number, because it does not know what the device has after a restart or while
there was no connection. `set-point.json` in the state folder names the device from before the first write
until the safe number was written at the end: so an agent that was killed makes it safe at its next start,
also if there is no plan any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.base import AdapterError
from adapters.set_point import SetPoint
from agent.pilots.exposure import Actual, Applied
from agent.pipeline.settings import DevicePlan
from agent.state_dir import keep
from wire.clock import Clock
from wire.pilot.plan import Intervention, Plan
from wire.pilot.schedule import Arm
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because
from wire.task_cancellation import end

log = logging.getLogger("edgebed.agent")

FILE = "set-point.json"
LOOK_S = 5.0  # between two reads of what the device has
_PAUSE_S = (1.0, 30.0)  # after a failure


def why_not(what: Intervention, devices: Mapping[str, DevicePlan]) -> Reason:
    """Why the config of this node does not allow a set-point; `NO_REASON` where it does."""
    device = what.device or ""
    why = printable(next(_objections(what, devices.get(device)), ""), 300)
    if not why:
        return NO_REASON
    text = f"this node does not allow the set-point of {device}: {why}"
    return because(text, "pilot-write-not-allowed", device=device, detail=why)


def _objections(what: Intervention, plan: DevicePlan | None) -> Iterator[str]:
    if plan is None:
        yield "there is no such device"
        return
    if (point := plan.set_point) is None:
        yield "its options have no `allow_write: true`"
        return
    kind = "register" if plan.config.adapter == "modbus" else "topic"
    if getattr(what, kind) != point.name:
        yield f"`write` names the {kind} {point.name}, and the plan {what.register or what.topic}"
    if what.safe != point.limits.safe:
        yield f"the safe number of the config is {point.limits.safe:g}, and that of the plan {what.safe}"
    for number in (what.on, what.off, what.safe):
        if number is None or what.min is None or what.max is None or not what.min <= number <= what.max:
            yield f"{number} is not within the limits of the plan"
        elif why := point.refusal(number):
            yield why
    if what.on is not None and point.same(what.on, what.off):
        yield f"on and off are the same for {point.name}"


@dataclass(frozen=True, slots=True)
class Found:
    """What the device had when the task last looked; `number` is None where that is not known."""

    wanted: float
    number: float | None
    reason: Reason = NO_REASON


class SetPointTask:
    """Owns the writes to one device: safe, then the newest number that is wanted, and safe at the end."""

    def __init__(
        self, device: str, plan: DevicePlan, clock: Clock, file: Path, changed: Callable[[], None]
    ) -> None:
        self.device, self.plan = device, plan
        self.found: Found | None = None
        self.failure = NO_REASON  # nothing is known about the device because of this
        self.is_ending = False  # a number that is wanted now would be lost
        self._clock = clock
        self._file = file
        self._changed = changed
        self._wanted: float | None = None
        self._asked = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"set-point-{device}")

    def want(self, number: float | None) -> None:
        """Ask for a number, instead of any before; None: write the safe one and end."""
        if number != self._wanted:
            self._wanted = number
            self._asked.set()

    async def _run(self) -> None:
        pause_s = _PAUSE_S[0]
        while True:
            self._asked.clear()
            try:
                await asyncio.to_thread(_mark, self._file, self.device)
                async with contextlib.AsyncExitStack() as stack:
                    point = self.plan.build(self._clock).set_point
                    if point is None:
                        raise AdapterError("its options do not allow writing")
                    stack.push_async_callback(point.close)
                    await point.open()
                    await self._keep(point)
                await asyncio.to_thread(self._file.unlink, missing_ok=True)
                return
            except (AdapterError, OSError) as error:
                self._fail(printable(error, 300))
            except Exception as error:  # a bug in an adapter must not end the agent
                log.debug("%s: set-point failed", self.device, exc_info=True)
                self._fail(printable(f"{type(error).__name__}: {error}", 300))
            pause_s = _PAUSE_S[0] if self.found is not None else pause_s
            self.found = None
            await self._wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S[1])

    async def _keep(self, point: SetPoint) -> None:
        """Write and look until the safe number was written at the end."""
        safe = point.limits.safe
        await point.write(safe)
        log.info("%s: set-point %s has its safe number %g", self.device, point.name, safe)
        written = safe
        while self._wanted is not None:
            self._asked.clear()
            wanted = self._wanted
            if not point.same(wanted, written):
                await point.write(wanted)
                log.info("%s: set-point %s is %g", self.device, point.name, wanted)
                written = wanted
            self._look(point, wanted, await point.read())
            await self._wait(LOOK_S)
        if not point.same(safe, written) or not point.same(safe, await point.read()):
            await point.write(safe)
        number = await point.read()
        self.is_ending = True
        self._look(point, safe, number)
        log.info("%s: set-point %s ends with %s", self.device, point.name, number)

    async def _wait(self, seconds: float) -> None:
        """Wait until another number is wanted; so long at most."""
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout_at(self._clock.flowing_s() + seconds):
                await self._asked.wait()

    def _look(self, point: SetPoint, wanted: float, number: float | None) -> None:
        reason = NO_REASON
        if not point.same(wanted, number):
            shown = "no number" if number is None else f"{number:g}"
            text = f"{point.name} of {self.device} has {shown}, and {wanted:g} was written"
            reason = because(
                text, "pilot-set-point-other", device=self.device, value=shown, planned=f"{wanted:g}"
            )
        self._report(Found(wanted, number, reason), NO_REASON)

    def _fail(self, why: str) -> None:
        text = f"the set-point of {self.device} cannot be written: {why}"
        self._report(self.found, because(text, "pilot-write-failed", device=self.device, detail=why))

    def _report(self, found: Found | None, failure: Reason) -> None:
        if (found, failure) != (self.found, self.failure):
            if failure.why and failure != self.failure:
                log.warning("%s", failure.why)
            self.found, self.failure = found, failure
            self._changed()


class SetPointSwitch:
    """The set-point of the plan; `devices` gives those of the config in use, `changed` hears of results."""

    def __init__(
        self,
        devices: Callable[[], Mapping[str, DevicePlan]],
        clock: Clock,
        state: Path,
        changed: Callable[[], None],
    ) -> None:
        self._devices = devices
        self._clock = clock
        self._file = state / FILE
        self._changed = changed
        self._task: SetPointTask | None = None
        self._last = Applied("other")

    def start(self) -> None:
        """Make safe what the run before may have left, as after a kill."""
        if not (device := _marked(self._file)):
            return
        plan = self._devices().get(device)
        if plan is None or plan.set_point is None:
            log.error(
                "%s may have a number of a pilot, and this config does not allow to write it: set it by hand,"
                " and remove %s", printable(device, 64), self._file,
            )  # fmt: skip
            return
        self._task = SetPointTask(device, plan, self._clock, self._file, self._changed)

    def set(self, plan: Plan, arm: Arm | None) -> Applied | None:
        """Ask for the number of the arm, or outside of all periods for the safe one."""
        what, devices = plan.intervention, self._devices()
        if (why := why_not(what, devices)).why:
            self.release()
            return Applied("other", why)
        device = what.device or ""
        number = what.safe if arm is None else what.on if arm == "on" else what.off
        task = self._running()
        if task is not None and (task.device, _target(task.plan)) != (device, _target(devices[device])):
            task.want(None)  # it makes its device safe, then there is room for another
            return None
        if task is None:
            task = self._task = SetPointTask(device, devices[device], self._clock, self._file, self._changed)
        if number is None or task.is_ending:
            return None
        task.want(number)
        return self._applied(task, what, number)

    def _applied(self, task: SetPointTask, what: Intervention, number: float) -> Applied | None:
        if task.failure.why:
            self._last = Applied("other", task.failure)
        elif (found := task.found) is None or found.wanted != number:
            return None
        else:
            self._last = Applied(_arm(task.plan.set_point, what, found.number), found.reason, found.number)
        return self._last

    def release(self) -> Applied:
        """Let the task write the safe number, and end."""
        if (task := self._running()) is not None:
            task.want(None)
        return Applied("other")

    def stopped(self) -> Applied:
        """What the task left."""
        task = self._task
        if task is None:
            return self._last
        if task.found is not None and not task.failure.why:
            return Applied("other", NO_REASON, task.found.number)
        return Applied("other", task.failure)

    async def close(self, within_s: float) -> None:
        """Write the safe number, and end the task; a device that does not answer has `within_s`."""
        if (task := self._running()) is None:
            return
        task.want(None)
        await asyncio.wait([task.task], timeout=within_s)
        if not task.task.done():
            log.error("%s: the safe number could not be written: the next start tries again", task.device)
            await end([task.task])

    def _running(self) -> SetPointTask | None:
        return None if self._task is None or self._task.task.done() else self._task


def _arm(point: SetPoint | None, what: Intervention, number: float | None) -> Actual:
    if point is not None and number is not None:
        if what.on is not None and point.same(what.on, number):
            return "on"
        if what.off is not None and point.same(what.off, number):
            return "off"
    return "other"


def _target(plan: DevicePlan) -> object:
    """All that decides where and how a number is written."""
    return plan.options, plan.set_point and plan.set_point.target


def _mark(file: Path, device: str) -> None:
    if _marked(file) != device:
        keep(file, json.dumps({"device": device}).encode(), mode=0o600)


def _marked(file: Path) -> str:
    """The device that may have a number of a pilot; empty if there is none."""
    try:
        found = json.loads(file.read_bytes()[:4_096])
        return str(found["device"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.error("%s cannot be read: %s", file, printable(error))
        return ""
