"""Sensors along a street that publish their own JSON on an MQTT broker, as makers without a standard do.

    street/{sensor}/reading   {"at": 1767225600000, "bay": {"occupied": true}, "air": [{"noise": 54.2}], ...}

`at` is in milliseconds since 1970; `sensor` is kerb-1, kerb-2, ...
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from simulators.devices.mqtt.base import MqttDevice
from simulators.devices.mqtt.publisher import Publisher
from simulators.plants import street_sensors
from simulators.plants.street_sensors import StreetSensors
from simulators.simulator import Value
from wire.clock import NS_PER_MS, NS_PER_S, Clock

FAULTS = {
    "silent": "nothing is published, the connection stays up",
    "broken": "the connection breaks without DISCONNECT, and comes back when the fault ends",
    "malformed": "every message is half a JSON document",
    "huge": "every message is of SIZE x 2 MB",
    "nan": "every number is NaN, which is not valid JSON",
    "backward": "times are SIZE x 10 s behind",
}


class KerbSensors(MqttDevice):
    """Use: `async with KerbSensors(broker_url="mqtt://127.0.0.1:1883") as street: street.url`.

    Sensor n publishes at `start_ns + (i + n/sensors) * period`.
    """

    kind = "mqtt"
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
        sensors: int = 2,
        period_s: float = 1.0,
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

    def truth(self, at_ns: int) -> dict[str, Value]:
        """What a sensor measured at a time of its schedule, with `sensor` (from 0) and `label`."""
        turn = round((at_ns - self.start_ns) * self._parts / self._period_ns)
        if turn < 0 or self._due_ns(turn) // NS_PER_MS != at_ns // NS_PER_MS:
            return {}
        index, sensor = divmod(turn, self._parts)
        label = self._street.label(sensor, index)
        return {**self._street.sample(sensor, index), "sensor": sensor, "label": label}

    def _step(self, turn: int, at_s: float) -> None:
        if self._publisher is None or self._faults.size("silent", at_s):
            return
        index, sensor = divmod(turn, self._parts)
        sample = self._street.sample(sensor, index)
        nan = bool(self._faults.size("nan", at_s))

        def number(name: str) -> float:
            return math.nan if nan else round(float(sample[name]), 3)

        at_ms = self._due_ns(turn) // NS_PER_MS - int(10_000 * self._faults.size("backward", at_s))
        body = {
            "at": at_ms,
            "bay": {"occupied": bool(sample["occupied"])},
            "air": [{"noise": number("noise"), "temperature": number("temperature")}],
            "water": number("water_level"),
            "padding": "x" * int(2_000_000 * self._faults.size("huge", at_s)),
        }
        text = json.dumps(body)
        if self._faults.size("malformed", at_s):
            text = text[: len(text) // 2]
        self._publisher.publish(f"street/kerb-{sensor + 1}/reading", text.encode())
        self.written += 1

    def _new_publisher(self) -> Publisher:
        return Publisher(self._broker, f"street-{id(self):x}"[:23])
