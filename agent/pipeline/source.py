"""Reads one device without end: opens it, reads it, detects silence, and opens it again after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
)
from typing import Any

from adapters.base import Adapter, AdapterError, DeviceStalled, Reading
from agent.pipeline.device_problems import DeviceProblems
from agent.pipeline.settings import DevicePlan
from agent.pipeline.validation import Validator
from wire.clock import Clock, gathered_s
from wire.messages import DeviceState
from wire.reasons import NO_REASON, Reason, because
from wire.task_cancellation import end

log = logging.getLogger("edgebed.source")

Sink = Callable[[Reading], Awaitable[None] | None]
OPEN_S = 30.0  # a device that takes longer to open counts as absent
CLOSE_S = 3.0
# a device that sends only what cannot be read shows it after so long, if `stall_s` is longer
_UNREAD_S = 10.0
_LOOK_S = 5.0  # the age of counters, also of a device that may be silent for hours


def _ignore() -> None:
    """Ignore a change."""


def follow(
    devices: Mapping[str, DevicePlan],
    clock: Clock,
    sink: Callable[[str], Sink],
    changed: Callable[[], None] = _ignore,
) -> dict[str, Source]:
    """Make a source for each device; `sink` gives the function that takes a device's readings."""
    return {
        name: Source(
            name,
            device,
            sink(name),
            clock=clock,
            changed=changed,
        )
        for name, device in devices.items()
    }


class Source:
    """Reads one device into `sink` and shows its condition in `state`.

    `sink` takes a reading at once and returns None, or returns an awaitable. The device is held back until it
    is done, and that time does not count as silence. `changed` is called when `state` changes.
    """

    def __init__(
        self,
        device: str,
        plan: DevicePlan,
        sink: Sink,
        *,
        clock: Clock,
        changed: Callable[[], None],
        backoff_s: tuple[float, float] = (0.5, 30.0),
    ) -> None:
        self.device = device
        self.state = DeviceState(state="starting", since=clock.now_ms())
        self.counters: Counter[str] = Counter()
        self.readings = 0
        self.newest_ns = 0  # device time of the newest reading
        self.opened = False  # the device answers; it may not have sent anything yet
        self.flows = False  # readings come; `state` may show a problem all the same
        self._plan = plan
        self._validator = Validator(plan.streams, clock, self.counters)
        self._problems = DeviceProblems(self._validator, plan.stall_s, plan.config.may_be_null)
        self._adapter: Adapter | None = None
        self._down = False  # no reading came since the device was lost
        self._sink = sink
        self._clock = clock
        self._stall_s = plan.stall_s
        self._changed = changed
        self._first_s, self._longest_s = backoff_s
        self._heard_s = 0.0  # when the last reading came, or when the sink released the source
        self._held = False  # the sink holds the source back: the device is not silent
        self._look: asyncio.TimerHandle | None = None

    def continue_counters(self, other: Source) -> None:
        """Continue the counters of the source that read this device before."""
        self.counters.update(other.counters)
        self.readings = other.readings

    @property
    def counted(self) -> dict[str, int]:
        """Number of readings, and all counters, since the start."""
        return {"readings": self.readings, **self.counters}

    def problem_so_far(self, rows: int) -> str:
        """What is wrong with the rows so far, e.g. a field that is null in `rows` rows; "" if nothing is."""
        found = None if self._adapter is None else self._problems.so_far(self._adapter, rows)
        return "" if found is None else found.why

    async def run(self) -> None:
        """Read until the device ends by itself (a file) or the task is cancelled."""
        wait_s = self._first_s
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await _apart(self._once(), f"device-{self.device}")
                self._enter("stopped", because("the recording has ended", "recording-ended"))
                return
            except AdapterError as error:
                self._lost(error.reason)
            except Exception as error:  # a bug in an adapter must cost only its device
                log.debug("%s: adapter failed", self.device, exc_info=True)
                self._lost(because(f"the adapter failed: {type(error).__name__}: {error}", "adapter-failed"))
            if asyncio.get_running_loop().time() - began > self._longest_s:
                wait_s = self._first_s  # it worked for long: this is a new failure
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.5))
            wait_s = min(wait_s * 2, self._longest_s)

    async def _once(self) -> None:
        """Open, read until the end, close.

        Raises:
            AdapterError: the device cannot be read (any more).
        """
        adapter = self._adapter = self._plan.build(self._clock)
        counted: Counter[str] = Counter()
        try:
            await self._open(adapter)
            self.opened = True
            await self._read(adapter, counted)
        finally:
            self.opened = self.flows = False
            try:
                await self._close(adapter)
            finally:
                self._count(adapter, counted)  # closing counts as well: what was still waiting, what hangs

    async def _open(self, adapter: Adapter) -> None:
        limit_s = max(OPEN_S, self._stall_s)
        try:
            async with self._clock.timeout_at(self._clock.flowing_s() + limit_s):
                await adapter.open()
        except TimeoutError as error:
            raise DeviceStalled(f"opening took longer than {limit_s:g} s").coded(
                "opening-timeout", seconds=limit_s
            ) from error

    async def _read(self, adapter: Adapter, counted: Counter[str]) -> None:
        now, check, sink = self._clock.flowing_s, self._validator.check, self._sink
        self._validator.reopened()
        self._held, self._heard_s = False, now()
        try:
            async with _ended(adapter.readings()) as readings, asyncio.timeout(None) as limit:
                self._watch(adapter, counted, limit)
                async for reading in readings:
                    self._heard_s = now()
                    if not self.flows:
                        self.flows, self._down = True, False
                        self._enter("ok")
                    self.readings += 1
                    self.newest_ns = reading.at_ns
                    if (fit := check(reading)) is not None and (wait := sink(fit)) is not None:
                        self._held = True
                        await wait
                        self._held, self._heard_s = False, now()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._silence(adapter, self._stall_s) from error
        finally:
            if self._look is not None:
                self._look.cancel()

    def _silence(self, adapter: Adapter, seconds: float) -> DeviceStalled:
        """The error for missing readings; it names what arrived instead."""
        what = self._unread(adapter)
        if not what:
            return DeviceStalled(f"no reading for {seconds:g} s").coded("device-silent", seconds=seconds)
        return DeviceStalled(f"no reading for {seconds:g} s: {what}").coded(
            "device-not-read", seconds=seconds, what=what
        )

    def _unread(self, adapter: Adapter) -> str:
        """The newest input that gave no value since the last reading."""
        unread = [each for each in adapter.unread.values() if each.at_s >= self._heard_s]
        return max(unread, key=lambda each: each.at_s).what if unread else ""

    def _watch(self, adapter: Adapter, counted: Counter[str], limit: asyncio.Timeout) -> None:
        """Check from time to time whether the device is silent, and take its counters."""
        # a timer for each reading would cost as much as reading it
        loop = asyncio.get_running_loop()
        quiet_s = self._clock.flowing_s() - max(self._heard_s, adapter.alive_s)
        left_s = self._stall_s if self._held else self._stall_s - quiet_s
        self._count(adapter, counted)
        if quiet_s >= _UNREAD_S and not self.flows and self._unread(adapter):
            # it stays open: what it sends later may be readable
            self._enter("degraded", self._silence(adapter, _UNREAD_S).reason)
        if left_s <= 0:
            limit.reschedule(loop.time())
        else:
            if self.flows:
                problem = adapter.problem or self._problems.find(adapter, self._clock.flowing_s())
                self._enter("ok" if problem is None else "degraded", problem or NO_REASON)
            again_s = min(self._stall_s / 8, _LOOK_S)
            at_s = min(loop.time() + left_s, gathered_s(loop.time() + again_s))
            self._look = loop.call_at(at_s, self._watch, adapter, counted, limit)

    async def _close(self, adapter: Adapter) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await adapter.close()
        except TimeoutError:
            log.warning("%s: closing took longer than %g s and was abandoned", self.device, CLOSE_S)

    def _count(self, adapter: Adapter, counted: Counter[str]) -> None:
        for name, number in adapter.counters.items():
            self.counters[name] += number - counted[name]
            counted[name] = number

    def _lost(self, reason: Reason) -> None:
        if not self._down:
            self.counters["lost"] += 1
        self._down = True
        self._enter("degraded", reason)

    def _enter(self, state: str, reason: Reason = NO_REASON) -> None:
        before = self.state
        since = self._clock.now_ms() if state != before.state else before.since
        self.state = DeviceState(state=state, since=since, **reason.fields())  # type: ignore[arg-type]  # one of its literals
        if state != before.state:
            if state == "degraded":
                log.warning("%s: degraded: %s", self.device, reason.why)
            elif state == "ok" and before.state == "degraded":
                log.info("%s: back after %.1f s", self.device, (since - before.since) / 1000)
            else:
                log.info("%s: %s", self.device, state)
        if (state, self.state.why) != (before.state, before.why):
            self._changed()


async def _apart(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run an adapter in a task of its own, so that its errors with cancellation stay there."""
    # In Python 3.11 a task group that fails leaves its task marked as being cancelled, and one that is
    # cancelled while it fails raises only the failure. In the source's task the first would end the source,
    # and the second would make it miss its own cancellation.
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await end([task])
        raise
    if task.cancelled():
        raise AdapterError("the adapter cancelled itself")
    task.result()


@contextlib.asynccontextmanager
async def _ended(readings: AsyncIterator[Reading]) -> AsyncIterator[AsyncIterator[Reading]]:
    """Close the iteration here, not when the garbage collector finds it."""
    try:
        yield readings
    finally:
        if isinstance(readings, AsyncGenerator):
            await readings.aclose()
