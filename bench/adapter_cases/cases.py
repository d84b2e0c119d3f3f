"""The cases of bench/adapters.py: each adapter, its options, the device it reads, and the peer."""

from __future__ import annotations

import csv
import os
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench.adapter_cases import bare, floods
from wire.clock import Clock
from wire.shipped import folder

Rows = AsyncGenerator[Any] | Generator[Any]
Peer = Callable[[str], Rows]


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter: the device, the options, the peer that reads the same, the number of readings."""

    word: str
    flood: str  # empty: the options name a file
    options: Callable[[str], dict[str, Any]]
    peer: Peer
    readings: int
    shown: str  # what one reading is, and the peer
    clock: Callable[[], Clock] = Clock
    paced: bool = (
        False  # the device sets the rate: it is slower than its readers, or answers one request at a time
    )
    rounds: int = 3


def cases(work: Path) -> list[Case]:
    """Return a case for every adapter, with the options of the ready configs if these are fast enough."""
    return [*_robot(), *_mobility(), *_healthcare(), *_city(work), *_any(work)]


def _robot() -> list[Case]:
    return [
        Case(
            "opcua",
            "opcua",
            lambda url: {"url": url, "profile": "opc40010", "publishing_ms": 100},
            bare.opcua,
            400,
            "row of 18 values, beside an asyncua subscription",
            paced=True,
        ),
        Case(
            "modbus",
            "modbus-cobot",
            lambda url: {**_ready("robot", "arm-modbus"), "url": url, "period_s": 0.02},
            bare.modbus,
            300,
            "row of 22 registers in 4 requests, beside pymodbus",
            clock=lambda: Clock(200.0),
            paced=True,
        ),
        Case(
            "vda5050",
            "vda5050",
            lambda url: {"url": url, "manufacturer": "acme", "serial": "amr-01", "orders": False, **_MQTT},
            partial(bare.vda5050, topics=[floods.VDA_TOPIC]),
            3_000,
            "state of 29 values, beside aiomqtt and json",
        ),
    ]


def _mobility() -> list[Case]:
    from adapters.obd.pids import PIDS

    slcan = {"interface": "slcan"}
    drive = _ready("mobility", "vehicle")
    return [
        Case(
            "can",
            "slcan",
            lambda url: {**drive, "channel": url, "max_skew_s": 1e9},
            partial(bare.can_bus, dbc=drive["dbc"]),
            700,
            "row of 10 signals from 7 frames, beside python-can's slcan and cantools",
        ),
        Case(
            "obd",
            "can",
            lambda url: {**slcan, "channel": url, "pids": _PIDS, "period_s": 0.05},
            partial(bare.obd, pids={name: PIDS[name] for name in _PIDS}),
            120,
            "row of 3 questions, beside python-can's slcan and can-isotp",
            clock=lambda: Clock(25.0),
            paced=True,
        ),
        Case(
            "nmea",
            "nmea",
            lambda url: {"url": url},
            bare.nmea,
            3_000,
            "position from 5 sentences, beside split and float",
        ),
    ]


def _healthcare() -> list[Case]:
    return [
        Case(
            "hl7",
            "hl7",
            lambda url: {"url": url, "max_ahead_s": 86_400},
            bare.hl7,
            50_000,
            "ECG sample or set of vital signs, beside split",
        ),
        Case(
            "ble",
            "ble",
            lambda url: {"hci": url, "address": "F0:F1:F2:F3:F4:F5", "battery": False},
            bare.ble,
            400,
            "heart beat, beside bumble",
            clock=lambda: Clock(400.0),
            paced=True,
        ),
    ]


def _city(work: Path) -> list[Case]:
    from simulators.devices.chirpstack import APPLICATION, dev_eui

    sensors = {f"kerb-{n + 1}": dev_eui(n) for n in range(floods.SENSORS)}
    lora = {**_ready("smart-city", "lorawan"), "sensors": sensors, "application": APPLICATION, **_MQTT}
    topics = [f"application/{APPLICATION}/device/{eui}/event/+" for eui in sensors.values()]
    return [
        Case(
            "chirpstack",
            "chirpstack",
            lambda url: {**lora, "url": url},
            partial(bare.chirpstack, topics=topics),
            3_000,
            "uplink of 9 values, beside aiomqtt and json",
        ),
        Case(
            "camera",
            "camera",
            lambda url: {"url": url},
            bare.camera,
            120,
            "640x480 picture over RTSP at 60 a second, beside an OpenCV loop",
            paced=True,
            rounds=2,
        ),
        Case(
            "camera",
            "",
            lambda _: {"file": _clip(work), "pace": "asap", "loop": True},
            lambda _: bare.camera(str(_clip(work))),
            200,
            "640x480 picture of a file, beside an OpenCV loop",
        ),
    ]


def _any(work: Path) -> list[Case]:
    kerb = {
        "occupied": {"path": "bay.occupied", "t": "bool"},
        "noise": "air.0.noise",
        "temperature": "air.0.temperature",
        "water": "water",
    }
    text = {"temperature": {"at": "air.T"}, "humidity": {"at": "air.H"}}
    return [
        Case(
            "mqtt",
            "mqtt",
            lambda url: {
                "url": url,
                "topics": [floods.MQTT_TOPIC],
                "fields": kerb,
                "time": {"path": "at", "format": "ms"},
                **_MQTT,
            },
            partial(bare.mqtt, topics=[floods.MQTT_TOPIC]),
            5_000,
            "message of 4 values, beside aiomqtt and json",
        ),
        Case(
            "serial",
            "serial",
            lambda url: {"url": url, "format": "json", "fields": text, "time_at": "at", "time_unit": "s"},
            bare.serial,
            4_000,
            "line of JSON with 2 values, beside pyserial's readline and json",
        ),
        Case(
            "replay",
            "",
            lambda _: {
                "file": _table(work),
                "time": "time",
                "rate": "asap",
                "times": "recorded",
                "fields": _columns(),
            },
            lambda _: bare.replay(str(_table(work))),
            8_000,
            "CSV row of 18 values, beside the csv module and float",
        ),
    ]


_PIDS = ["vehicle_speed", "odometer", "control_voltage"]
_MQTT = {"qos": 0, "max_skew_s": 1e9}


def _ready(config: str, device: str) -> dict[str, Any]:
    """Return the options of a device in a ready config, with the paths of its files."""
    path = folder("configs") / f"{config}.yaml"
    options = yaml.safe_load(path.read_text())["devices"][device]["options"]
    files = {name: path.parent / options[name] for name in ("dbc", "map") if name in options}
    return {**options, **files}


def _columns() -> dict[str, str]:
    from simulators.plants.cobot import SIGNALS

    return {name: name for name in SIGNALS}


def _table(work: Path) -> Path:
    from simulators.plants.cobot import RATE_HZ, SIGNALS, Cobot

    path = work / "arm.csv"
    if not path.exists():
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time", *SIGNALS])
            rows = Cobot(seed=3).block(0, 10_000).tolist()
            writer.writerows([index / RATE_HZ, *row] for index, row in enumerate(rows))
    return path


def _clip(work: Path) -> Path:
    """Return the recorded clip where EDGEBED_FIELD_DATA has it, else the drawn scene."""
    data = os.environ.get("EDGEBED_FIELD_DATA")
    if data:
        return Path(data).resolve() / "videos/vtest.avi"
    import cv2

    from simulators.plants.scene import Scene

    path, scene = work / "scene.avi", Scene(5)
    if not path.exists():
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (640, 480))
        for index in range(300):
            writer.write(scene.frame(index))
        writer.release()
    return path
