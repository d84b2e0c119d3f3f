"""A ChirpStack v4 network server with LoRaWAN sensors along a street, as its MQTT integration publishes them.

    application/{application id}/device/{DevEUI}/event/up | join | status

The payload of an uplink is 9 bytes, big-endian: flags (bit 0: bay taken), noise i16 x 0.1 dB, water u16 mm,
battery u16 mV, temperature i16 x 0.01 Cel; `object` is the payload as a codec decodes it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from simulators.devices.mqtt.base import MqttDevice
from simulators.devices.mqtt.publisher import Publisher
from simulators.plants import street_sensors
from simulators.plants.street_sensors import StreetSensors
from simulators.simulator import Value
from wire.clock import NS_PER_S, Clock

APPLICATION = "5f6a2b9e-3a51-4c7e-9c55-0d6f2a1b7c10"
F_PORT = 2
FAULTS = {
    "silent": "no uplink is received",
    "broken": "the network server loses its broker, and connects again when the fault ends",
    "lost": "a SIZE share of the uplinks is lost on the air",
    "duplicates": "a SIZE share of the uplinks is published twice",
    "reset": "each sensor joins again when the fault begins: its frame counter starts at 0",
    "wrong-serial": "uplinks carry another sensor's DevEUI",
    "malformed": "every uplink is half a JSON document",
    "huge": "every uplink is of SIZE x 2 MB",
    "nan": "the codec decodes every number as NaN",
    "no-time": "the uplinks have no time",
    "backward": "times are SIZE x 10 minutes behind",
    "no-codec": "there is no codec: `object` is missing",
}
_GATEWAYS = 3
_STATUS_EVERY = 10  # uplinks between two status events
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def dev_eui(sensor: int) -> str:
    """The DevEUI of a sensor; it does not depend on the seed, because configurations name it."""
    return f"70b3d57ed005{sensor + 1:04x}"


class LoraNetwork(MqttDevice):
    """Use: `async with LoraNetwork(broker_url="mqtt://127.0.0.1:1883") as network: network.url`.

    Sensor n measures at `start_ns + (i + n/sensors) * period`.
    """

    kind = "chirpstack"
    faults = FAULTS
    plant_faults = street_sensors.FAULTS

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",  # noqa: ARG002 - every simulator takes one; this is a client
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        broker_url: str = "",
        sensors: int = 4,
        period_s: float = 60.0,
    ) -> None:
        self._street = StreetSensors(seed, sensors=sensors, period_s=period_s)
        super().__init__(
            self._street,
            period_ns=round(period_s * NS_PER_S),
            parts=sensors,
            broker_url=broker_url,
            port=port,
            clock=clock,
            faults=faults,
        )
        self.lost = 0
        self.duplicates = 0
        self._seed = seed
        self._first: dict[int, int] = {}  # sensor -> index of its first uplink since it joined
        self._was_reset = False

    def truth(self, at_ns: int) -> dict[str, Value]:
        """What a sensor measured at a time of its schedule, with `sensor` (from 0) and `label`."""
        step_ns = self._period_ns / self._street.sensors
        turn = round((at_ns - self.start_ns) / step_ns)
        if turn < 0 or self._due_ns(turn) != at_ns:
            return {}
        index, sensor = divmod(turn, self._street.sensors)
        label = self._street.label(sensor, index)
        return {**self._street.sample(sensor, index), "sensor": sensor, "label": label}

    # --- the schedule

    def _step(self, turn: int, at_s: float) -> None:
        index, sensor = divmod(turn, self._street.sensors)
        self._join(sensor, index, at_s)
        if self._faults.size("silent", at_s):
            return
        if self._chance(8, sensor, index) < self._faults.size("lost", at_s):
            self.lost += 1
            return
        body = self.uplink(sensor, index)
        self._publish(sensor, "up", body)
        self.written += 1
        if self._chance(9, sensor, index) < self._faults.size("duplicates", at_s):
            self._publish(sensor, "up", body)
            self.duplicates += 1
        if index % _STATUS_EVERY == 0:
            status = {**self._head(sensor, index), "margin": 10, "batteryLevel": 88.3}
            self._publish(sensor, "status", json.dumps(status).encode())

    def _join(self, sensor: int, index: int, at_s: float) -> None:
        reset = bool(self._faults.size("reset", at_s))
        if reset and not self._was_reset:
            self._first.clear()
        self._was_reset = reset
        if sensor not in self._first:
            self._first[sensor] = index
            joined = {**self._head(sensor, index), "devAddr": self._dev_addr(sensor)}
            self._publish(sensor, "join", json.dumps(joined).encode())

    def _publish(self, sensor: int, event: str, body: bytes) -> None:
        if self._publisher is not None:
            topic = f"application/{APPLICATION}/device/{dev_eui(sensor)}/event/{event}"
            self._publisher.publish(topic, body)

    # --- messages

    def uplink(self, sensor: int, index: int) -> bytes:
        """One uplink event, as it is published."""
        at_s = self._street.at_s(sensor, index)
        sample = self._street.sample(sensor, index)
        body = {**self._head(sensor, index), "devAddr": self._dev_addr(sensor), "dr": 5, "fPort": F_PORT}
        if count := index - self._first.get(sensor, 0):
            body["fCnt"] = count  # ChirpStack leaves out what is 0
        body["data"] = base64.b64encode(_payload(sample)).decode()
        nan = bool(self._faults.size("nan", at_s))
        if not self._faults.size("no-codec", at_s):
            body["object"] = _decoded(sample, nan)
        body["rxInfo"] = self._heard_by(sensor, index)
        body["txInfo"] = {
            "frequency": 922_100_000,
            "modulation": {"lora": {"bandwidth": 125_000, "spreadingFactor": 7, "codeRate": "CR_4_5"}},
        }
        if size := self._faults.size("huge", at_s):
            body["padding"] = "x" * int(2_000_000 * size)
        text = json.dumps(body)
        if self._faults.size("malformed", at_s):
            text = text[: len(text) // 2]
        return text.encode()

    def _head(self, sensor: int, index: int) -> dict[str, Any]:
        at_s = self._street.at_s(sensor, index)
        at_ns = self._due_ns(index * self._street.sensors + sensor)
        at_ns -= round(600 * self._faults.size("backward", at_s) * NS_PER_S)
        at = _EPOCH + timedelta(seconds=at_ns // NS_PER_S)
        known = hashlib.blake2b(f"{self._seed}/{sensor}/{index}/{self.start_ns}".encode(), digest_size=16)
        eui = dev_eui(sensor + 1_000 * bool(self._faults.size("wrong-serial", at_s)))
        head = {
            "deduplicationId": str(uuid.UUID(bytes=known.digest(), version=4)),
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at_ns % NS_PER_S:09d}+00:00",
            "deviceInfo": {
                "tenantId": "52f14cd4-c6f1-4fbd-8f87-4025e1d49242",
                "tenantName": "street",
                "applicationId": APPLICATION,
                "applicationName": "kerb sensors",
                "deviceName": f"kerb-{sensor + 1}",
                "devEui": eui,
                "tags": {},
            },
        }
        if self._faults.size("no-time", at_s):
            del head["time"]
        return head

    def _heard_by(self, sensor: int, index: int) -> list[dict[str, Any]]:
        rng = np.random.default_rng([self._seed, 7, sensor, index])
        heard = 1 + int(rng.integers(_GATEWAYS))
        return [
            {
                "gatewayId": f"0016c001f153a1{gateway:02x}",
                "uplinkId": int(rng.integers(1, 2**32)),
                "rssi": int(-70 - 12 * gateway - rng.integers(20)),
                "snr": round(float(9 - 4 * gateway + rng.normal()), 1),
            }
            for gateway in range(heard)
        ]

    def _dev_addr(self, sensor: int) -> str:
        return f"{0x01_00_00_00 + 1_000 * self._first.get(sensor, 0) + sensor:08x}"

    # --- chance, connection

    def _chance(self, what: int, sensor: int, index: int) -> float:
        return float(np.random.default_rng([self._seed, what, sensor, index]).random())

    def _new_publisher(self) -> Publisher:
        return Publisher(self._broker, f"chirpstack-{id(self):x}"[:23])


def _payload(sample: dict[str, float | bool]) -> bytes:
    return struct.pack(
        ">BhHHh",
        int(sample["occupied"]),
        round(sample["noise"] * 10),
        round(sample["water_level"]),
        round(sample["battery"] * 1_000),
        round(sample["temperature"] * 100),
    )


def _decoded(sample: dict[str, float | bool], nan: bool) -> dict[str, Any]:
    def number(value: float) -> float:
        return math.nan if nan else round(float(value), 3)

    return {
        "occupied": bool(sample["occupied"]),
        "noise": number(sample["noise"]),
        "water": {"level": number(sample["water_level"])},
        "temperature": number(sample["temperature"]),
        "battery": number(sample["battery"]),
    }
