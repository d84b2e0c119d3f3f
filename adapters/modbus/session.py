"""One Modbus connection: the only file that knows pymodbus, whose API moves in minor versions.

A request runs through all its tries (`timeout_s` each, `retries` repetitions) and is never ended early: a
late answer would be taken for the answer to the next request, because RTU has no transaction id. So after a
repeated request nothing is sent until the outstanding answers have come, or the line was quiet for as long as
they could take. The same follows an answer that does not match its request; that answer is discarded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import termios
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerBase, FramerRTU, FramerSocket, FramerType
from pymodbus.pdu import DecodePDU, ModbusPDU

from adapters.base import (
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    SharedLine,
)
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
_PARITIES = ("N", "E", "O")
_FUNCTIONS = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


class ExceptionResponse(Exception):
    """The device answered a request with an exception code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}, {EXCEPTIONS.get(code, 'not a code of Modbus')}")
        self.code = code


@dataclass(frozen=True, slots=True)
class ModbusUrl:
    """The parts of a `url`: where a device is."""

    url: str
    kind: Literal["tcp", "rtu", "rtu+tcp"]
    host: str  # or the serial device's path
    port: int = 0
    baud: int = 9_600
    parity: str = "N"
    stop: int = 1

    @property
    def shared(self) -> SharedLine:
        """The line, and the settings that all devices on it need."""
        if self.kind == "rtu":
            port = os.path.realpath(self.host)  # /dev/serial/by-id/... and /dev/ttyUSB0 are one port
            return SharedLine(port, f"{self.baud} baud, parity {self.parity}, stop {self.stop}")
        frames = "Modbus TCP (tcp://)" if self.kind == "tcp" else "RTU over TCP (rtu+tcp://)"
        return SharedLine(f"{self.host}:{self.port}", frames)

    @classmethod
    def parse(cls, url: str) -> ModbusUrl:
        """Read `tcp://host:port`, `rtu+tcp://host:port` or `rtu:///dev/ttyUSB0?baud=9600&parity=N&stop=1`.

        Raises:
            OptionsError: it has another form.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise OptionsError(f"url {url!r} has no usable host or port: {error}") from error
        if parts.username is not None or parts.password is not None:
            raise OptionsError("url contains a user or password; Modbus has neither")
        if parts.scheme == "rtu":
            return _serial(url)
        if parts.scheme not in ("tcp", "rtu+tcp") or not parts.hostname:
            raise OptionsError(
                f"url {url!r} is not tcp://host:502, rtu+tcp://host:port or rtu:///dev/ttyUSB0?baud=9600"
            )
        if parts.path.strip("/") or parts.query:
            raise OptionsError(f"url {url!r} has a path or query after its port: remove it")
        if port == 0 or (port is None and parts.scheme == "rtu+tcp"):
            raise OptionsError(f"url {url!r} needs a port")
        kind: Literal["tcp", "rtu+tcp"] = "tcp" if parts.scheme == "tcp" else "rtu+tcp"
        return cls(url, kind, parts.hostname, port or 502)


class ModbusConnection:
    """One connection to one unit, one request at a time; requests run inside `await session.alone(...)`."""

    def __init__(
        self, line: ModbusUrl, unit_id: int, *, timeout_s: float, retries: int, counters: Counter[str]
    ) -> None:
        self._line = line
        self._unit = unit_id
        self._timeout_s = timeout_s
        self._retries = retries
        self._counters = counters
        self._client: ModbusBaseClient | None = None
        self._framer: _CarefulFramer = (_TcpFramer if line.kind == "tcp" else _RtuFramer)(self._garbage)
        self._ended: asyncio.Future[AdapterError] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect; a serial line then stays quiet for `timeout_s`, so that old answers reach no request.

        Raises:
            AdapterError: the device cannot be reached.
        """
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # its log repeats what our errors say
        client = self._client = self._new_client()
        client.ctx.framer = self._framer
        try:
            if not await self.alone(client.connect()):
                raise self._unreachable()
        except (OSError, ValueError, termios.error) as error:  # the path is not a serial device
            raise DeviceUnreachable(f"{self._line.url} cannot be opened: {error}").at(
                self._line.url, error
            ) from error
        if self._line.kind != "tcp":
            await self._settle(_ANY, self._timeout_s)

    async def close(self) -> None:
        """Close the connection; never raises."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.sleep(
                0
            )  # pymodbus registers a serial port with the loop one turn after it opened the port
            client.close()

    async def alone(self, requests: Coroutine[Any, Any, T]) -> T:
        """The result of `requests`, which run in a task that only the end of the connection ends early.

        pymodbus continues to wait for answers when a connection is lost, and its `wait_for` may swallow a
        cancellation. A task a request costs as much as the request, so one task holds all requests of a poll.

        Raises:
            AdapterError: the connection ended; and whatever `requests` raises.
        """
        ended = self._ended
        task = asyncio.create_task(requests, name="modbus-requests")
        try:
            both: set[asyncio.Future[Any]] = {task, ended}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not (task.done() and task.exception() is None):
                raise ended.result()
            return task.result()
        finally:
            if not task.done():
                await end([task], again_s=0.05)

    async def read(self, kind: str, address: int, count: int) -> Sequence[int]:
        """`count` registers or bits from `address`, which counts from 0.

        Raises:
            ExceptionResponse: the device answered with an exception code.
            AdapterError: no answer, or an answer that does not match the request.
        """
        client = self._connected()
        ask = {
            "holding": client.read_holding_registers,
            "input": client.read_input_registers,
            "coil": client.read_coils,
            "discrete": client.read_discrete_inputs,
        }[kind]
        for _ in range(self._retries + 1):
            answer = await self._ask(partial(ask, address, count=count, device_id=self._unit))
            numbers: Sequence[Any] = answer.registers if kind in ("holding", "input") else answer.bits
            wanted = count if kind in ("holding", "input") else -(-count // 8) * 8
            if answer.function_code == _FUNCTIONS[kind] and len(numbers) == wanted:
                return numbers[:count]
            await self._mismatched()
        raise self._mismatch_error()

    async def identify(self) -> dict[int, str]:
        """VendorName, ProductCode and MajorMinorRevision by object id 0, 1, 2 (function 43/14).

        Raises:
            ExceptionResponse: the device does not know the function.
            AdapterError: no answer, or an answer that does not match the request.
        """
        client = self._connected()
        found: dict[int, str] = {}
        following = 0
        for _ in range(4):
            ask = partial(client.read_device_information, read_code=1, device_id=self._unit)
            answer: Any = await self._ask(partial(ask, object_id=following))
            if answer.function_code != 0x2B or not hasattr(answer, "information"):
                raise ProtocolViolation(
                    f"{self._line.url} answers Read Device Identification with another function"
                )
            for at, text in answer.information.items():
                if isinstance(text, bytes):
                    found[at] = text.decode("utf-8", "replace")
            following = answer.next_object_id
            if answer.more_follows != 0xFF:
                break
        return found

    # --- one request

    async def _ask(self, request: Callable[[], Awaitable[ModbusPDU]]) -> ModbusPDU:
        try:
            answer = await request()
        except ModbusException as error:
            raise self._silent() from error
        if answer.retries:
            self._counters["retries"] += answer.retries
            await self._settle(answer.retries, self._timeout_s * (answer.retries + 1))
        if answer.isError():
            raise ExceptionResponse(answer.exception_code)
        return answer

    async def _mismatched(self) -> None:
        self._counters["misfit_answers"] += 1
        if self._line.kind == "tcp":
            raise self._mismatch_error()
        await self._settle(_ANY, self._timeout_s)

    def _mismatch_error(self) -> ProtocolViolation:
        return ProtocolViolation(
            f"{self._line.url} answers with another function or number of values than requested"
        )

    async def _settle(self, late: int, quiet_s: float) -> None:
        """Wait for up to `late` outstanding answers, until nothing came for `quiet_s`.

        pymodbus discards what comes while no request is open.
        """
        came = self._framer.came
        for _ in range(late):
            came.clear()
            try:
                async with asyncio.timeout(quiet_s):
                    await came.wait()
            except TimeoutError:
                return

    def _silent(self) -> AdapterError:
        tries = f"{self._retries + 1} tries of {self._timeout_s:g} s"
        heard = self._framer.heard
        if heard is not None and heard != self._unit:
            return ProtocolViolation(
                f"{self._line.url} was asked for unit {self._unit} and answers as unit {heard}"
            )
        return DeviceStalled(f"{self._line.url} gives no answer as unit {self._unit} in {tries}")

    def _garbage(self) -> None:
        """Handle bytes that are not a frame: they end a TCP connection; on a serial line they are noise."""
        self._counters["garbage"] += 1
        if self._line.kind == "tcp":
            self._end(ProtocolViolation(f"{self._line.url} answers with bytes that are not Modbus TCP"))

    def _end(self, error: AdapterError) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    def _connected(self) -> ModbusBaseClient:
        if self._client is None:
            raise DeviceUnreachable(f"{self._line.url} is not open")
        return self._client

    # --- connecting

    def _new_client(self) -> ModbusBaseClient:
        line = self._line

        def connection_changed(connected: bool) -> None:
            if not connected:
                self._end(DeviceUnreachable(f"{line.url} ended the connection"))

        if line.kind == "rtu":
            return AsyncModbusSerialClient(
                line.host,
                baudrate=line.baud,
                parity=line.parity,
                stopbits=line.stop,
                timeout=self._timeout_s,
                retries=self._retries,
                reconnect_delay=0,  # the agent reconnects
                trace_connect=connection_changed,
            )
        return AsyncModbusTcpClient(
            line.host,
            port=line.port,
            framer=FramerType.SOCKET if line.kind == "tcp" else FramerType.RTU,
            timeout=self._timeout_s,
            retries=self._retries,
            reconnect_delay=0,
            trace_connect=connection_changed,
        )

    def _unreachable(self) -> DeviceUnreachable:
        line = self._line
        if line.kind != "rtu":
            text = (
                f"{line.url} accepts no connection within {self._timeout_s:g} s: is it on, is the port right?"
            )
            return DeviceUnreachable(text).coded("no-answer", where=line.url)
        if not Path(line.host).exists():
            text = f"{line.url}: {line.host} does not exist: is it plugged in?"
            return DeviceUnreachable(text).coded("device-missing", where=line.host)
        if not os.access(line.host, os.R_OK | os.W_OK):
            text = f"{line.url}: permission denied for {line.host}: add this user to its group (dialout)"
            return DeviceUnreachable(text).coded("permission-denied", where=line.host)
        return DeviceUnreachable(
            f"{line.url} cannot be opened: it is not a serial port, or another program uses it"
        )


class _CarefulFramer(FramerBase):
    """A framer that never raises into the event loop, and records what pymodbus does not report."""

    protocol_id = slice(0)  # position of the protocol identifier, which must be 0

    def __init__(self, garbage: Callable[[], None]) -> None:
        super().__init__(DecodePDU(False))
        self.heard: int | None = None  # the unit that answered last
        self.came = asyncio.Event()  # set with each frame
        self._garbage = garbage

    def decode(self, data: bytes) -> tuple[int, int, int, bytes]:
        used, unit, transaction, body = super().decode(data)
        if body:
            self.heard = unit
            self.came.set()
        return used, unit, transaction, body

    def handleFrame(self, data: bytes, exp_devid: int, exp_tid: int) -> tuple[int, ModbusPDU | None]:  # noqa: N802 - pymodbus' name
        try:
            if data[self.protocol_id].strip(b"\0"):
                raise ModbusException("not Modbus")
            return super().handleFrame(data, exp_devid, exp_tid)
        except (ModbusException, struct.error, IndexError):
            self._garbage()
            return len(data), None


class _TcpFramer(_CarefulFramer, FramerSocket):
    protocol_id = slice(2, 4)  # always 0; MODBUS Messaging on TCP/IP V1.0b, 3.1.3


class _RtuFramer(_CarefulFramer, FramerRTU):
    pass


def _serial(url: str) -> ModbusUrl:
    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/") or parts.path == "/":
        raise OptionsError(f"url {url!r} is not rtu:///dev/ttyUSB0?baud=9600: three slashes, then the path")
    given = parse_qs(parts.query, keep_blank_values=True)
    settings = {name: values[-1] for name, values in given.items()}
    for name in settings:
        if name not in ("baud", "parity", "stop"):
            raise OptionsError(f"url {url!r} sets {name!r}; there are baud, parity, stop")
    baud, parity, stop = (
        settings.get("baud", "9600"),
        settings.get("parity", "N").upper(),
        settings.get("stop", "1"),
    )
    if not (baud.isascii() and baud.isdigit() and 50 <= int(baud[:9]) <= 4_000_000):
        raise OptionsError(f"url {url!r}: baud {baud!r} is not 50 to 4000000")
    if parity not in _PARITIES or stop not in ("1", "2"):
        raise OptionsError(f"url {url!r}: parity is N, E or O and stop 1 or 2")
    return ModbusUrl(url, "rtu", parts.path, 0, int(baud), parity, int(stop))
