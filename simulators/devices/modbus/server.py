"""The device side of Modbus, written from the specification: TCP, RTU on a pseudo terminal, RTU over TCP.

MODBUS Application Protocol V1.1b3 (functions 1 to 6, 15, 16 and 43/14), MODBUS Messaging on TCP/IP V1.0b,
MODBUS over Serial Line V1.02. It shares no code with the adapter's library, so a misreading cannot be on both
sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from simulators.devices.running import listening, pseudo_terminal, stopped
from wire.task_cancellation import end

LineKind = Literal["tcp", "rtu", "rtu+tcp"]

ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
NAMES = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
_WRITES = {5: "coil", 6: "holding", 15: "coil", 16: "holding"}
_MAX_CONNECTIONS = 64


class ModbusException(Exception):
    """An exception answer; section 7 of the application protocol."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exception {code}")
        self.code = code


@dataclass(slots=True)
class AnswerFaults:
    """The active faults of a device's answers."""

    answers_as: int = 0  # the unit id in its answers; 0 = its own
    late_s: float = 0.0
    silent: bool = False
    exception: int = 0  # every request is refused with this code; 0 = not
    short: int = 0  # number of registers that are missing from each answer
    garbage: bool = False


class RegisterBank(Protocol):
    """The registers and bits of a device."""

    unit_id: int  # it answers requests to this unit only

    def read(self, table: str, address: int, count: int) -> Sequence[int]:
        """Numbers 0 to 65535 (bits 0 or 1) of `coil`, `discrete`, `holding` or `input`.

        Raises:
            ModbusException: there is no such address.
        """

    def write(self, table: str, address: int, numbers: Sequence[int]) -> None:
        """Set registers of `holding`, or bits of `coil`.

        Raises:
            ModbusException: there is no such address that can be written.
        """

    def objects(self) -> Mapping[int, bytes]:
        """Its identification by object id; empty where it does not support function 43/14."""

    def answer_faults(self) -> AnswerFaults:
        """The active faults of its answers."""


def answer(bank: RegisterBank, request: bytes, how: AnswerFaults) -> bytes:
    """The answer to one request PDU (function and data, no address, no checksum)."""
    function = request[0] if request else 0
    try:
        if how.exception:
            raise ModbusException(how.exception)
        if function in NAMES:
            return _read(bank, request, how.short)
        if function in _WRITES:
            return _write(bank, request)
        if function == 0x2B:
            return _identify(bank, request)
        raise ModbusException(ILLEGAL_FUNCTION)
    except ModbusException as refusal:
        return bytes([function | 0x80, refusal.code])


def crc(frame: bytes) -> bytes:
    """The checksum of an RTU frame, low byte first; 6.2.2 of MODBUS over Serial Line."""
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


class TcpListener:
    """Serves a bank on a TCP port; with `rtu`, frames as on a serial line (a transparent gateway)."""

    def __init__(self, bank: RegisterBank, host: str, port: int, *, rtu: bool = False) -> None:
        self.port = port
        self._bank, self._host, self._rtu = bank, host, rtu
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen.

        Raises:
            TryAgain: the port is in use.
        """
        with listening("the Modbus server", self._host, self.port):
            self._server = await asyncio.start_server(self._talk, self._host, self.port, limit=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and end every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await end(self._talks)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._talks) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)
        try:
            await (self._serve_rtu if self._rtu else self._serve_tcp)(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client disconnected, or the server stops: start_server would log it
        finally:
            writer.transport.abort()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            header = await reader.readexactly(7)
            transaction, protocol, length, unit = struct.unpack(">HHHB", header)
            if protocol != 0 or not 2 <= length <= 254:
                return  # this is not Modbus: the connection cannot be used any more
            request = await reader.readexactly(length - 1)
            if unit != self._bank.unit_id:
                continue
            how = self._bank.answer_faults()
            reply = await _reply(self._bank, request, how)
            if reply is None:
                continue
            if not how.garbage:
                reply = struct.pack(">HHHB", transaction, 0, len(reply) + 1, how.answers_as or unit) + reply
            writer.write(reply)
            await writer.drain()

    async def _serve_rtu(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = RtuFrames()
        while chunk := await reader.read(256):
            for frame in frames.feed(chunk):
                reply = await rtu_answer(self._bank, frame)
                if reply is not None:
                    writer.write(reply)
                    await writer.drain()


class Terminal:
    """Serves a bank on a pseudo terminal, which a client opens as its serial port."""

    def __init__(self, bank: RegisterBank) -> None:
        self.path = ""
        self._bank = bank
        self._ends: tuple[int, int] | None = None
        self._frames = RtuFrames()
        self._asked: asyncio.Queue[bytes] = asyncio.Queue(16)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the terminal."""
        device_end, client_end, self.path = pseudo_terminal()
        self._ends = (device_end, client_end)
        asyncio.get_running_loop().add_reader(device_end, self._readable, device_end)
        self._task = asyncio.create_task(self._serve(device_end), name="modbus-terminal")

    async def close(self) -> None:
        """Remove the terminal, as a pulled USB plug does."""
        ends, self._ends = self._ends, None
        task, self._task = self._task, None
        if ends is not None:
            asyncio.get_running_loop().remove_reader(ends[0])
        try:
            await stopped(task)
        finally:
            for descriptor in ends or ():
                os.close(descriptor)

    def babble(self, noise: bytes) -> None:
        """Send bytes without a request."""
        if self._ends is not None:
            with contextlib.suppress(BlockingIOError):
                os.write(self._ends[0], noise)

    def _readable(self, device_end: int) -> None:
        try:
            chunk = os.read(device_end, 256)
        except OSError:
            return  # no client has the other end open
        for frame in self._frames.feed(chunk):
            with contextlib.suppress(asyncio.QueueFull):  # a serial device has no longer queue
                self._asked.put_nowait(frame)

    async def _serve(self, device_end: int) -> None:
        while True:
            reply = await rtu_answer(self._bank, await self._asked.get())
            if reply is not None:
                with contextlib.suppress(BlockingIOError):
                    os.write(device_end, reply)


@dataclass(slots=True)
class RtuFrames:
    """Finds requests in the bytes of a serial line; bytes without a right checksum are skipped one by one."""

    _held: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The whole frames so far: unit and PDU, without the checksum."""
        self._held += chunk
        found = []
        while len(self._held) >= _SHORTEST:
            size = 7 if self._held[1] == 0x2B else 8
            if self._held[1] in (15, 16):
                size = 9 + self._held[6]
            if len(self._held) < size:
                break
            frame, sent = bytes(self._held[: size - 2]), bytes(self._held[size - 2 : size])
            if crc(frame) == sent:
                found.append(frame)
                del self._held[:size]
            else:
                del self._held[0]
        return found


async def rtu_answer(bank: RegisterBank, frame: bytes) -> bytes | None:
    """The answer to one RTU request without its checksum; None where the unit does not answer."""
    if frame[0] != bank.unit_id:
        return None  # a request to another unit
    how = bank.answer_faults()
    reply = await _reply(bank, frame[1:], how)
    if reply is None or how.garbage:
        return reply
    reply = bytes([how.answers_as or frame[0]]) + reply
    return reply + crc(reply)


_SHORTEST = 7


async def _reply(bank: RegisterBank, request: bytes, how: AnswerFaults) -> bytes | None:
    """The answer, with the faults that every line has; None where the device is silent."""
    reply = answer(bank, request, how)
    if how.late_s:
        await asyncio.sleep(how.late_s)
    if how.garbage:
        return b"\xff" + bytes(byte ^ 0x5A for byte in reply) * 3
    return None if how.silent else reply


def _read(bank: RegisterBank, request: bytes, short: int) -> bytes:
    if len(request) != 5:
        raise ModbusException(ILLEGAL_VALUE)
    function, address, count = struct.unpack(">BHH", request)
    of_bits = function in (1, 2)
    if not 1 <= count <= (2_000 if of_bits else 125):
        raise ModbusException(ILLEGAL_VALUE)
    if address + count > 0x10000:
        raise ModbusException(ILLEGAL_ADDRESS)
    numbers = list(bank.read(NAMES[function], address, count))
    numbers = numbers[: max(1, count - short)] if short else numbers
    if of_bits:
        packed = sum(bit << at for at, bit in enumerate(numbers))
        body = packed.to_bytes(-(-len(numbers) // 8), "little")
    else:
        body = struct.pack(f">{len(numbers)}H", *numbers)
    return bytes([function, len(body)]) + body


def _write(bank: RegisterBank, request: bytes) -> bytes:
    """Functions 5 and 6, 15 and 16: 6.5, 6.6, 6.11 and 6.12."""
    function, address, number = struct.unpack_from(">BHH", request.ljust(5, b"\0"))
    data, table = request[6:], _WRITES[function]
    numbers: Sequence[int]
    if function in (5, 6):
        if len(request) != 5 or (function == 5 and number not in (0, 0xFF00)):
            raise ModbusException(ILLEGAL_VALUE)
        numbers = [int(number > 0)] if function == 5 else [number]
    else:
        size = -(-number // 8) if function == 15 else 2 * number
        if not 1 <= number <= (0x7B0 if function == 15 else 123) or [*request[5:6], len(data)] != [size] * 2:
            raise ModbusException(ILLEGAL_VALUE)
        if function == 15:
            numbers = [data[at // 8] >> at % 8 & 1 for at in range(number)]
        else:
            numbers = struct.unpack(f">{number}H", data)
    if address + len(numbers) > 0x10000:
        raise ModbusException(ILLEGAL_ADDRESS)
    bank.write(table, address, numbers)
    return request[:5]


def _identify(bank: RegisterBank, request: bytes) -> bytes:
    """Read Device Identification, 6.21: the basic category as a stream."""
    objects = {at: text for at, text in bank.objects().items() if at <= 2}
    if len(request) != 4 or request[1] != 0x0E or not objects:
        raise ModbusException(ILLEGAL_FUNCTION)
    code, first = request[2], request[3]
    if not 1 <= code <= 4:
        raise ModbusException(ILLEGAL_VALUE)
    if code == 4 and first not in objects:
        raise ModbusException(ILLEGAL_ADDRESS)
    chosen = {at: text for at, text in objects.items() if (at == first if code == 4 else at >= first)}
    listed = b"".join(bytes([at, len(text)]) + text for at, text in chosen.items())
    return bytes([0x2B, 0x0E, code, 0x81, 0, 0, len(chosen)]) + listed
