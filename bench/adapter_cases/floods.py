"""The devices of bench/adapters.py: one per protocol, in a process of its own, as fast as its reader.

Prints its URL and serves until its stdin ends. Where a simulator is slower than an adapter, its output is
written in advance and then sent as fast as TCP takes it; the others are simulators with a fast clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import socket
import sys
import threading
import tty
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

from wire.clock import NS_PER_MS, NS_PER_S, Clock

VDA_TOPIC = "uagv/v2/acme/amr-01/state"
MQTT_TOPIC = "street/kerb-1/reading"
SENSORS = 4  # LoRaWAN sensors

_SEED = 3
_ROWS = 12_000  # rows written in advance; then they repeat
_FIXES = 5_000  # the same for positions, which take longer to write
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK = 65_536

Written = Callable[[], Iterable[bytes]]


def main(kind: str) -> None:
    """Serve one kind until stdin ends."""
    if kind in _WRITTEN:
        _serve_written(*_WRITTEN[kind])
    elif kind == "serial":
        _serve_terminal(_hygrometer())
    else:
        asyncio.run(_serve_simulator(kind))


# --- simulators with a fast clock


async def _serve_simulator(kind: str) -> None:
    async with _simulator(kind) as device:
        print(device.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def _simulator(kind: str) -> Any:
    import simulators

    settings: dict[str, dict[str, Any]] = {
        "opcua": {"clock": Clock(8.0)},
        "modbus-cobot": {},
        "can": {},  # whose control unit answers OBD-II
        "ble": {"clock": Clock(400.0)},
        "camera": {"fps": 60.0},
    }
    return simulators.load(kind)(seed=_SEED, **settings[kind])


# --- data written in advance


def _gnss() -> list[bytes]:
    from simulators.devices.nmea import GnssReceiver

    receiver = GnssReceiver(seed=_SEED, rate_hz=10)
    receiver.start_ns = _now_ns()
    return [receiver.output(index) for index in range(_FIXES)]


def _bus() -> list[bytes]:
    from simulators.devices.can.slcan import Slcan
    from simulators.devices.can.vehicle_frames import frames
    from simulators.plants.vehicle import RATE_HZ, SIGNALS, Vehicle

    adapter, begin_ns = Slcan(lambda _frame: None), _now_ns()
    written = []
    for index, row in enumerate(Vehicle(_SEED).block(0, _ROWS).tolist()):
        at_ns = begin_ns + index * NS_PER_S // RATE_HZ
        sample = dict(zip(SIGNALS, row, strict=True))
        written.append(
            b"".join(
                adapter.line(one, at_ns // NS_PER_MS) for one in frames(index, at_ns, sample, frozenset())
            )
        )
    return written


def _bedside() -> list[bytes]:
    import numpy as np

    from simulators.devices.hl7.messages import (
        RESOLUTION_MV,
        Envelope,
        PatientIdentity,
        ecg_message,
        vitals_message,
    )
    from simulators.plants.patient import ECG_HZ, Patient

    patient, person, begin_ns = Patient(_SEED), PatientIdentity.of(_SEED), _now_ns()
    written = []
    for second in range(400):
        at_ns = begin_ns + second * NS_PER_S
        steps = np.rint(patient.ecg(second * ECG_HZ, ECG_HZ) / RESOLUTION_MV).astype(int).tolist()
        vitals = vitals_message(
            Envelope(f"{second}-V", at_ns + NS_PER_S, person), at_ns, patient.vitals(second)
        )
        ecg = ecg_message(Envelope(f"{second}-W", at_ns + NS_PER_S, person), at_ns, steps, ECG_HZ)
        written += [b"\x0b" + message + b"\x1c\r" for message in (vitals, ecg)]
    return written


def _hygrometer() -> Iterator[bytes]:
    begin_s = _now_ns() / NS_PER_S
    for index in count():
        at_s = begin_s + index / 100
        yield b'{"at": %.6f, "air": {"T": %.2f, "H": %.1f}}\r\n' % (at_s, 20 + index % 977 / 100, 45.5)


def _kerb() -> Iterator[bytes]:
    begin_ms = _now_ns() // NS_PER_MS
    for index in count():
        head = b'{"at": %d, "bay": {"occupied": %s}, '
        body = head + b'"air": [{"noise": %.3f, "temperature": %.3f}], "water": %.3f}'
        noise = 50 + index % 977 / 100
        yield _publish(
            MQTT_TOPIC, body % (begin_ms + 10 * index, (b"true", b"false")[index % 2], noise, 14.125, 20.5)
        )


def _lora() -> list[bytes]:
    from simulators.devices.chirpstack import APPLICATION, LoraNetwork, dev_eui

    network = LoraNetwork(seed=_SEED, broker_url="mqtt://127.0.0.1:1", sensors=SENSORS, period_s=1.0)
    network.start_ns = _now_ns()
    written = []
    for turn in range(_ROWS // 2):
        index, sensor = divmod(turn, SENSORS)
        topic = f"application/{APPLICATION}/device/{dev_eui(sensor)}/event/up"
        written.append(_publish(topic, network.uplink(sensor, index)))
    return written


def _vehicle() -> Iterator[bytes]:
    """Return states of a vehicle on an order of six nodes, of about real size."""
    nodes = [f"hall-{n}" for n in range(6)]
    state: dict[str, Any] = {
        "version": "2.1.0",
        "manufacturer": "acme",
        "serialNumber": "amr-01",
        "orderId": "order-17",
        "orderUpdateId": 0,
        "lastNodeId": nodes[0],
        "lastNodeSequenceId": 0,
        "driving": True,
        "paused": False,
        "operatingMode": "AUTOMATIC",
        "distanceSinceLastNode": 3.25,
        "nodeStates": [
            {"nodeId": name, "sequenceId": 2 * n, "released": True} for n, name in enumerate(nodes)
        ],
        "edgeStates": [
            {"edgeId": f"{one}-{other}", "sequenceId": 2 * n + 1, "released": True}
            for n, (one, other) in enumerate(pairwise(nodes))
        ],
        "actionStates": [],
        "agvPosition": {
            "x": 12.5,
            "y": 4.25,
            "theta": 1.57,
            "mapId": "hall",
            "positionInitialized": True,
            "localizationScore": 0.98,
        },
        "velocity": {"vx": 1.2, "vy": 0.0, "omega": 0.01},
        "loads": [],
        "batteryState": {"batteryCharge": 81.5, "batteryVoltage": 48.2, "charging": False},
        "errors": [],
        "information": [],
        "safetyState": {"eStop": "NONE", "fieldViolation": False},
    }
    rest, begin = json.dumps(state)[1:].encode(), _EPOCH + timedelta(microseconds=_now_ns() // 1_000)
    for number in count(1):
        at = begin + timedelta(milliseconds=500 * number % 80_000_000)
        stamp = f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1_000:03d}Z"
        yield _publish(VDA_TOPIC, b'{"headerId": %d, "timestamp": "%s", ' % (number, stamp.encode()) + rest)


def _now_ns() -> int:
    return Clock().now_ns() // NS_PER_S * NS_PER_S


# --- lines that send as fast as the reader takes


def _serve_written(
    scheme: str, write: Callable[[], Iterable[bytes]], greet: Callable[[socket.socket], None]
) -> None:
    written = write()
    kept = written if isinstance(written, list) else None
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"{scheme}://127.0.0.1:{server.getsockname()[1]}", flush=True)

        def accept() -> None:
            while True:
                client, _ = server.accept()
                stream = _over_and_over(kept) if kept is not None else write()
                threading.Thread(target=_serve, args=(client, stream, greet), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        sys.stdin.read()


def _over_and_over(kept: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from kept


def _serve(client: socket.socket, stream: Iterable[bytes], greet: Callable[[socket.socket], None]) -> None:
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greet(client)
        threading.Thread(target=_swallow, args=(client,), daemon=True).start()
        for chunk in _chunks(stream):
            client.sendall(chunk)


def _swallow(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while client.recv(_CHUNK):
            pass


def _chunks(stream: Iterable[bytes]) -> Iterator[bytes]:
    waiting = bytearray()
    for part in stream:
        waiting += part
        if len(waiting) >= _CHUNK // 4:
            yield bytes(waiting)
            waiting.clear()


def _serve_terminal(stream: Iterator[bytes]) -> None:
    ours, theirs = pty.openpty()  # keep the reader's end open: a terminal without readers returns EIO
    tty.setraw(theirs)
    print(f"serial://{os.ttyname(theirs)}?baud=115200", flush=True)

    def write() -> None:
        for line in stream:
            left = line
            while left:
                left = left[os.write(ours, left) :]

    threading.Thread(target=write, daemon=True).start()
    sys.stdin.read()


# --- the start of a connection, by protocol


def _nothing(_client: socket.socket) -> None:
    """Send data at once."""


def _slcan(client: socket.socket) -> None:
    """Answer each command until the bus is opened."""
    typed = b""
    while not typed.endswith((b"O\r", b"L\r")):
        said = client.recv(_CHUNK)
        if not said:
            raise ConnectionError
        typed += said
        client.sendall(b"\r" * said.count(b"\r"))


def _mqtt(client: socket.socket) -> None:
    """Answer as a broker does for one subscriber: MQTT 3.1.1, one SUBSCRIBE with any filters."""
    with client.makefile("rb") as packets:
        while True:
            kind, body = packets.read(1)[0] >> 4, packets.read(_length(packets.read))
            if kind == 1:
                client.sendall(b"\x20\x02\x00\x00")
            elif kind == 8:
                granted = b"\x00" * _filters(body[2:])
                client.sendall(b"\x90" + bytes([2 + len(granted)]) + body[:2] + granted)
                return


def _filters(rest: bytes) -> int:
    found = 0
    while rest:
        rest = rest[3 + int.from_bytes(rest[:2], "big") :]
        found += 1
    return found


def _length(read: Callable[[int], bytes]) -> int:
    total = shift = 0
    while (byte := read(1)[0]) & 0x80:
        total, shift = total | (byte & 0x7F) << shift, shift + 7
    return total | byte << shift


def _publish(topic: str, body: bytes) -> bytes:
    """Return a PUBLISH packet of QoS 0."""
    name = topic.encode()
    rest = len(name).to_bytes(2, "big") + name + body
    size, left = bytearray(), len(rest)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    size.append(left)
    return b"\x30" + bytes(size) + rest


# word -> scheme of its URL, its data, and the start of a connection
_WRITTEN: dict[str, tuple[str, Written, Callable[[socket.socket], None]]] = {
    "nmea": ("tcp", _gnss, _nothing),
    "slcan": ("socket", _bus, _slcan),
    "hl7": ("mllp", _bedside, _nothing),
    "mqtt": ("mqtt", _kerb, _mqtt),
    "vda5050": ("mqtt", _vehicle, _mqtt),
    "chirpstack": ("mqtt", _lora, _mqtt),
}


if __name__ == "__main__":
    main(sys.argv[1])
