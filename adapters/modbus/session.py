"""The connection of one unit: its requests, each with its tries, on a line that it may share with others.

A request runs through all its tries (`timeout_s` each, `retries` repetitions) and is never ended early: a
late answer would be taken for the answer to the next request, because RTU has no transaction id. So after a
repeated request this unit asks nothing until the outstanding answers have come, or none came for as long as
they could take. The same follows an answer that does not match its request; that answer is discarded.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from pymodbus.client.base import ModbusBaseClient
from pymodbus.pdu import ModbusPDU

from adapters.base import AdapterError, DeviceStalled, DeviceUnreachable, ProtocolViolation
from adapters.modbus.line import ModbusLine, NoAnswer
from adapters.modbus.url import ModbusUrl
from wire.clock import Clock
from wire.task_cancellation import end

# MODBUS Application Protocol V1.1b3, 7
EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge: it needs more time",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway: the device behind it does not answer",
}
T = TypeVar("T")

_ANY = 10  # answers that may still come where their number is unknown
_BUSY = (5, 6)  # it will answer soon: the request is repeated
_NO_ANSWER = 11  # the gateway heard nothing from the unit: repeated as often as a request without an answer
_BUSY_S = (0.05, 1.0)  # the first and the longest pause before a repetition, at most a tenth of the period
_WRITTEN = {"coil": 15, "holding": 16}
_ILLEGAL_FUNCTION = 1
_FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_BITS = ("coil", "discrete")


class ExceptionResponse(Exception):
    """The device answered a request with an exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}, {EXCEPTIONS.get(code, 'not a code of Modbus')}")
        self.code = code


class ModbusConnection:
    """One unit on a line; its requests run inside `await session.alone(...)`."""

    def __init__(
        self,
        url: ModbusUrl,
        unit_id: int,
        *,
        clock: Clock,
        timeout_s: float,
        retries: int,
        counters: Counter[str],
    ) -> None:
        self._url = url
        self._unit = unit_id
        self._clock = clock
        self._timeout_s = timeout_s
        self._retries = retries
        self._counters = counters
        self._joined: ModbusLine | None = None
        self._opened = 0  # the connection of the line that this unit knows
        self._busy_until_s, self._busy_pause_s = 0.0, _BUSY_S[1]

    async def open(self) -> None:
        """Connect; a unit without transactions then asks nothing for `timeout_s`: old answers may come.

        Raises:
            AdapterError: the device cannot be reached.
        """
        line = self._joined = ModbusLine.join(self._url, self._unit)
        await self.alone(line.connect(self._timeout_s))
        self._opened = line.opened
        if self._url.kind != "tcp":
            await line.settle(self._unit, _ANY, self._timeout_s)

    async def close(self) -> None:
        """Leave the line; never raises."""
        line, self._joined = self._joined, None
        if line is not None:
            await line.leave(self._unit)

    async def alone(self, requests: Coroutine[Any, Any, T]) -> T:
        """The result of `requests`, which run in a task of their own.

        The `wait_for` of pymodbus may swallow a cancellation. A task a request costs as much as the request,
        so one task holds all requests of a poll.

        Raises:
            AdapterError: whatever `requests` raises.
        """
        task = asyncio.create_task(requests, name="modbus-requests")
        try:
            await asyncio.wait({task})
            return task.result()
        finally:
            if not task.done():
                await end([task], again_s=0.05)

    def reconnected(self) -> bool:
        """Whether the line was opened again since the last call: another device may be there now."""
        before, self._opened = self._opened, self._line.opened
        if before != self._opened:
            self._counters["reconnects"] += self._opened - before
        return before != self._opened

    def patient(self, seconds: float) -> None:
        """Ask a busy device again and again for so long from now on, by the clock."""
        self._busy_until_s = self._clock.monotonic() + seconds
        self._busy_pause_s = min(_BUSY_S[1], seconds / 10)

    async def read(self, kind: str, address: int, count: int) -> Sequence[int]:
        """`count` registers or bits from `address`, which counts from 0.

        Raises:
            ExceptionResponse: the device answered with an exception code.
            AdapterError: no answer, or an answer that does not match the request.
        """

        def ask(client: ModbusBaseClient) -> Awaitable[ModbusPDU]:
            call = {
                "holding": client.read_holding_registers,
                "input": client.read_input_registers,
                "coil": client.read_coils,
                "discrete": client.read_discrete_inputs,
            }[kind]
            return call(address, count=count, device_id=self._unit)

        wanted = -(-count // 8) * 8 if kind in _BITS else count
        why = ""
        for _ in range(self._retries + 1):
            answer = await self._ask(ask)
            numbers: Sequence[Any] = answer.bits if kind in _BITS else answer.registers
            if answer.function_code == _FUNCTIONS[kind] and len(numbers) == wanted:
                return numbers[:count]
            what = "bits" if kind in _BITS else "registers"
            why = (
                f"function {answer.function_code} with {len(numbers)} {what}, asked was function"
                f" {_FUNCTIONS[kind]} with {wanted}"
            )
            await self._mismatched(why)
        raise self._mismatch_error(why)

    async def write(self, kind: str, address: int, words: Sequence[int]) -> None:
        """Write registers or coils from `address`, which counts from 0, in one request.

        A device that writes single ones only (functions 5 and 6) gets that, if it is one.

        Raises:
            ExceptionResponse: the device answered with an exception code.
            AdapterError: no answer, or an answer that does not match the request.
        """
        words = list(words)

        def ask(client: ModbusBaseClient) -> Awaitable[ModbusPDU]:
            if kind == "coil":
                return client.write_coils(address, [bool(bit) for bit in words], device_id=self._unit)
            return client.write_registers(address, words, device_id=self._unit)

        def ask_one(client: ModbusBaseClient) -> Awaitable[ModbusPDU]:
            if kind == "coil":
                return client.write_coil(address, bool(words[0]), device_id=self._unit)
            return client.write_register(address, words[0], device_id=self._unit)

        function = _WRITTEN[kind]
        try:
            answer = await self._ask(ask)
        except ExceptionResponse as error:
            if error.code != _ILLEGAL_FUNCTION or len(words) > 1:
                raise
            function -= 10
            answer = await self._ask(ask_one)
        if answer.function_code != function:
            await self._mismatched(f"function {answer.function_code}, asked was function {function}")
            raise self._mismatch_error(f"function {answer.function_code} instead of {function}")

    async def identify(self) -> dict[int, str]:
        """VendorName, ProductCode and MajorMinorRevision by object id 0, 1, 2 (function 43/14).

        Raises:
            ExceptionResponse: the device does not know the function.
            AdapterError: no answer, or an answer that does not match the request.
        """
        found: dict[int, str] = {}
        following = 0
        for _ in range(4):
            answer: Any = await self._ask(partial(self._read_identification, following))
            if answer.function_code != 0x2B or not hasattr(answer, "information"):
                raise ProtocolViolation(
                    f"{self._url.url} answers Read Device Identification with another function"
                )
            for at, text in answer.information.items():
                if isinstance(text, bytes):
                    found[at] = text.decode("utf-8", "replace")
            following = answer.next_object_id
            if answer.more_follows != 0xFF:
                break
        return found

    def _read_identification(self, first: int, client: ModbusBaseClient) -> Awaitable[ModbusPDU]:
        return client.read_device_information(read_code=1, object_id=first, device_id=self._unit)

    # --- one request

    async def _ask(self, request: Callable[[ModbusBaseClient], Awaitable[ModbusPDU]]) -> ModbusPDU:
        pause_s, tries = min(_BUSY_S[0], self._busy_pause_s), self._retries
        while True:
            async with self._line.turn_of(self._unit):
                answer = await self._answer(request)
            if not answer.isError():
                return answer
            if answer.exception_code == _NO_ANSWER and tries > 0:
                tries -= 1
                self._counters["retries"] += 1
                continue
            late = self._clock.monotonic() + pause_s >= self._busy_until_s
            if answer.exception_code not in _BUSY or late:
                raise ExceptionResponse(answer.exception_code)
            self._counters["retries"] += 1
            await self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, self._busy_pause_s)

    async def _answer(self, request: Callable[[ModbusBaseClient], Awaitable[ModbusPDU]]) -> ModbusPDU:
        line = self._line
        # a unit that does not answer takes the line from the others: ask it once until it is back
        tries = 1 if self._unit in line.silent and len(line.units) > 1 else self._retries + 1
        began_s, failed = asyncio.get_running_loop().time(), None
        for retry in range(tries):
            try:
                answer = await line.request(request, self._timeout_s)
            except NoAnswer as nothing:
                failed = nothing if nothing.what or failed is None else failed
                continue
            except ProtocolViolation:
                self._counters["garbage"] += 1
                raise
            line.silent.discard(self._unit)
            if retry:
                self._counters["retries"] += retry
                if line.framer.without_transaction:
                    await line.settle(self._unit, retry, self._timeout_s * (retry + 1))
            return answer
        line.silent.add(self._unit)
        if line.framer.without_transaction and line.units[self._unit] > 1:
            await line.settle(self._unit, tries, self._timeout_s)
        if line.framer.heard_s < began_s:
            await line.reset()
        raise self._silent(failed, tries)

    async def _mismatched(self, why: str) -> None:
        self._counters["misfit_answers"] += 1
        if self._url.kind == "tcp":
            raise self._mismatch_error(why)
        await self._line.settle(self._unit, _ANY, self._timeout_s)

    def _mismatch_error(self, why: str) -> ProtocolViolation:
        return ProtocolViolation(
            f"{self._url.url} answers with another function or number of values than requested: {why}"
        )

    def _silent(self, failed: NoAnswer | None, tries: int) -> AdapterError:
        others = set() if failed is None else failed.units - {self._unit} - self._line.units.keys()
        if others:
            return ProtocolViolation(
                f"{self._url.url} was asked for unit {self._unit} and answers as unit {min(others)}"
            )
        text = (
            f"{self._url.url} gives no answer as unit {self._unit} in {tries} tries of {self._timeout_s:g} s"
        )
        if failed is None or not failed.what:
            return DeviceStalled(text)
        self._counters["misfit_answers" if failed.units else "garbage"] += 1
        return ProtocolViolation(f"{text}: {failed.what}")

    @property
    def _line(self) -> ModbusLine:
        if self._joined is None:
            raise DeviceUnreachable(f"{self._url.url} is not open")
        return self._joined
