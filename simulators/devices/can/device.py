"""The delivery car's CAN bus behind a serial CAN adapter (SLCAN), on TCP and on a pseudo terminal.

Each TCP connection is its own adapter on the same bus, so several programs may listen.
configs/dbc/edgebed-ev.dbc describes the bus; a control unit on it answers OBD-II.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from simulators.devices.can.ecu import Ecu
from simulators.devices.can.slcan import BusFrame, Slcan
from simulators.devices.can.vehicle_frames import GEARS, PACK_CELLS, frames, gear
from simulators.devices.running import listening, pseudo_terminal
from simulators.faults.fault import DeviceFaults, parse
from simulators.plants import vehicle
from simulators.plants.vehicle import RATE_HZ, Vehicle
from simulators.simulator import Value
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.task_cancellation import end

FAULTS = {
    "silent": "no control unit sends",
    "wrong-dlc": "the Pack message is three bytes too short",
    "foreign": "SIZE x 20 frames a cycle that are not in the DBC",
    "garbage": "the serial adapter sends bytes that are not SLCAN",
    "not-available": "current and state of charge have all bits set",
    "out-of-range": "the speed is 300 km/h",
    "nan": "the slope is NaN",
    "stuck-clock": "the bus time does not advance",
    "ecu-silent": "the control unit does not answer OBD-II",
    "ecu-refuses": "the control unit answers conditionsNotCorrect",
    "ecu-pending": "the control unit answers responsePending first",
    "ecu-garbled": "consecutive frames of long answers are lost",
}
OBD_HZ = 1  # how often the control unit measures the values for OBD-II

_PERIOD_NS = NS_PER_S // RATE_HZ
_GIVE_UP_NS = 10 * NS_PER_S  # later than this, samples are skipped: a car that slept does not replay
_BEHIND = 256 * 1024  # bytes that a client may leave unread before its adapter loses frames
_COMMANDS = 4_096  # bytes taken from a client at once
_CHUNK_S = 60  # the odometer's sums

log = logging.getLogger("edgebed.simulators.can")


class VehicleBus:
    """A car on the bus. Use: `async with VehicleBus(seed=1) as car: car.url` (the adapter's `channel`).

    With `terminal`, `url` is the path of a pseudo terminal; the TCP port is open, too.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        terminal: bool = False,
        vin: str = "",
    ) -> None:
        self.host, self.port = host, port
        self.clock = clock or Clock()
        self.start_ns = 0
        self.written = 0  # cycles since the start
        self.skipped = 0  # cycles that a sleeping machine missed
        self.lost = 0  # lines that clients did not read in time
        self.vin = vin or f"EDGEBED0V{seed % 10**8:08d}"  # not a code of a maker
        self._faults = DeviceFaults(FAULTS, vehicle.FAULTS, faults)
        self._seed = seed
        self._ecu = Ecu(self._answered, self._measured, lambda: self._on(self._now_s), self.vin)
        self._car, self._trip = self._driven()
        self._index = 0
        self._terminal = terminal
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._adapters: dict[asyncio.StreamWriter | int, Slcan] = {}  # by where they write
        self._ends: tuple[int, ...] = ()  # of the pseudo terminal: the device's and the client's
        self._path = ""
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """What the adapter's `channel` takes."""
        return self._path if self._terminal else f"socket://{self.host}:{self.port}"

    def truth(self, at_ns: int) -> dict[str, Value]:
        """What the car did: the signals of the sample at that time, and the OBD-II values of that second."""
        index = (at_ns - self.start_ns) // _PERIOD_NS
        if index < 0:
            return {}
        sample = self._car.sample(index)
        label = vehicle.LABELS[int(self._car.labels(index, 1)[0])]
        return {
            **sample,
            "cell_voltage": sample["pack_voltage"] / PACK_CELLS,
            "gear": GEARS[gear(sample["speed"], sample["pedal"])],
            "label": label,
            **self._trip.obd(index // RATE_HZ),
        }

    def began(self, fault: str, from_ns: int, until_ns: int) -> int | None:
        """The Unix ns at which the driver began a hard manoeuvre between two times; None if there was none.

        A car that waits at a light cannot brake. Every other fault begins at once.
        """
        kind = parse(fault, {**FAULTS, **vehicle.FAULTS}).kind
        if kind not in vehicle.LABELS:
            return from_ns
        first, end = ((at_ns - self.start_ns) // _PERIOD_NS for at_ns in (from_ns, until_ns))
        found = np.flatnonzero(self._car.labels(first, end - first) == vehicle.LABELS.index(kind))
        return self.start_ns + (first + int(found[0])) * _PERIOD_NS if len(found) else None

    def inject(self, fault: str) -> None:
        """Break something from now on, or from the fault's start where that is later."""
        self._faults.add(fault, self._index / RATE_HZ)
        self._car, self._trip = self._driven()

    def repair(self) -> None:
        """Remove every fault."""
        self._faults.clear()
        self._car, self._trip = self._driven()

    def unplug(self) -> None:
        """Pull the cable: the pseudo terminal goes away."""
        ends, self._ends = self._ends, ()
        if ends:
            asyncio.get_running_loop().remove_reader(ends[0])
            self._adapters.pop(ends[0], None)
        for descriptor in ends:
            os.close(descriptor)

    async def __aenter__(self) -> Self:
        with listening("the car's CAN adapter", self.host, self.port):
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        if self._terminal:
            self._plug_in()
        self.start_ns = -(-self.clock.now_ns() // NS_PER_S) * NS_PER_S  # OBD-II measures on whole seconds
        self._tasks = [
            asyncio.create_task(self._run(), name="vehicle-bus"),
            asyncio.create_task(self._ecu.run(), name="vehicle-ecu"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, []
        await end(tasks)
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._clients.values():
            writer.transport.abort()
        await asyncio.gather(*self._clients)
        self.unplug()

    # --- the schedule

    async def _run(self) -> None:
        while True:
            due_ns = self.start_ns + self._index * _PERIOD_NS
            await self.clock.sleep_until(due_ns)
            late_ns = self.clock.now_ns() - due_ns
            if late_ns > _GIVE_UP_NS * self.clock.rate:
                self.skipped += late_ns // _PERIOD_NS
                self._index += late_ns // _PERIOD_NS
            self._cycle(self._index)
            self._index += 1
            self.written += 1
            await asyncio.sleep(0)  # clients are served between cycles, however late the device is

    def _cycle(self, index: int) -> None:
        faults = self._on(index / RATE_HZ)
        if "silent" in faults:
            return
        at_ns = self.start_ns + index * _PERIOD_NS
        shown_ns = self.start_ns if "stuck-clock" in faults else at_ns
        sent = frames(index, shown_ns, self._car.sample(index), faults)
        flood = round(20 * self._faults.size("foreign", index / RATE_HZ))
        sent[1:1] = [BusFrame(0x600 + n % 0x100, bytes(8)) for n in range(flood)]
        noise = b"t14\xff8zz\r" if "garbage" in faults else b""
        for where, adapter in list(self._adapters.items()):
            if adapter.open:
                lines = b"".join(adapter.line(frame, at_ns // NS_PER_MS) for frame in sent)
                self._write(where, noise + lines)

    def _on(self, at_s: float) -> frozenset[str]:
        return frozenset(kind for kind in FAULTS if self._faults.size(kind, at_s))

    @property
    def _now_s(self) -> float:
        return max(0.0, (self.clock.now_ns() - self.start_ns) / NS_PER_S)

    def _driven(self) -> tuple[Vehicle, _Trip]:
        car = Vehicle(self._seed, self._faults.of_plant)
        return car, _Trip(car, 12_000.0 + self._seed % 1_000)

    def _measured(self) -> dict[str, float]:
        return self._trip.obd(int(self._now_s * OBD_HZ))

    def _answered(self, frame: BusFrame) -> None:
        self._deliver(frame, None)

    def _deliver(self, frame: BusFrame, sender: Slcan | None) -> None:
        """Send a frame to every adapter on the bus except the sender."""
        for where, adapter in list(self._adapters.items()):
            if adapter.open and adapter is not sender:
                self._write(where, adapter.line(frame, self.clock.now_ms()))

    # --- the serial adapters

    def _new_adapter(self, where: asyncio.StreamWriter | int) -> Slcan:
        def send(frame: BusFrame) -> None:
            self._deliver(frame, adapter)
            self._ecu.take(frame)

        adapter = self._adapters[where] = Slcan(send)
        return adapter

    def _write(self, where: asyncio.StreamWriter | int, data: bytes) -> None:
        if isinstance(where, int):
            try:
                if os.write(where, data) == len(data):
                    return
            except OSError:
                pass  # there is no reader: a serial line does not wait
        elif where.transport.get_write_buffer_size() < _BEHIND:
            where.write(data)
            return
        self.lost += 1
        self._adapters[where].overrun()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="vehicle-bus-client")
        self._clients[task] = writer
        task.add_done_callback(self._clients.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        adapter = self._new_adapter(writer)
        try:
            while typed := await reader.read(_COMMANDS):
                self._write(writer, adapter.feed(typed))
        except OSError:
            pass  # the client disconnected
        finally:
            del self._adapters[writer]
            writer.close()

    def _plug_in(self) -> None:
        device_end, client_end, self._path = pseudo_terminal()
        self._ends = (device_end, client_end)
        adapter = self._new_adapter(device_end)

        def typed() -> None:
            with contextlib.suppress(BlockingIOError):
                if answers := adapter.feed(os.read(device_end, _COMMANDS)):
                    self._write(device_end, answers)

        asyncio.get_running_loop().add_reader(device_end, typed)


class _Trip:
    """The OBD-II values of the control unit: a function of the second alone."""

    def __init__(self, car: Vehicle, odometer_km: float) -> None:
        self._car, self._before_km = car, odometer_km
        self._sums: list[float] = [0.0]  # km at the start of each chunk of the trip

    def obd(self, second: int) -> dict[str, float]:
        """The values of one second, by the names of the adapter's PID table."""
        sample = self._car.sample(second * RATE_HZ)
        return {
            "vehicle_speed": sample["speed"],
            "engine_speed": sample["speed"] * 85.0,  # the motor's: one gear, a wheel of 0.63 m
            "accelerator_d": sample["pedal"],
            "throttle": sample["pedal"],
            "coolant_temperature": sample["cell_temperature"] + 4.0,
            "ambient_temperature": 18.0,
            "control_voltage": 13.8,
            "hybrid_battery": sample["soc"],
            "run_time": float(second % 65_536),
            "odometer": self._before_km + self._km(second),
        }

    def _km(self, second: int) -> float:
        chunk, rest = divmod(second, _CHUNK_S)
        while len(self._sums) <= chunk:
            start = (len(self._sums) - 1) * _CHUNK_S
            self._sums.append(self._sums[-1] + self._driven(start, _CHUNK_S))
        return self._sums[chunk] + self._driven(chunk * _CHUNK_S, rest)

    def _driven(self, start_s: int, seconds: int) -> float:
        speed = self._car.block(start_s * RATE_HZ, seconds * RATE_HZ)[:, vehicle.SIGNALS.index("speed")]
        return float(speed.sum()) / RATE_HZ / 3600
