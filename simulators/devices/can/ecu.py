"""A control unit that answers OBD-II: SAE J1979 services 01 and 09 over ISO 15765-2, on 0x7DF and 0x7E0."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping

from simulators.devices.can.slcan import BusFrame

FUNCTIONAL, PHYSICAL, ANSWERS = 0x7DF, 0x7E0, 0x7E8

_NO_SUCH_SERVICE, _OUT_OF_RANGE, _NOT_NOW, _PENDING = 0x11, 0x31, 0x22, 0x78
_N_BS_S = 1.0  # ISO 15765-2: how long a sender waits for flow control
_PENDING_S = 0.2
_QUEUED = 32  # requests and flow controls that wait; more are ignored

log = logging.getLogger("edgebed.simulators.can")


class Ecu:
    """One control unit. `values` returns its measurements now, `faults` its active faults."""

    def __init__(
        self,
        send: Callable[[BusFrame], None],
        values: Callable[[], Mapping[str, float]],
        faults: Callable[[], frozenset[str]],
        vin: str,
    ) -> None:
        if len(vin) != 17:
            raise ValueError("a VIN has 17 characters")
        self._send, self._values, self._faults, self._vin = send, values, faults, vin
        self._requests: asyncio.Queue[BusFrame] = asyncio.Queue(_QUEUED)
        self._flow: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED)

    def take(self, frame: BusFrame) -> None:
        """Take a frame of the bus; a frame for another unit is ignored."""
        if frame.extended or frame.remote or frame.id not in (FUNCTIONAL, PHYSICAL) or not frame.data:
            return
        queue = self._flow if frame.data[0] >> 4 == 3 else self._requests
        if not queue.full():
            queue.put_nowait(frame.data if queue is self._flow else frame)  # type: ignore[arg-type]

    async def run(self) -> None:
        """Answer one request after the other, until the task is cancelled."""
        while True:
            frame = await self._requests.get()
            size = frame.data[0]
            if not 1 <= size <= 7 or len(frame.data) <= size or "ecu-silent" in self._faults():
                continue  # requests of OBD-II are single frames
            await self._respond(frame.data[1 : 1 + size], functional=frame.id == FUNCTIONAL)

    async def _respond(self, request: bytes, *, functional: bool) -> None:
        faults, service = self._faults(), request[0]
        if "ecu-refuses" in faults:
            await self._transmit(bytes([0x7F, service, _NOT_NOW]))
            return
        if "ecu-pending" in faults:
            await self._transmit(bytes([0x7F, service, _PENDING]))
            await asyncio.sleep(_PENDING_S)
        answer = self._answer(request)
        if answer[0] != 0x7F or not functional:  # a functional request gets no negative answer
            await self._transmit(answer)

    def _answer(self, request: bytes) -> bytes:
        service, pids = request[0], request[1:]
        if service == 0x01 and pids:
            values = self._values()
            found = [bytes([pid]) + data for pid in pids if (data := _data(pid, values)) is not None]
            return bytes([0x41]) + b"".join(found) if found else bytes([0x7F, service, _OUT_OF_RANGE])
        if service == 0x09 and pids == b"\x00":
            return bytes([0x49, 0x00]) + _bits([0x02], 0)
        if service == 0x09 and pids == b"\x02":
            return bytes([0x49, 0x02, 0x01]) + self._vin.encode("ascii")
        return bytes([0x7F, service, _OUT_OF_RANGE if service == 0x09 else _NO_SUCH_SERVICE])

    # --- ISO 15765-2, the sender

    async def _transmit(self, payload: bytes) -> None:
        if len(payload) <= 7:
            self._put(bytes([len(payload)]) + payload)
            return
        while not self._flow.empty():
            self._flow.get_nowait()  # flow controls from before the first frame do not belong to it
        self._put(bytes([0x10 | len(payload) >> 8, len(payload) & 0xFF]) + payload[:6])
        rest, number = payload[6:], 1
        while rest:
            control = await self._flow_control()
            if control is None:
                return
            block, gap_s = control
            for _ in range(block or len(rest)):
                if not rest:
                    return
                skipped = "ecu-garbled" in self._faults()  # a consecutive frame is lost
                self._put(bytes([0x20 | (number + skipped) & 0xF]) + rest[:7])
                rest, number = rest[7:], number + 1
                await asyncio.sleep(gap_s)

    async def _flow_control(self) -> tuple[int, float] | None:
        """Frames until the next one (0 = all) and seconds between two; None where the tester stops."""
        try:
            async with asyncio.timeout(_N_BS_S):
                while True:
                    control = await self._flow.get()
                    if control[0] & 0xF == 0 and len(control) >= 3:
                        gap = control[2]
                        # 0xF1 to 0xF9 are 100 to 900 us, up to 0x7F are ms, others are reserved: the longest
                        slow = gap if gap <= 0x7F else (gap - 0xF0) / 10 if 0xF1 <= gap <= 0xF9 else 0x7F
                        return control[1], slow / 1000
                    if control[0] & 0xF != 1:  # 1: wait
                        return None
        except TimeoutError:
            return None

    def _put(self, data: bytes) -> None:
        self._send(BusFrame(ANSWERS, data.ljust(8, b"\xaa")))


def _data(pid: int, values: Mapping[str, float]) -> bytes | None:
    """The data bytes of a PID of service 01; None where the unit does not have it."""
    if pid % 0x20 == 0:
        return _bits(list(_PIDS), pid) if pid <= max(_PIDS) else None
    if pid not in _PIDS:
        return None
    name, size, to_raw = _PIDS[pid]
    largest: int = 256**size - 1
    return min(max(round(to_raw(values[name])), 0), largest).to_bytes(size, "big")


def _bits(pids: list[int], base: int) -> bytes:
    """A bit for each of the 32 PIDs after `base` that the unit has; the last bit: there are more beyond."""
    offered = [pid in pids or (pid == base + 32 and max(pids) > pid) for pid in range(base + 1, base + 33)]
    found: int = sum(1 << 31 - place for place, on in enumerate(offered) if on)
    return found.to_bytes(4, "big")


_PIDS: dict[int, tuple[str, int, Callable[[float], float]]] = {
    0x05: ("coolant_temperature", 1, lambda x: x + 40),
    0x0C: ("engine_speed", 2, lambda x: x * 4),
    0x0D: ("vehicle_speed", 1, lambda x: x),
    0x11: ("throttle", 1, lambda x: x * 2.55),
    0x1F: ("run_time", 2, lambda x: x),
    0x42: ("control_voltage", 2, lambda x: x * 1000),
    0x46: ("ambient_temperature", 1, lambda x: x + 40),
    0x49: ("accelerator_d", 1, lambda x: x * 2.55),
    0x5B: ("hybrid_battery", 1, lambda x: x * 2.55),
    0xA6: ("odometer", 4, lambda x: math.floor(x * 10)),
}
