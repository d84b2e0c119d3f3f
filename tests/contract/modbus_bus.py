"""Modbus devices with habits: units on a pseudo terminal, on RTU over TCP, or behind a Modbus TCP gateway.

`Bus` hands each request to a coroutine, its habit, which gives the chunks of bytes to send, or None for
silence. `ok` answers; `units(1, 2)` answers for these units only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from simulators.devices.modbus.server import LineKind, crc
from simulators.devices.running import pseudo_terminal
from wire.task_cancellation import end

CLOSE = b""  # this chunk ends the connection
Habit = Callable[["Request"], Awaitable[Sequence[bytes] | None]]


class Request:
    """One request: its unit, PDU and frame, and the number of the connection that it came on."""

    def __init__(self, bus: Bus, frame: bytes, connection: int) -> None:
        self.frame, self.connection = frame, connection
        if bus.line == "tcp":
            self.transaction, _, _, self.unit = struct.unpack_from(">HHHB", frame)
            self.pdu = frame[7:]
        else:
            self.transaction, self.unit, self.pdu = 0, frame[0], frame[1:-2]
        self.line = bus.line
        self.number = len(bus.requests)

    def answer(
        self, pdu: bytes | None = None, *, unit: int | None = None, transaction: int | None = None
    ) -> bytes:
        """The frame of a PDU, by default of the registers `100 * unit + address`."""
        pdu = self.registers() if pdu is None else pdu
        unit = self.unit if unit is None else unit
        if self.line != "tcp":
            return bytes([unit]) + pdu + crc(bytes([unit]) + pdu)
        transaction = self.transaction if transaction is None else transaction
        return struct.pack(">HHHB", transaction & 0xFFFF, 0, len(pdu) + 1, unit) + pdu

    def registers(self) -> bytes:
        function, address, count = struct.unpack(">BHH", self.pdu)
        numbers = [100 * self.unit + address + at for at in range(count)]
        return bytes([function, 2 * count]) + struct.pack(f">{count}H", *numbers)

    def refusal(self, code: int) -> bytes:
        return bytes([self.pdu[0] | 0x80, code])


class Bus:
    """Use: `async with Bus("tcp", habit) as bus: bus.url`."""

    def __init__(
        self, line: LineKind, habit: Habit, *, one_connection: bool = False, idle_s: float | None = None
    ) -> None:
        self.line, self.habit, self.idle_s = line, habit, idle_s
        self.one_connection = one_connection
        self.requests: list[Request] = []
        self.connections = self.refused = self.live = 0
        self.url = ""
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._ends: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        if self.line == "rtu":
            near, far, path = pseudo_terminal()
            self._ends, self.url = (near, far), f"rtu://{path}"
            self._talks.add(asyncio.create_task(self._serve_terminal(near)))
        else:
            self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
            self.url = f"{self.line}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        await end(self._talks)
        for descriptor in self._ends or ():
            os.close(descriptor)

    def asked(self, unit: int) -> int:
        """The number of requests to a unit."""
        return sum(request.unit == unit for request in self.requests)

    async def _serve_terminal(self, near: int) -> None:
        loop, came, held = asyncio.get_running_loop(), asyncio.Event(), b""
        loop.add_reader(near, came.set)
        try:
            while True:
                await came.wait()
                came.clear()
                with contextlib.suppress(OSError):  # no client has the other end open
                    held += os.read(near, 256)
                while len(held) >= 8:
                    frame, held = held[:8], held[8:]
                    for chunk in await self._reply(frame, 1):
                        os.write(near, chunk)
        finally:
            loop.remove_reader(near)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        self.connections += 1
        self.live += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            await self._serve(reader, writer, self.connections)
        self.live -= 1
        self._talks.discard(task)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if self.one_connection and self.live > 1:
            self.refused += 1
            return
        while True:
            async with asyncio.timeout(self.idle_s if self.requests else None):
                frame = await reader.readexactly(8)
            if self.line == "tcp":
                frame += await reader.readexactly(struct.unpack(">H", frame[4:6])[0] - 2)
            for chunk in await self._reply(frame, number):
                if chunk == CLOSE:
                    return
                writer.write(chunk)
                await writer.drain()

    async def _reply(self, frame: bytes, connection: int) -> Sequence[bytes]:
        request = Request(self, frame, connection)
        self.requests.append(request)
        return await self.habit(request) or ()


async def ok(request: Request) -> Sequence[bytes]:
    """A device that answers."""
    return [request.answer()]


def units(*present: int) -> Habit:
    """Only these units answer."""

    async def habit(request: Request) -> Sequence[bytes] | None:
        return [request.answer()] if request.unit in present else None

    return habit
