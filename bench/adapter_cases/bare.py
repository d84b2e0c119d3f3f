"""Read the devices of floods.py with the bare library, as hand-written code for one perfect device.

Each function gets the URL of a device and yields rows without end. It lacks what an adapter adds: bounds,
quality, checks of times, silence detection, protection against wrong data.
"""

from __future__ import annotations

import asyncio
import csv
import json
import socket
import struct
from collections.abc import AsyncGenerator, Generator
from datetime import datetime
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Row = dict[str, Any]

_QUANTITIES = {"position": "ActualPosition", "velocity": "ActualSpeed", "torque": "ActualTorque"}


async def opcua(url: str) -> AsyncGenerator[Row]:
    """asyncua: a subscription and its handler; a row is full when all 18 nodes have the same source time."""
    from asyncua import Client, ua

    rows: asyncio.Queue[Row] = asyncio.Queue()
    names: dict[Any, str] = {}
    waiting: dict[Any, Row] = {}

    class Handler:
        def datachange_notification(self, node: Any, value: float, data: Any) -> None:
            at = data.monitored_item.Value.SourceTimestamp
            row = waiting.setdefault(at, {"at": at})
            row[names[node.nodeid]] = value
            if len(row) == len(names) + 1:
                rows.put_nowait(waiting.pop(at))

    async with Client(url) as client:
        space = await client.get_namespace_index("urn:edgebed:cobot-cell:nodes")
        for axis in range(1, 7):
            for name, browsed in _QUANTITIES.items():
                names[ua.NodeId(f"Axis_{axis}.{browsed}", space)] = f"j{axis}_{name}"
        subscription = await client.create_subscription(100, Handler())
        nodes = [client.get_node(each) for each in names]
        await subscription.subscribe_data_change(nodes, queuesize=500, sampling_interval=20)
        while True:
            yield await rows.get()


async def modbus(url: str) -> AsyncGenerator[Row]:
    """pymodbus: the registers that the cobot's map names, a request for each run of them."""
    from pymodbus.client import AsyncModbusTcpClient

    parts = urlsplit(url)
    client = AsyncModbusTcpClient(parts.hostname or "", port=parts.port or 0)
    await client.connect()
    try:
        while True:
            words = (await client.read_holding_registers(259, count=4, device_id=1)).registers
            row: Row = {"state": words[0], "on": words[1] & 1, "stop": words[2] & 1, "safe": words[3] & 1}
            for address, name, scale in (
                (270, "position", 0.1),
                (280, "velocity", 0.1),
                (310, "torque", 1.0),
            ):
                words = (await client.read_holding_registers(address, count=6, device_id=1)).registers
                for axis, word in enumerate(words, 1):
                    row[f"j{axis}_{name}"] = (word - 65_536 if word > 32_767 else word) * scale
            yield row
    finally:
        client.close()


def can_bus(url: str, dbc: Path) -> Generator[Row]:
    """python-can's slcan and cantools: every frame decoded, a row when Motion comes."""
    import can
    import cantools

    database: Any = cantools.database.load_file(dbc)
    row: Row = {}
    with can.Bus(interface="slcan", channel=url, bitrate=500_000, ignore_config=True) as bus:
        while True:
            frame = bus.recv(5)
            if frame is not None:
                row.update(database.decode_message(frame.arbitration_id, frame.data))
                if frame.arbitration_id == 0x140:
                    yield dict(row)


def obd(url: str, pids: dict[str, Any]) -> Generator[Row]:
    """python-can and can-isotp: one question after the other."""
    import can
    import isotp

    with can.Bus(interface="slcan", channel=url, bitrate=500_000, ignore_config=True) as bus:
        address = isotp.Address(isotp.AddressingMode.Normal_11bits, txid=0x7E0, rxid=0x7E8)
        stack = isotp.CanStack(bus, address=address)
        stack.start()
        try:
            while True:
                row: Row = {}
                for name, pid in pids.items():
                    stack.send(bytes([1, pid.number]))
                    answer = bytes(stack.recv(block=True, timeout=5) or b"")
                    row[name] = pid.value(int.from_bytes(answer[2:], "big"))
                yield row
        finally:
            stack.stop()


def nmea(url: str) -> Generator[Row]:
    """Lines, their checksums and commas: a row with each RMC, of it and what came before."""
    row: Row = {}
    with _connected(url) as line, line.makefile("rb") as lines:
        for raw in lines:
            body, _, total = raw.strip()[1:].partition(b"*")
            if reduce(xor, body) != int(total, 16):
                continue
            words = body.decode().split(",")
            kind = words[0][2:]
            if kind == "GGA":
                row |= {"fix": int(words[6]), "satellites": int(words[7]), "altitude": float(words[9])}
            elif kind == "GSA":
                row["hdop"] = float(words[16])
            elif kind == "VTG" and words[7]:
                row["speed"] = float(words[7])
            elif kind == "RMC":
                yield dict(row)
                at = datetime.strptime(words[9] + words[1] + "+0000", "%d%m%y%H%M%S.%f%z")
                row = {"at": at.timestamp(), "latitude": _degrees(words[3], words[4])}
                row |= {"longitude": _degrees(words[5], words[6]), "heading": float(words[8] or "nan")}


def serial(url: str) -> Generator[Row]:
    """pyserial's readline and json.loads."""
    from serial import Serial

    with Serial(urlsplit(url).path, 115_200) as port:
        port.readline()
        while True:
            document = json.loads(port.readline())
            yield {
                "at": document["at"],
                "temperature": document["air"]["T"],
                "humidity": document["air"]["H"],
            }


async def ble(url: str) -> AsyncGenerator[Row]:
    """bumble: connect, subscribe to 2A37 and unpack."""
    from bumble.core import UUID
    from bumble.device import Device, Peer
    from bumble.hci import Address
    from bumble.transport import open_transport

    values: asyncio.Queue[bytes] = asyncio.Queue()
    async with await open_transport(url) as hci:
        device = Device.with_hci("bare", Address.generate_static_address(), hci.source, hci.sink)
        await device.power_on()
        connection = await device.connect(Address("F0:F1:F2:F3:F4:F5"))
        peer = Peer(connection)
        await peer.discover_services()
        (rate,) = await peer.discover_characteristics([UUID("2A37")])
        await rate.subscribe(lambda value: values.put_nowait(bytes(value)))
        while True:
            value = await values.get()
            at = 3 if value[0] & 1 else 2
            for (interval,) in struct.iter_unpack("<H", value[at:]):
                yield {"heart_rate": value[1], "rr": interval * 1000 / 1024}


def hl7(url: str) -> Generator[Row]:
    """MLLP and splits at | and ^: a row for the numbers, one for each sample of a waveform; answers AA."""
    kept = b""
    with _connected(url) as line:
        while True:
            *whole, kept = (kept + line.recv(65_536)).split(b"\x1c\r")
            for frame in whole:
                segments = [segment.split("|") for segment in frame[1:].decode().split("\r")]
                yield from _observed(segments)
                header = segments[0]
                ack = f"\x0bMSH|^~\\&|||||||ACK|{header[9]}|P|2.6\rMSA|AA|{header[9]}\r\x1c\r"
                line.sendall(ack.encode())


def _observed(segments: list[list[str]]) -> Generator[Row]:
    begin_s, numbers = 0.0, {}
    for words in segments:
        if words[0] == "OBR":
            begin_s = datetime.strptime(words[7], "%Y%m%d%H%M%S.%f%z").timestamp()
        elif words[0] == "OBX" and words[2] == "NM":
            numbers[words[3].split("^")[1]] = float(words[5])
    for words in segments:
        if words[0] == "OBX" and words[2] == "NA":
            rate, step = numbers["MDC_ATTR_SAMP_RATE"], numbers["MDC_ATTR_NU_MSMT_RES"]
            for index, sample in enumerate(words[5].split("^")):
                yield {"at": begin_s + index / rate, "ecg": float(sample) * step}
            return
    yield {"at": begin_s, **numbers}


async def mqtt(url: str, topics: list[str]) -> AsyncGenerator[Row]:
    """aiomqtt and json.loads: the fields of a kerb sensor."""
    async for _, body in _messages(url, topics):
        found = json.loads(body)
        air = found["air"][0]
        yield {
            "at": found["at"],
            "occupied": found["bay"]["occupied"],
            "noise": air["noise"],
            "temperature": air["temperature"],
            "water": found["water"],
        }


async def vda5050(url: str, topics: list[str]) -> AsyncGenerator[Row]:
    """aiomqtt and json.loads: the same fields as edgebed's row of a state."""
    async for _, body in _messages(url, topics):
        found = json.loads(body)
        yield {
            "at": datetime.fromisoformat(found["timestamp"]).timestamp(),
            **found["agvPosition"],
            **found["velocity"],
            **found["batteryState"],
            **found["safetyState"],
            **{name: found[name] for name in ("driving", "paused", "operatingMode", "orderId", "lastNodeId")},
            "errors": len(found["errors"]),
            "error_types": " ".join(error["errorType"] for error in found["errors"]),
            "nodes_left": len(found["nodeStates"]),
            "edges_left": len(found["edgeStates"]),
            "distance": found["distanceSinceLastNode"],
        }


async def chirpstack(url: str, topics: list[str]) -> AsyncGenerator[Row]:
    """aiomqtt and json.loads: the codec's object and the best gateway."""
    async for _, body in _messages(url, topics):
        found = json.loads(body)
        best = max(found["rxInfo"], key=lambda one: one["rssi"])
        yield {
            "at": datetime.fromisoformat(found["time"]).timestamp(),
            "occupied": found["object"]["occupied"],
            "water_level": found["object"]["water"]["level"],
            "temperature": found["object"]["temperature"],
            "noise": found["object"]["noise"],
            "battery": found["object"]["battery"],
            "rssi": best["rssi"],
            "snr": best["snr"],
            "gateways": len(found["rxInfo"]),
            "f_cnt": found.get("fCnt", 0),
        }


def camera(url: str) -> Generator[Row]:
    """OpenCV's read loop, for a stream or a file."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])  # the cheapest way
    try:
        while True:
            done, picture = capture.read()
            if not done:
                return
            yield {"picture": picture}
    finally:
        capture.release()


def replay(url: str) -> Generator[Row]:
    """The csv module, and a float of each cell."""
    with Path(url).open(newline="") as file:
        for row in csv.DictReader(file):
            yield {name: float(text) for name, text in row.items()}


async def _messages(url: str, topics: list[str]) -> AsyncGenerator[tuple[str, bytes]]:
    import aiomqtt

    parts = urlsplit(url)
    async with aiomqtt.Client(parts.hostname or "", parts.port or 0) as client:
        await client.subscribe([(topic, 0) for topic in topics])
        async for message in client.messages:
            yield str(message.topic), bytes(message.payload)


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port))


def _degrees(text: str, side: str) -> float:
    whole, minutes = divmod(float(text), 100)
    degrees = whole + minutes / 60
    return -degrees if side in "SW" else degrees
