"""A serial port or TCP connection with all units on it: one request at a time, in the order of asking.

The devices of one agent that name the same port or the same host and port share one line. A unit waits for
the line again before each of its tries, so that a unit that does not answer costs the others one timeout at a
time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import termios
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.client.base import ModbusBaseClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.framer import FramerType
from pymodbus.pdu import ModbusPDU

from adapters.base import AdapterError, DeviceUnreachable, ProtocolViolation, why_no_connection
from adapters.modbus.framing import AnswerFramer, RtuFramer, TcpFramer
from adapters.modbus.url import ModbusUrl

Ask = Callable[[ModbusBaseClient], Awaitable[ModbusPDU]]

_BUFFER = 2**20  # bytes that pymodbus hands to the framer at once, which bounds them itself
_FOREVER = 2**31  # unanswered requests until pymodbus ends a connection: the unit may be dead, not the line
_SILENT_BITS = 3.5 * 11  # between two frames; MODBUS over Serial Line V1.02, 2.5.1.1
_LEAST_SILENCE_S = 0.00175

_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, ModbusLine]] = WeakKeyDictionary()


class NoAnswer(Exception):
    """A request had no answer in its time; `what` names what arrived instead."""

    def __init__(self, what: str, units: set[int]) -> None:
        super().__init__(what)
        self.what, self.units = what, units


class ModbusLine:
    """One line; `join` it, and `leave` it once. Nothing is connected before the first request."""

    def __init__(self, url: ModbusUrl) -> None:
        self.url = url
        self.units: Counter[int] = Counter()  # the units of all that have joined
        self.silent: set[int] = set()  # units that did not answer when they were last asked
        self.opened = 0  # connections so far
        self.framer: AnswerFramer = (TcpFramer if url.kind == "tcp" else RtuFramer)(self._garbage)
        self._turn = asyncio.Lock()
        self._unit_turns: dict[int, asyncio.Lock] = {}
        self._client: ModbusBaseClient | None = None
        self._asking = self._answered = False  # a request is open; this connection gave an answer
        self._why: AdapterError | None = None  # the connection ended during a request
        self._over: AdapterError | None = None  # the serial port is gone

    @classmethod
    def join(cls, url: ModbusUrl, unit: int) -> ModbusLine:
        """The line of a url; made for the first unit on it.

        Raises:
            DeviceUnreachable: another device uses it with other settings.
        """
        shared = url.shared
        lines = _lines.setdefault(asyncio.get_running_loop(), {})
        line = lines.get(shared.name)
        if line is None:
            line = lines[shared.name] = cls(url)
        elif line.url.shared != shared:
            used = line.url.shared.settings
            raise DeviceUnreachable(f"{url.url} is in use with {used}; this device needs {shared.settings}")
        line.units[unit] += 1
        return line

    async def leave(self, unit: int) -> None:
        """End the use of a line; the last one closes it. Never raises."""
        self.units -= Counter([unit])
        if not self.units:
            self._forget()
            await self._close()

    def turn_of(self, unit: int) -> asyncio.Lock:
        """The lock of a unit: devices that read the same unit must not take each other's late answers."""
        return self._unit_turns.setdefault(unit, asyncio.Lock())

    async def request(self, ask: Ask, timeout_s: float) -> ModbusPDU:
        """The answer to one try of a request; a late answer to an earlier try of the same `ask` counts.

        Raises:
            NoAnswer: none came within `timeout_s`.
            AdapterError: the line cannot be opened, or the connection ended.
        """
        async with self._turn:
            client = await self._connected(timeout_s)
            idle = self._answered  # the device may have closed a connection that was quiet for long
            try:
                return await self._exchange(client, ask, timeout_s)
            except AdapterError:
                if not idle or self.framer.partly or self.url.kind == "rtu":
                    raise
            return await self._exchange(await self._connected(timeout_s), ask, timeout_s)

    async def connect(self, timeout_s: float) -> None:
        """Open the line where it is not open.

        Raises:
            AdapterError: it cannot be opened.
        """
        async with self._turn:
            await self._connected(timeout_s)

    async def reset(self) -> None:
        """Close a TCP connection on which nothing answers, so that the next request opens a new one."""
        if self.url.kind != "rtu":
            async with self._turn:
                await self._close()

    async def settle(self, unit: int, late: int, quiet_s: float) -> None:
        """Wait for up to `late` outstanding answers of a unit, until none came for `quiet_s`."""
        framer = self.framer
        for _ in range(late):
            seen = framer.frames[unit]
            try:
                async with asyncio.timeout(quiet_s):
                    while framer.frames[unit] == seen:
                        framer.came.clear()
                        await framer.came.wait()
            except TimeoutError:
                return

    # --- one try

    async def _exchange(self, client: ModbusBaseClient, ask: Ask, timeout_s: float) -> ModbusPDU:
        client.ctx.comm_params.timeout_connect = timeout_s
        self.framer.request = ask
        if self.url.kind == "rtu":
            await self._between_frames()
        self._asking, self._why = True, None
        try:
            answer = await ask(client)
        except ModbusException as error:
            if self._why is not None:
                raise self._why from error
            if client is not self._client:
                raise self._ended() from error
            raise NoAnswer(self.framer.mismatch(), set(self.framer.units)) from error
        finally:
            self._asking = False
        self._answered = True
        return answer

    async def _between_frames(self) -> None:
        """Keep the line silent for as long as separates two frames."""
        silence_s = max(_LEAST_SILENCE_S, _SILENT_BITS / self.url.baud)
        left_s = self.framer.heard_s + silence_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.sleep(left_s)

    def _ended(self) -> AdapterError:
        if self.framer.partly:
            return DeviceUnreachable(
                f"{self.url.url} ended the connection during an answer: {self.framer.mismatch()}"
            )
        return DeviceUnreachable(f"{self.url.url} ended the connection")

    def _lost(self, client: ModbusBaseClient) -> None:
        """Handle the end of a connection: between two requests it is not a failure of a TCP device."""
        if client is not self._client:
            return
        self._client = None
        if self.url.kind == "rtu":
            self._over = self._ended()
            self._forget()
        self._fail(self._ended(), client)

    def _garbage(self) -> None:
        """Handle bytes that are not Modbus TCP: nothing behind them can be read."""
        client, self._client = self._client, None
        if client is not None:
            text = f"{self.url.url} answers with bytes that are not Modbus TCP: {self.framer.mismatch()}"
            self._fail(ProtocolViolation(text), client)
            client.close()

    def _fail(self, error: AdapterError, client: ModbusBaseClient) -> None:
        waiting = client.ctx.response_future
        if self._asking and not waiting.done():
            self._why = error
            waiting.set_exception(ConnectionException(str(error)))

    # --- connecting

    async def _connected(self, timeout_s: float) -> ModbusBaseClient:
        if self._over is not None:
            raise self._over
        if self._client is None:
            self._client = await self._connect(timeout_s)
            self._answered = False
            self.opened += 1
        return self._client

    async def _connect(self, timeout_s: float) -> ModbusBaseClient:
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # its log repeats what our errors say
        client = self._new_client(timeout_s)
        client.ctx.framer = self.framer
        create, failures = client.ctx.call_create, list[OSError]()

        async def keeping_the_reason() -> Any:  # pymodbus only logs it
            try:
                return await create()
            except OSError as error:
                failures.append(error)
                raise

        client.ctx.call_create = keeping_the_reason
        client.ctx.max_buffer_size = _BUFFER
        client.ctx.max_until_disconnect = client.ctx.count_until_disconnect = _FOREVER
        try:
            connected = await client.connect()
        except (OSError, ValueError, termios.error) as error:  # the path is not a serial device
            raise DeviceUnreachable(f"{self.url.url} cannot be opened: {error}").at(
                self.url.url, error
            ) from error
        except BaseException:
            await _closed(client)
            raise
        if not connected:
            raise self._unreachable(timeout_s, failures[-1] if failures else None)
        return client

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _closed(client)

    def _forget(self) -> None:
        """Let the next `join` make a new line."""
        lines = _lines.get(asyncio.get_running_loop(), {})
        if lines.get(self.url.shared.name) is self:
            del lines[self.url.shared.name]

    def _new_client(self, timeout_s: float) -> ModbusBaseClient:
        line = self.url

        def changed(connected: bool) -> None:
            if not connected:
                self._lost(client)

        client: ModbusBaseClient
        if line.kind == "rtu":
            client = AsyncModbusSerialClient(
                line.host,
                baudrate=line.baud,
                parity=line.parity,
                stopbits=line.stop,
                timeout=timeout_s,
                retries=0,  # each try waits for its turn
                reconnect_delay=0,
                trace_connect=changed,
            )
        else:
            client = AsyncModbusTcpClient(
                line.host,
                port=line.port,
                framer=FramerType.SOCKET if line.kind == "tcp" else FramerType.RTU,
                timeout=timeout_s,
                retries=0,
                reconnect_delay=0,
                trace_connect=changed,
            )
        return client

    def _unreachable(self, timeout_s: float, error: OSError | None) -> DeviceUnreachable:
        line = self.url
        if line.kind != "rtu" and error is not None:
            return DeviceUnreachable(f"{line.url}: {why_no_connection(error)}").at(line.url, error)
        if line.kind != "rtu":
            text = f"{line.url} accepts no connection within {timeout_s:g} s: is it on, is the port right?"
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


async def _closed(client: ModbusBaseClient) -> None:
    await asyncio.sleep(0)  # pymodbus registers a serial port with the loop one turn after it opened the port
    client.close()
