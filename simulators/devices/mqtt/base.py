"""The base of simulated devices that publish to an MQTT broker: broker, faults, schedule."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import ClassVar, Protocol, Self

from simulators.devices.mqtt.publisher import Publisher, broker_of
from simulators.devices.running import stopped
from simulators.faults.fault import DeviceFaults, Fault, FaultKinds
from wire.clock import NS_PER_S, Clock
from wire.errors import Unreachable

_GIVE_UP_NS = 10 * NS_PER_S  # later than this, turns are skipped


class Plant(Protocol):
    """The plant behind a device."""

    faults: tuple[Fault, ...]


class MqttDevice(ABC):
    """A device that is a client of a broker. Subclasses set the class attributes and define `_step`.

    Turn i is at `start_ns + i * period / parts`, and `start_ns` is a whole multiple of the period. The fault
    `broken` cuts the connection without DISCONNECT for its time. `url` and `port` are those of the broker.
    """

    kind: ClassVar[str]
    faults: ClassVar[FaultKinds]
    plant_faults: ClassVar[FaultKinds]

    def __init__(
        self,
        plant: Plant,
        *,
        period_ns: int,
        parts: int = 1,
        broker_url: str,
        port: int,
        clock: Clock | None,
        faults: Sequence[str],
    ) -> None:
        self._broker = broker_of(self.kind, broker_url, port)
        self.port = self._broker.port
        self.clock = clock or Clock()
        self.start_ns = 0
        self.written = 0  # messages with samples since the start
        self.skipped = 0  # turns that a sleeping machine missed
        self._plant = plant
        self._period_ns = period_ns
        self._parts = parts
        self._turn = 0  # the next one
        self._faults = DeviceFaults(self.faults, self.plant_faults, faults)
        plant.faults = self._faults.of_plant
        self._publisher: Publisher | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The broker's URL."""
        return self._broker.url

    def inject(self, fault: str) -> None:
        """Break something from now on, or from the fault's start where that is later."""
        self._faults.add(fault, self._now_s())
        self._plant.faults = self._faults.of_plant

    def repair(self) -> None:
        """End every fault now; its effect on the past stays."""
        now_s = self._now_s()
        past = [
            replace(fault, end_s=min(fault.end_s, now_s))
            for fault in self._faults.of_plant
            if fault.start_s < now_s
        ]
        self._faults.clear()
        self._faults.of_plant = self._plant.faults = tuple(past)

    async def __aenter__(self) -> Self:
        self.start_ns = self._next_sample_ns()  # for the messages that it sends while it connects
        await self._connect()
        self.start_ns = self._next_sample_ns()
        self._task = asyncio.create_task(self._run(), name=self.kind)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        try:
            await stopped(task)
        finally:
            publisher, self._publisher = self._publisher, None
            if publisher is not None:
                self._before_end(publisher)
                await publisher.close()

    # --- the schedule

    async def _run(self) -> None:
        while True:
            due_ns = self._due_ns(self._turn)
            await self.clock.sleep_until(due_ns)
            late_ns = self.clock.now_ns() - due_ns
            if late_ns > max(_GIVE_UP_NS * self.clock.rate, self._period_ns):
                missed = int(late_ns * self._parts // self._period_ns)
                self.skipped += missed
                self._turn += missed
            at_s = self._now_s()
            if await self._is_connected(at_s):
                self._step(self._turn, at_s)
            self._turn += 1
            await asyncio.sleep(0)  # other tasks run between turns, however late the device is

    @abstractmethod
    def _step(self, turn: int, at_s: float) -> None:
        """Publish what is due at a turn, `at_s` seconds since the first."""

    @abstractmethod
    def _new_publisher(self) -> Publisher:
        """Make the device's connection; it is not open yet."""

    def _after_connect(self) -> None:  # noqa: B027 - not every device publishes here
        """Publish the messages that follow each connection."""

    def _before_end(self, publisher: Publisher) -> None:  # noqa: B027 - as above
        """Publish the messages that come before an orderly end."""

    async def _is_connected(self, at_s: float) -> bool:
        """Cut or restore the connection according to the faults; return whether it should be up."""
        if self._faults.size("broken", at_s):
            if self._publisher is not None:
                await self._publisher.cut()
                self._publisher = None
            return False
        if self._publisher is None:
            with contextlib.suppress(Unreachable):  # the next sample tries again
                await self._connect()
        return True

    async def _connect(self) -> None:
        publisher = self._new_publisher()
        await publisher.open()
        self._publisher = publisher
        self._after_connect()

    def _now_s(self) -> float:
        return self._turn * self._period_ns / self._parts / NS_PER_S

    def _due_ns(self, turn: int) -> int:
        return self.start_ns + turn * self._period_ns // self._parts

    def _next_sample_ns(self) -> int:
        return -(-self.clock.now_ns() // self._period_ns) * self._period_ns
