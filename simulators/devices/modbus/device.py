"""Two devices on Modbus: a particulate sensor beside a street, and the controller of a cobot.

The cobot's registers are those that Doosan Robotics publishes for the Modbus TCP server of its controllers:
tenths of a degree, refreshed ten times a second. The registers of the sensor are made up.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import ClassVar, Self

from simulators.devices.modbus.server import (
    ILLEGAL_ADDRESS,
    AnswerFaults,
    LineKind,
    ModbusException,
    TcpListener,
    Terminal,
)
from simulators.faults.fault import DeviceFaults, Fault, FaultKinds
from simulators.plants import air, cobot
from simulators.simulator import Value
from wire.clock import NS_PER_MS, NS_PER_S, Clock

FAULTS: dict[str, str] = {  # of both devices
    "refuse": "every request is refused with the exception code SIZE",
    "silent": "no request is answered",
    "late": "answers come SIZE real seconds late",
    "short": "SIZE registers are missing from each answer",
    "garbage": "answers are bytes that are not Modbus",
    "other-unit": "answers come from unit SIZE",
    "other-device": "the device identifies itself as another device",
}


class ModbusUnit(ABC):
    """A Modbus device on the network. Use: `async with ParticulateSensor(seed=1) as device: device.url`.

    `line` is `tcp`, `rtu` (a pseudo terminal, its path is in `url`) or `rtu+tcp`. The registers show the
    newest sample of the schedule of `clock`; nothing runs between requests.
    """

    rate_hz: int
    faults: FaultKinds
    plant_faults: FaultKinds
    presets: ClassVar[Mapping[tuple[str, int], int]] = {}  # (table, address) -> what it has first

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        unit_id: int = 1,
        line: LineKind = "tcp",
    ) -> None:
        self.seed, self.host, self.port = seed, host, port
        self.clock = clock or Clock()
        self.unit_id, self.line = unit_id, line
        self.start_ns = 0  # time of sample 0
        self.requests = 0  # since the start
        self.refused = 0  # requests for an address that it does not have
        self.settings = dict(self.presets)  # what masters have written
        self._faults = DeviceFaults(self.faults, self.plant_faults, faults)
        self._build_plant(self._faults.of_plant)
        self._server: TcpListener | Terminal | None = None

    @property
    def url(self) -> str:
        """What the adapter's `url` option takes."""
        if isinstance(self._server, Terminal):
            return f"rtu://{self._server.path}?baud=9600"
        return f"{self.line}://{self.host}:{self.port}"

    @property
    def period_ns(self) -> int:
        """The time from sample to sample."""
        return NS_PER_S // self.rate_hz

    def inject(self, fault: str) -> None:
        """Break something from now on: a fault of the plant, or one of `faults`.

        Raises:
            ValueError: there is no such fault.
        """
        # a sample that may have been read does not change any more
        next_s = (self.index() + 1) / self.rate_hz if self.start_ns else 0.0
        self._faults.add(fault, self._now_s(), plant_now_s=next_s)
        self._build_plant(self._faults.of_plant)

    def repair(self) -> None:
        """Remove every fault."""
        self._faults.clear()
        self._build_plant(())

    def index(self) -> int:
        """The index of the newest sample."""
        return max(0, self.clock.now_ns() - self.start_ns) // self.period_ns if self.start_ns else 0

    async def unplug(self) -> None:
        """Pull the plug: connections end, or the serial port disappears."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def babble(self, noise: bytes) -> None:
        """Send bytes without a request; only on a pseudo terminal."""
        if isinstance(self._server, Terminal):
            self._server.babble(noise)

    async def __aenter__(self) -> Self:
        server: TcpListener | Terminal
        if self.line == "rtu":
            server = Terminal(self)
        else:
            server = TcpListener(self, self.host, self.port, rtu=self.line == "rtu+tcp")
        await server.open()
        if isinstance(server, TcpListener):
            self.port = server.port
        self._server = server
        self.start_ns = self.clock.now_ns() // self.period_ns * self.period_ns
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.unplug()

    # --- for the server

    def read(self, table: str, address: int, count: int) -> Sequence[int]:
        """Registers as they are now."""
        self.requests += 1
        settings = {at: number for (of, at), number in self.settings.items() if of == table}
        held = {**self.held(table, self.index()), **settings}
        try:
            return [held[at] for at in range(address, address + count)]
        except KeyError:
            self.refused += 1
            raise ModbusException(ILLEGAL_ADDRESS) from None

    def write(self, table: str, address: int, numbers: Sequence[int]) -> None:
        """Change settings: all of them or none."""
        self.requests += 1
        written = {(table, address + at): number for at, number in enumerate(numbers)}
        if not written.keys() <= self.settings.keys():
            self.refused += 1
            raise ModbusException(ILLEGAL_ADDRESS)
        self.settings.update(written)

    def answer_faults(self) -> AnswerFaults:
        """The active faults of its answers."""
        return AnswerFaults(
            answers_as=int(self.fault("other-unit")),
            late_s=self.fault("late"),
            silent=self.fault("silent") > 0,
            exception=int(self.fault("refuse")),
            short=int(self.fault("short")),
            garbage=self.fault("garbage") > 0,
        )

    def fault(self, kind: str) -> float:
        """The size of a fault now; 0 where it is not active."""
        return self._faults.size(kind, self._now_s())

    def _now_s(self) -> float:
        return (self.clock.now_ns() - self.start_ns) / NS_PER_S if self.start_ns else 0.0

    # --- for subclasses

    @abstractmethod
    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """See `simulators.simulator.Simulator`."""

    @abstractmethod
    def held(self, table: str, index: int) -> Mapping[int, int]:
        """The numbers of one table by address, when sample `index` is the newest."""

    @abstractmethod
    def objects(self) -> Mapping[int, bytes]:
        """Its identification."""

    @abstractmethod
    def _build_plant(self, faults: Sequence[Fault]) -> None:
        """Make the plant, with these faults."""


class ParticulateSensor(ModbusUnit):
    """A particulate sensor, once a second: 16 input registers, configs/maps/particulate-modbus.yaml.

    Masters can set the speed of its fan (holding register 0, in 0.1 %) and its heater (coil 0).
    """

    rate_hz = air.RATE_HZ
    presets: ClassVar = {("holding", 0): 600, ("coil", 0): 0}
    plant_faults = air.FAULTS
    faults = FAULTS | {
        "stuck-counter": "there is no new sample",
        "lost-samples": "the sample counter is SIZE too high",
        "nan": "pm2_5 is NaN",
        "no-reading": "temperature has the value for no reading",
        "clock-ahead": "times are SIZE seconds ahead",
        "clock-behind": "times are SIZE seconds behind",
    }

    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """What was in the air at a sample's time; a stuck or dirty sensor does not change it."""
        index, rest = divmod(at_ns - self.start_ns, self.period_ns)
        if not self.start_ns or rest or index < 0:
            return {}
        real = [fault for fault in self.air.faults if fault.kind not in ("stuck", "drift")]
        return {**air.Air(self.seed, real).sample(index)}

    def held(self, table: str, index: int) -> Mapping[int, int]:
        """Identification, status, counter, time, values."""
        if table != "input":
            return {}
        for stuck in self._faults.active("stuck-counter", self._now_s()):
            index = int(stuck.start_s * self.rate_hz)
        sample = self.air.sample(index)
        ahead_s = self.fault("clock-ahead") - self.fault("clock-behind")
        at_ms = (self.start_ns + index * self.period_ns) // NS_PER_MS + int(ahead_s * 1000)
        pm2_5 = math.nan if self.fault("nan") else sample["pm2_5"]
        temperature = -0x8000 if self.fault("no-reading") else _whole(sample["temperature"] * 100)
        packed = struct.pack(
            ">HHIQfffhH",
            0x1234 if self.fault("other-device") else 0xA125,
            0b01 if index < 30 else 0b00,  # it warms up
            (index + int(self.fault("lost-samples"))) % 2**32,
            max(0, at_ms),
            sample["pm1"],
            pm2_5,
            sample["pm10"],
            temperature,
            _whole(sample["humidity"] * 100),
        )
        return dict(enumerate(struct.unpack(f">{len(packed) // 2}H", packed)))

    def objects(self) -> Mapping[int, bytes]:
        """The answer to function 43/14."""
        product = b"Kettle" if self.fault("other-device") else b"PM-16"
        return {0: b"edgebed", 1: product, 2: b"1.2"}

    def _build_plant(self, faults: Sequence[Fault]) -> None:
        self.air = air.Air(self.seed, faults)


class ModbusCobot(ModbusUnit):
    """A cobot's controller, ten times a second, configs/maps/cobot-modbus.yaml; it shows no time."""

    rate_hz = 10
    plant_faults = cobot.FAULTS
    faults = FAULTS | {"stop": "the emergency stop is pressed (only the registers show it)"}

    def truth(self, at_ns: int) -> Mapping[str, Value]:
        """What the joints did at the sample of this time, with `faulty_joint`."""
        index = (at_ns - self.start_ns) // self.period_ns
        if not self.start_ns or index < 0:
            return {}
        at = index * _PLANT_STEPS
        real = [fault for fault in self.cobot.faults if fault.kind != "stuck-sensor"]
        sample = cobot.Cobot(self.seed, real).sample(at)
        return {**sample, "faulty_joint": int(self.cobot.labels(at, 1)[0])}

    def held(self, table: str, index: int) -> Mapping[int, int]:
        """Controller and robot state from 256, joints from 270: holding registers."""
        if table != "holding":
            return {}
        sample = self.cobot.sample(index * _PLANT_STEPS)
        stopped = int(self.fault("stop") > 0)
        version = (1, 4, 0) if self.fault("other-device") else (2, 9, 1)
        state = [*version, _EMERGENCY_STOP if stopped else _MOVING, 1 - stopped, stopped, 0, 0, 0]
        held = dict(enumerate(state, 256))
        for joint in range(1, cobot.JOINTS + 1):
            held[269 + joint] = _whole(sample[f"j{joint}_position"] * 10) & 0xFFFF
            held[279 + joint] = _whole(sample[f"j{joint}_velocity"] * 10) & 0xFFFF
            held[309 + joint] = _whole(sample[f"j{joint}_torque"]) & 0xFFFF
        return held

    def objects(self) -> Mapping[int, bytes]:
        """Empty: this controller does not support it."""
        return {}

    def _build_plant(self, faults: Sequence[Fault]) -> None:
        self.cobot = cobot.Cobot(self.seed, faults)


_PLANT_STEPS = cobot.RATE_HZ // ModbusCobot.rate_hz
_MOVING, _EMERGENCY_STOP = 2, 6  # values of register 259


def _whole(value: float) -> int:
    """The nearest number that a signed register can hold."""
    return max(-0x8000, min(0x7FFF, round(value)))
