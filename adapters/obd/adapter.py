"""The OBD-II adapter: asks a control unit for its standard measurements over CAN, one row a period."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import AsyncIterator

from adapters.base import (
    Adapter,
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    ProtocolViolation,
    Reading,
    Value,
)
from adapters.can.frames import CanBus
from adapters.can.options import check_bus
from adapters.obd.isotp import BrokenAnswer, IsoTp, NoAnswer
from adapters.obd.options import ObdOptions, check
from adapters.obd.pids import NEGATIVE, PENDING, PIDS, Pid
from wire.clock import NS_PER_S, Clock
from wire.messages import Field, Quality, Stream
from wire.task_cancellation import end

log = logging.getLogger("edgebed.adapters.obd")

_CURRENT, _VEHICLE = 0x01, 0x09  # services of SAE J1979
_VIN = 0x02
_PATIENCE_S = 5.0  # ISO 15765-4, P2*: the longest wait after "response pending"
_PENDINGS = 10  # how often a control unit may answer "response pending"
_OTHER_ANSWERS = 100  # answers to other requests that are skipped
_UNFILTERED_S = 0.2  # until the bus hands over frames of every id
_ALL_29 = 0x18DB33F1  # 29-bit id of a request to all units
_FIRST_29 = 0x18DA00F1  # 29-bit ids, ISO 15765-4: 18DA<to><from>; the tester is F1


class NegativeResponse(Exception):
    """The control unit refused a request; the text is the word of ISO 14229 for its code."""

    def __init__(self, code: int) -> None:
        super().__init__(NEGATIVE.get(code, f"0x{code:02X}"))


class Obd(Adapter[ObdOptions]):
    """One control unit, one signal stream."""

    Options = ObdOptions
    kind = "obd"

    def __init__(self, options: ObdOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        check_bus(options)
        check(options)
        self._pids = {name: PIDS[name] for name in options.pids}
        self._lacking: frozenset[str] = frozenset()  # the control unit does not offer them
        self._bus: CanBus | None = None
        self._link: IsoTp | None = None
        self._vin = ""
        self._silent_s = 0.0
        self._logged: set[tuple[str, str]] = set()

    @property
    def period_s(self) -> float:
        """The option."""
        return self.options.period_s

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.data_age_s

    def streams(self) -> dict[str, Stream]:
        """One signal stream, a field for each PID by its name."""
        options = self.options
        fields = {name: pid.field for name, pid in self._pids.items()}
        if options.send_vin != "no":
            fields["vin"] = Field(t="str", desc=f"Vehicle identification, {options.send_vin}.")
        return {options.stream: Stream(rate_hz=1 / options.period_s, fields=fields)}

    async def open(self) -> None:
        """Open the bus; ask the control unit which PIDs it offers and, where configured, for the VIN."""
        options = self.options
        answers = [(options.answer_id, options.extended)]
        self._bus = CanBus(options, self.clock, self.counters, wanted=answers, sends=True)
        self._link = IsoTp(
            self._bus,
            request_id=options.request_id,
            flow_id=_flow_id(options),
            answer_id=options.answer_id,
            extended=options.extended,
        )
        try:
            await self._bus.open()
            await self._check_pids()
            if options.vin or options.send_vin != "no":
                self._vin = await self._check_vin()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the bus."""
        bus, self._bus, self._link = self._bus, None, None
        if bus is not None:
            await bus.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield a row each period, stamped with the time it was due; a slow poll is stamped with its end."""
        options = self.options
        period_ns = int(options.period_s * NS_PER_S)
        offset_ns = last_ns = due_ns = 0
        while True:
            now_ns = self.clock.now_ns()
            set_ns = now_ns - self.clock.monotonic_ns() - offset_ns
            if not due_ns or abs(set_ns) > period_ns // 2:  # at the start, and when the clock was set
                offset_ns, last_ns = offset_ns + set_ns, now_ns
                # the middle of whole periods: a device that measures at their borders has settled by then
                due_ns = (now_ns + period_ns // 2) // period_ns * period_ns + period_ns // 2
            missed = (max(last_ns, now_ns - period_ns // 2) - due_ns) // period_ns + 1
            if missed > 0:
                due_ns += missed * period_ns
                self.counters["missed_polls"] += missed
            await self.clock.sleep_until(due_ns)
            values, quality = await self._poll()
            last_ns = due_ns
            if self.clock.now_ns() - due_ns >= period_ns // 2:
                last_ns = self.clock.now_ns()
                self.counters["slow_polls"] += 1
            if values is not None:
                yield Reading(options.stream, last_ns, values, quality=quality)
            due_ns += period_ns

    # --- requests

    async def _poll(self) -> tuple[dict[str, Value] | None, Quality]:
        """The values of all PIDs and their quality; None where no PID was answered."""
        values: dict[str, Value] = {}
        for name, pid in self._pids.items():
            values[name] = None if name in self._lacking else await self._value(name, pid)
        missing = sum(value is None for value in values.values())
        if missing == len(values):
            return None, Quality.BAD
        if self.options.send_vin != "no":
            values["vin"] = self._vin
        return values, Quality.UNCERTAIN if missing else Quality.GOOD

    async def _value(self, name: str, pid: Pid) -> Value:
        options = self.options
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        try:
            data = await self._ask(_CURRENT, pid.number)
        except NoAnswer as error:
            self.counters["no_answer"] += 1
            self._silent_s += loop.time() - asked_s
            if self._silent_s >= options.data_age_s:
                raise DeviceStalled(
                    f"{options.where} is open, but its control unit 0x{options.answer_id:X} has not answered"
                    f" for {options.data_age_s:g} s"
                ).coded("device-silent", seconds=options.data_age_s) from error
            self._note(name, "is not answered")
            return None
        except BrokenAnswer as error:
            self.counters["broken_answers"] += 1
            self._log_once(name, str(error))
            return None
        except NegativeResponse as error:
            self._silent_s = 0.0
            self.counters[f"refused_{error}"] += 1
            self._log_once(name, f"refused: {error}")
            return None
        self._silent_s = 0.0
        if len(data) != pid.size:
            self.counters["wrong_size"] += 1
            self._log_once(name, f"answered with {len(data)} bytes instead of {pid.size}")
            return None
        if name in self.unread:
            self.was_read(name)
        return float(pid.value(int.from_bytes(data, "big")))

    async def _ask(self, service: int, pid: int) -> bytes:
        """Ask for one PID; returns the data of the answer.

        Raises:
            NoAnswer, BrokenAnswer: see `IsoTp.receive`.
            NegativeResponse: the control unit refused the request.
        """
        if self._link is None:
            raise DeviceUnreachable(f"{self.options.where} is not open")
        loop = asyncio.get_running_loop()
        if late := await self._link.send(bytes([service, pid])):
            self.counters["late_frames"] += late
        until_s, pendings = loop.time() + self.options.answer_s, 0
        for _ in range(_OTHER_ANSWERS):
            answer = await self._link.receive(until_s)
            if answer[:2] == bytes([service + 0x40, pid]):
                return answer[2:]
            if answer[0] != 0x7F or len(answer) < 3 or answer[1] != service:
                self.counters["unexpected_answers"] += 1
            elif answer[2] != PENDING:
                raise NegativeResponse(answer[2])
            elif pendings < _PENDINGS:
                pendings += 1
                until_s = loop.time() + _PATIENCE_S
        raise NoAnswer("only answers to other requests")

    # --- identity

    async def _check_pids(self) -> None:
        offered: set[int] = set()
        listed = 0x100  # no list that came has the PIDs from here on: each of them is asked for
        for base in range(0, 0x100, 0x20):
            if base and base not in offered:  # the last bit of 32 says whether there are more
                break
            try:
                data = await self._first(_CURRENT, base, "which measurements it offers")
                if len(data) != 4:
                    raise ProtocolViolation(
                        f"{self._unit} lists its measurements in {len(data)} bytes instead of 4"
                    )
            except (DeviceStalled, ProtocolViolation) as error:
                if not base:
                    raise
                log.warning("%s; from 0x%02X on, each is asked for", error, base + 1)
                listed = base + 1
                break
            bits = int.from_bytes(data, "big")
            offered |= {base + place + 1 for place in range(32) if bits >> 31 - place & 1}
        lacking = [
            name for name, pid in self._pids.items() if pid.number not in offered and pid.number < listed
        ]
        known = (
            ", ".join(name for name, pid in PIDS.items() if pid.number in offered)
            or "nothing that edgebed knows"
        )
        if len(lacking) == len(self._pids):
            raise ProtocolViolation(f"{self._unit} does not offer {', '.join(lacking)}; it offers {known}")
        self._lacking = frozenset(lacking)
        for name in lacking:
            self.not_read(f"{self._unit} does not offer {name}; it offers {known}", name)

    async def _check_vin(self) -> str:
        """The VIN in the form that rows carry; no error contains it."""
        options = self.options
        data = await self._first(_VEHICLE, _VIN, "its VIN")
        vin = data[1:].strip(b"\x00").decode("ascii", errors="replace")
        if not re.fullmatch("[A-HJ-NPR-Z0-9]{17}", vin):
            raise ProtocolViolation(
                f"{self._unit} answers with {len(data) - 1} characters that are not a VIN"
            )
        hashed = hashlib.sha256(vin.encode()).hexdigest()
        expected = options.vin.removeprefix("sha256:").lower() if ":" in options.vin else _hash(options.vin)
        if options.vin and not hmac.compare_digest(hashed, expected):
            raise ProtocolViolation(f"{self._unit} is in another vehicle: its VIN is not the one in `vin`")
        return {"no": "", "hash": hashed[:16], "plain": vin}[options.send_vin]

    async def _first(self, service: int, pid: int, what: str) -> bytes:
        """Ask twice: the first frame on a sleeping bus may be lost."""
        for attempt in range(2):
            try:
                return await self._ask(service, pid)
            except (NoAnswer, BrokenAnswer) as error:
                if attempt:
                    raise await self._nothing(what, error) from error
            except NegativeResponse as error:
                raise ProtocolViolation(f"{self._unit} refuses to report {what}: {error}") from error
        raise AssertionError("unreachable")

    async def _nothing(self, what: str, error: AdapterError) -> DeviceStalled:
        """The error for an answer that never came; it names the control units that answer instead."""
        text = f"{self._unit} does not report {what}: {error}"
        others = await self._others()
        if others:
            return DeviceStalled(
                f"{text}; answers come from {', '.join(others)}: set `answer_id` to one of them"
            )
        return DeviceStalled(f"{text}; is the ignition on?")

    async def _others(self) -> list[str]:
        """The ids of other control units that answer a request to all of them."""
        if self._bus is None:
            return []
        extended = self.options.extended
        listening = asyncio.create_task(self._bus.foreign(self.options.answer_s), name="obd-others")
        try:
            await asyncio.sleep(_UNFILTERED_S)
            everybody = IsoTp(
                self._bus,
                request_id=_ALL_29 if extended else 0x7DF,
                flow_id=_flow_id(self.options),
                answer_id=self.options.answer_id,
                extended=extended,
            )
            await everybody.send(bytes([_CURRENT, 0]))
            heard = await listening
        finally:
            await end([listening])
        return [one for one in heard if _is_answer(int(one, 16), extended=extended)]

    @property
    def _unit(self) -> str:
        return f"{self.options.where}: control unit 0x{self.options.answer_id:X}"

    def _note(self, name: str, why: str) -> None:
        self.not_read(f"{self._unit}: {name} {why}", name)

    def _log_once(self, name: str, why: str) -> None:
        self._note(name, why)
        if (name, why) not in self._logged and len(self._logged) < 100:
            self._logged.add((name, why))
            log.warning("%s: %s %s", self._unit, name, why)


def _is_answer(can_id: int, *, extended: bool) -> bool:
    """Whether ISO 15765-4 gives this id to the answers of a control unit."""
    return can_id >> 8 == 0x18DAF1 if extended else 0x7E8 <= can_id <= 0x7EF


def _hash(vin: str) -> str:
    return hashlib.sha256(vin.encode()).hexdigest()


def _flow_id(options: ObdOptions) -> int:
    """The id for flow control, which goes only to the control unit that answers."""
    if not options.extended:
        return options.answer_id - 8
    return _FIRST_29 & 0x1FFF00FF | (options.answer_id & 0xFF) << 8
