"""A water tank, and a level sensor that sends one line a second over TCP: `UNIX_MS,LEVEL_MM`."""

import asyncio
import math
import random

from simulators.devices.line_server import LineServer
from simulators.faults.fault import DeviceFaults, FaultKind, checked
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.task_cancellation import end

TANK_FAULTS = {"leak": FaultKind("the tank loses SIZE x 2 mm a second", largest=10)}
SENSOR_FAULTS = {"silent": "nothing is sent", "stuck": "the level does not change"}


class Tank:
    """The plant: what really happens. It knows no protocol and no clock, only sample numbers (1 Hz)."""

    def __init__(self, seed, faults=()):
        self.seed = seed
        self.faults = tuple(checked(fault, TANK_FAULTS) for fault in faults)

    def level(self, index):
        """The level of sample `index` in mm: a function of the seed, the index and the faults alone."""
        waves = 200 * math.sin(index / 60 + self.seed)
        lost = sum(2 * leak.size * max(0, min(index, leak.end_s) - leak.start_s) for leak in self.faults)
        return max(0, 1500 + waves - lost)


class TankSensor:
    """The device: a server that shows the plant. `async with TankSensor(seed=1) as sensor: sensor.url`."""

    def __init__(self, *, seed=0, host="127.0.0.1", port=0, clock=None, faults=()):
        self.clock = clock or Clock()
        self.start_ns = 0
        self._seed = seed
        self._faults = DeviceFaults(SENSOR_FAULTS, TANK_FAULTS, faults)
        self._tank = Tank(seed, self._faults.of_plant)
        self._line = LineServer(host, port)
        self._index = 0
        self._task = None

    @property
    def url(self):
        return self._line.url

    @property
    def port(self):
        return self._line.port

    def truth(self, at_ns):
        index, rest = divmod(at_ns - self.start_ns, NS_PER_S)
        return {} if rest or index < 0 else {"level": self._tank.level(index)}

    def inject(self, fault):
        self._faults.add(fault, self._index)
        self._tank = Tank(self._seed, self._faults.of_plant)

    def repair(self):
        self._faults.clear()
        self._tank = Tank(self._seed)

    def output(self, index):
        """The line of sample `index`."""
        if self._faults.size("silent", index):
            return b""
        at_ms = (self.start_ns + index * NS_PER_S) // NS_PER_MS
        for stuck in self._faults.active("stuck", index):
            index = math.ceil(stuck.start_s)
        noise = random.Random(f"{self._seed}/{index}").uniform(-1, 1)
        return f"{at_ms},{self._tank.level(index) + noise:.1f}\n".encode()

    async def __aenter__(self):
        await self._line.__aenter__()
        self.start_ns = -(-self.clock.now_ns() // NS_PER_S) * NS_PER_S
        self._task = asyncio.create_task(self._run(), name="tank-sensor")
        return self

    async def __aexit__(self, kind, error, trace):
        await end([self._task])
        await self._line.__aexit__(kind, error, trace)

    async def _run(self):
        while True:
            await self.clock.sleep_until(self.start_ns + self._index * NS_PER_S)
            self._line.send(self.output(self._index))
            self._index += 1
