"""What simulated devices that publish to an MQTT broker share: their broker, their faults, their task."""

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
    """What is behind a device."""

    faults: tuple[Fault, ...]


class MqttDevice(ABC):
    """Subclasses say what they are (`kind`, `faults`, `plant_faults`) and what they do each turn (`_step`).

    Turn i is at `start_ns + i * period / parts`, `start_ns` a whole multiple of the period. A fault `broken`
    cuts the connection without a goodbye for as long as it lasts. `url` and `port` are the broker's: such a
    device is a client itself.
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
        """Take every fault back; what is done is done."""
        now_s = self._now_s()
        past = [
            replace(fault, end_s=min(fault.end_s, now_s))
            for fault in self._faults.of_plant
            if fault.start_s < now_s
        ]
        self._faults.clear()
        self._faults.of_plant = self._plant.faults = tuple(past)

    async def __aenter__(self) -> Self:
        self.start_ns = self._next_sample_ns()  # for what it says while it connects
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
                self._say_goodbye(publisher)
                await publisher.close()

    # --- what it does all day

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
            await asyncio.sleep(0)  # others are served between turns, however late we are

    @abstractmethod
    def _step(self, turn: int, at_s: float) -> None:
        """Publish what is due at a turn, `at_s` seconds since the first."""

    @abstractmethod
    def _new_publisher(self) -> Publisher:
        """Its connection, not yet open."""

    def _say_hello(self) -> None:  # noqa: B027 - a device that says nothing then is a device too
        """What is published after each connecting."""

    def _say_goodbye(self, publisher: Publisher) -> None:  # noqa: B027 - as above
        """What is published before an orderly end."""

    async def _is_connected(self, at_s: float) -> bool:
        """Cut or mend the connection as its faults want it; whether it is meant to be there."""
        if self._faults.size("broken", at_s):
            if self._publisher is not None:
                await self._publisher.cut()
                self._publisher = None
            return False
        if self._publisher is None:
            with contextlib.suppress(Unreachable):  # it is tried again with the next sample
                await self._connect()
        return True

    async def _connect(self) -> None:
        publisher = self._new_publisher()
        await publisher.open()
        self._publisher = publisher
        self._say_hello()

    def _now_s(self) -> float:
        return self._turn * self._period_ns / self._parts / NS_PER_S

    def _due_ns(self, turn: int) -> int:
        return self.start_ns + turn * self._period_ns // self._parts

    def _next_sample_ns(self) -> int:
        return -(-self.clock.now_ns() // self._period_ns) * self._period_ns
