"""The adapter against bytes printed in the specifications, and against the server of pymodbus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from pymodbus.framer import FramerType
from pymodbus.pdu.device import ModbusDeviceIdentification
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from adapters.base import AdapterError, ProtocolViolation, Reading
from adapters.modbus.adapter import Modbus
from adapters.modbus.options import ModbusOptions
from wire.clock import Clock

# MODBUS Application Protocol V1.1b3: the examples of 6.1, 6.2, 6.3, 6.4 and 6.21, request and answer
EXAMPLES = {
    "0100130013": "0103CD6B05",
    "0200C40016": "0203ACDB35",
    "03006B0003": "0306022B00000064",
    "0400080001": "0402000A",
    "2B0E0100": "2B0E01010000030016" + b"Company identification".hex()
    + "010F" + b"Product code XX".hex() + "0205" + b"V2.11".hex(),
}  # fmt: skip
# the coils 20 to 38 and the discrete inputs 197 to 218 of these examples count from 1
COILS = "CD6B05"
INPUTS = "ACDB35"


@contextlib.asynccontextmanager
async def scripted(tcp: bool, answers: dict[str, str]) -> AsyncIterator[str]:
    """The URL of a device that answers only these requests."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            if tcp:
                header = await reader.readexactly(7)
                asked = (await reader.readexactly(int.from_bytes(header[4:6], "big") - 1)).hex().upper()
                body = bytes.fromhex(answers[asked])
                writer.write(header[:4] + (len(body) + 1).to_bytes(2, "big") + header[6:7] + body)
            else:
                asked = (await reader.readexactly(8)).hex().upper()
                writer.write(bytes.fromhex(answers[asked]))

    async with listening(talk) as port:
        yield f"{'tcp' if tcp else 'rtu+tcp'}://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """The port of a TCP server that leaves nothing behind."""
    talks: set[asyncio.Task[Any]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        with contextlib.suppress(KeyError, asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await talk(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


def options(url: str, **raw: Any) -> ModbusOptions:
    quick = {"url": url, "period_s": 0.01, "timeout_s": 1.0, "retries": 0, "data_age_s": 5}
    return msgspec.convert(quick | raw, ModbusOptions)


async def one(given: ModbusOptions) -> Reading:
    async with asyncio.timeout(60), Modbus(given, Clock()) as adapter:
        async for reading in adapter:
            return reading
    raise AssertionError("the device ended")


def bits(hexed: str, count: int) -> list[bool]:
    number = int.from_bytes(bytes.fromhex(hexed), "little")
    return [bool(number >> at & 1) for at in range(count)]


async def test_the_examples_of_the_application_protocol() -> None:
    registers: dict[str, Any] = {f"r{108 + at}": {"register": 108 + at} for at in range(3)}
    registers |= {"i9": {"register": 9, "kind": "input"}}
    registers |= {f"c{at}": {"register": at, "kind": "coil"} for at in range(20, 39)}
    registers |= {f"d{at}": {"register": at, "kind": "discrete"} for at in range(197, 219)}
    identity = {"vendor": "Company identification", "product": "Product code XX", "revision": "V2.11"}
    async with scripted(True, EXAMPLES) as url:
        row = await one(options(url, base=1, registers=registers, identity=identity))
        assert [row.values[f"r{at}"] for at in (108, 109, 110)] == [555, 0, 100]
        assert row.values["i9"] == 10
        assert [row.values[f"c{at}"] for at in range(20, 39)] == bits(COILS, 19)
        assert [row.values[f"d{at}"] for at in range(197, 219)] == bits(INPUTS, 22)
        with pytest.raises(ProtocolViolation, match=r"revision 'V2\.11'"):
            await one(options(url, registers={"a": {"register": 8}}, identity={"revision": "V2.12"}))


async def test_a_serial_frame_with_its_checksum() -> None:
    """Bytes of a serial line as simplymodbus.ca prints them: unit 17, registers 40108 to 40110."""
    async with scripted(False, {"1103006B00037687": "110306AE415652434049AD"}) as url:
        registers = {f"r{at}": {"register": at} for at in (107, 108, 109)}
        row = await one(options(url, unit_id=17, registers=registers, timeout_s=0.2))
    assert row.values == {"r107": 0xAE41, "r108": 0x5652, "r109": 0x4340}


async def test_a_wrong_checksum_is_not_an_answer() -> None:
    async with scripted(False, {"1103006B00037687": "110306AE415652434149AD"}) as url:
        registers = {f"r{at}": {"register": at} for at in (107, 108, 109)}
        with pytest.raises(AdapterError, match="no answer as unit 17"):
            await one(options(url, unit_id=17, registers=registers, timeout_s=0.1))


@pytest.mark.parametrize(
    "said",
    [
        "0306022B0000",  # half a message
        "0305022B000000",  # half a register
        "0308022B000000640000",  # one register too many
        "0406022B00000064",  # another function
        "03",
        "83",
        "8302FFFF",
        "2B0E010100",
        "2B0D01010000030016",
        "FF",
        "03FF" + "00" * 255,
    ],
)
async def test_a_wrong_answer_is_one_error(said: str) -> None:
    async with scripted(True, {"03006B0003": said}) as url:
        registers = {f"r{at}": {"register": at} for at in (107, 108, 109)}
        with pytest.raises(AdapterError):
            await one(options(url, registers=registers, timeout_s=0.2))


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50, bytes(range(256)) * 40, b""])
async def test_any_other_server_is_one_error(noise: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(noise)
        await writer.drain()

    async with listening(talk) as port:
        for scheme in ("tcp", "rtu+tcp"):
            url = f"{scheme}://127.0.0.1:{port}"
            with pytest.raises(AdapterError):
                await one(options(url, registers={"a": {"register": 0}}, timeout_s=0.1))


@pytest.mark.parametrize("framer", [FramerType.SOCKET, FramerType.RTU])
async def test_the_server_of_pymodbus(framer: FramerType) -> None:
    """Each type, big-endian and with swapped words, on a TCP port."""
    device = SimDevice(
        7,
        simdata=[
            SimData(0, values=[-2], datatype=DataType.INT16),
            SimData(1, values=[65_534], datatype=DataType.UINT16),
            SimData(2, values=[-100_000], datatype=DataType.INT32),
            SimData(4, values=[4_000_000_000], datatype=DataType.UINT32),
            SimData(6, values=[21.5], datatype=DataType.FLOAT32),
            SimData(8, values=[-(2**40)], datatype=DataType.INT64),
            SimData(12, values=[2**63 + 1], datatype=DataType.UINT64),
            SimData(16, values=[1 / 3], datatype=DataType.FLOAT64),
            SimData(20, values=[0x0000, 0x41AC], datatype=DataType.REGISTERS),  # 21.5, low word first
            SimData(22, values=[0b1010_0000_0000_0001], datatype=DataType.REGISTERS),
        ],
    )
    identity = ModbusDeviceIdentification(info_name={"VendorName": "Acme", "ProductCode": "T-1"})
    server = ModbusTcpServer(device, framer=framer, address=("127.0.0.1", 0), identity=identity)
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    types = ["s16", "u16", "s32", "u32", "f32", "s64", "u64", "f64"]
    places = [0, 1, 2, 4, 6, 8, 12, 16]
    registers: dict[str, Any] = {
        coded: {"register": at, "type": coded} for coded, at in zip(types, places, strict=True)
    }
    registers["swapped"] = {"register": 20, "type": "f32", "order": "cdab"}
    registers["scaled"] = {"register": 0, "type": "s16", "scale": 0.01, "offset": 5}
    registers |= {f"bit{at}": {"register": 22, "type": "bit", "bit": at} for at in (0, 1, 13, 15)}
    registers["masked"] = {"register": 22, "mask": 0xF000}
    scheme = "tcp" if framer is FramerType.SOCKET else "rtu+tcp"
    url = f"{scheme}://127.0.0.1:{port}"
    try:
        row = await one(options(url, unit_id=7, registers=registers, timeout_s=0.3))
    finally:
        await server.shutdown()
    assert row.values == {
        "s16": -2, "u16": 65_534, "s32": -100_000, "u32": 4_000_000_000, "f32": 21.5, "s64": -(2**40),
        "u64": 2**63 + 1, "f64": 1 / 3, "swapped": 21.5, "scaled": 4.98, "bit0": True, "bit1": False,
        "bit13": True, "bit15": True, "masked": 0b1010,
    }  # fmt: skip
