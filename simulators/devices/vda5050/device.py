"""A VDA 5050 v2 vehicle on an MQTT broker, driven by `simulators.plants.amr`.

It publishes `connection` ONLINE (CONNECTIONBROKEN is its last will) and `state` at 2 Hz and at each change,
and does the orders that it receives. A seeded fleet control in the same process publishes the orders of the
plant.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from simulators.devices.mqtt.base import MqttDevice
from simulators.devices.mqtt.publisher import Publisher
from simulators.devices.vda5050.order import OrderRefused, job_of
from simulators.plants import amr
from simulators.plants.amr import RATE_HZ, Amr, Situation
from simulators.plants.amr_plan import MAP, Mission
from simulators.simulator import Value
from wire.clock import NS_PER_S, Clock

FAULTS = {
    "silent": "nothing is published, the connection stays up",
    "broken": "the connection breaks without DISCONNECT, and comes back when the fault ends",
    "wrong-serial": "messages carry another vehicle's serial number",
    "version": "messages name version 3 of VDA 5050",
    "malformed": "every state is half a JSON document",
    "huge": "every state is of SIZE x 2 MB",
    "nan": "velocity and battery are NaN, which is not valid JSON",
    "backward": "timestamps are SIZE x 10 s behind",
    "lost": "a SIZE share of the states gets a number and is not sent",
}
_PERIOD_NS = NS_PER_S // RATE_HZ
_EVERY = RATE_HZ // 2  # samples between two states without an event
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AmrVehicle(MqttDevice):
    """Use: `async with AmrVehicle(broker_url="mqtt://127.0.0.1:1883") as vehicle: vehicle.url`.

    Without `fleet` it waits at its dock for orders on its topic. State timestamps are those of the 10 Hz
    schedule of `clock`.
    """

    kind = "vda5050"
    faults = FAULTS
    plant_faults = amr.FAULTS

    def __init__(
        self,
        *,
        seed: int = 0,
        host: str = "127.0.0.1",  # noqa: ARG002 - every simulator takes one; this is a client
        port: int = 0,
        clock: Clock | None = None,
        faults: Sequence[str] = (),
        broker_url: str = "",
        manufacturer: str = "acme",
        serial: str = "amr-01",
        fleet: bool = True,
        visualization: bool = False,
    ) -> None:
        self._amr = Amr(seed, fleet=fleet)
        super().__init__(
            self._amr, period_ns=_PERIOD_NS, broker_url=broker_url, port=port, clock=clock, faults=faults
        )
        self.base = f"uagv/v2/{manufacturer}/{serial}"
        self._identity = {"manufacturer": manufacturer, "serialNumber": serial}
        self._visualization = visualization
        self._header_ids: Counter[str] = Counter()
        self._shown: object = None  # the content of the last state: a change is published at once
        self._announced = ""
        self._refusals: list[dict[str, Any]] = []

    def truth(self, at_ns: int) -> dict[str, Value]:
        """The true state at a sample, by the adapter's field names, with the gravest fault as `label`."""
        index, rest = divmod(at_ns - self.start_ns, _PERIOD_NS)
        if rest or index < 0:
            return {}
        now = self._amr.situation(index)
        nodes = now.mission.nodes if now.mission else ()
        return {
            **{name: getattr(now, name) for name in amr.SIGNALS},
            "driving": now.driving,
            "charging": now.charging,
            "order_id": now.mission.order_id if now.mission else "",
            "last_node_id": nodes[now.reached - 1][0] if nodes else "dock",
            "nodes_left": len(nodes) - now.reached if nodes else 0,
            "label": now.label,
        }

    # --- the schedule

    def _step(self, turn: int, at_s: float) -> None:
        if self._faults.size("silent", at_s):
            return
        now = self._amr.situation(turn)
        if now.mission and now.mission.own and now.mission.order_id != self._announced:
            self._announced = now.mission.order_id
            self._publish("order", _order(now.mission))
        shown = (
            now.mission and now.mission.order_id, now.reached, now.driving, now.charging, now.faults,
            len(self._refusals),
        )  # fmt: skip
        if turn % _EVERY == 0 or shown != self._shown:
            self._shown = shown
            self._send_state(now, at_s)
        if self._visualization:
            body = self._state(now, at_s)
            kept = {key: body[key] for key in ("agvPosition", "velocity")}
            self._publish("visualization", kept)

    def _send_state(self, now: Situation, at_s: float) -> None:
        self.written += 1
        body = self._state(now, at_s)
        share = self._faults.size("lost", at_s)
        if share and math.modf(self.written * min(share, 1.0))[0] < min(share, 1.0):
            self._header_ids["state"] += 1
            return
        self._publish("state", body)

    # --- messages

    def _publish(self, kind: str, body: dict[str, Any]) -> None:
        if self._publisher is None:
            return
        at_s = self._turn / RATE_HZ
        text = json.dumps({**self._header(kind), **body}, ensure_ascii=False)
        if kind == "state" and self._faults.size("malformed", at_s):
            text = text[: len(text) // 2]
        self._publisher.publish(f"{self.base}/{kind}", text.encode())

    def _header(self, kind: str) -> dict[str, Any]:
        at_s = self._turn / RATE_HZ
        self._header_ids[kind] += 1
        at = _EPOCH + timedelta(microseconds=(self.start_ns + self._turn * _PERIOD_NS) // 1_000)
        at -= timedelta(seconds=10 * self._faults.size("backward", at_s))
        identity = dict(self._identity)
        if self._faults.size("wrong-serial", at_s) and kind != "order":
            identity["serialNumber"] += "-other"
        return {
            "headerId": self._header_ids[kind],
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1_000:03d}Z",
            "version": "3.0.0" if self._faults.size("version", at_s) else "2.1.0",
            **identity,
        }

    def _connection(self, word: str) -> tuple[str, bytes]:
        body = {**self._header("connection"), "connectionState": word}
        return f"{self.base}/connection", json.dumps(body).encode()

    def _state(self, now: Situation, at_s: float) -> dict[str, Any]:
        measured = self._amr.sample(self._turn)
        if self._faults.size("nan", at_s):
            measured |= {"vx": math.nan, "omega": math.nan, "battery_charge": math.nan}
        nodes = now.mission.nodes if now.mission else (("dock", 0.0, 0.0),)
        left = range(now.reached, len(nodes)) if now.mission else range(0)
        body = {
            "orderId": now.mission.order_id if now.mission else "",
            "orderUpdateId": 0,
            "lastNodeId": nodes[now.reached - 1][0] if now.mission else "dock",
            "lastNodeSequenceId": 2 * (now.reached - 1) if now.mission else 0,
            "driving": now.driving,
            "paused": False,
            "operatingMode": "AUTOMATIC",
            "distanceSinceLastNode": round(now.distance, 3),
            "nodeStates": [{"nodeId": nodes[i][0], "sequenceId": 2 * i, "released": True} for i in left],
            "edgeStates": [_edge(nodes, i) for i in left],
            "actionStates": [],
            "agvPosition": {
                **{name: round(measured[name], 4) for name in ("x", "y", "theta")},
                "mapId": MAP,
                "positionInitialized": True,
                "localizationScore": round(now.localization_score, 3),
            },
            "velocity": {"vx": measured["vx"], "vy": 0.0, "omega": measured["omega"]},
            "loads": [],
            "batteryState": {
                "batteryCharge": measured["battery_charge"],
                "batteryVoltage": round(measured["battery_voltage"], 3),
                "charging": now.charging,
            },
            "errors": [*_errors(now), *self._refusals],
            "information": [],
            "safetyState": {
                "eStop": "MANUAL" if now.e_stop else "NONE",
                "fieldViolation": now.field_violation,
            },
        }
        if share := self._faults.size("huge", at_s):
            body["information"] = [{"infoType": "x" * int(2_000_000 * share), "infoLevel": "DEBUG"}]
        return body

    # --- orders

    def _order_received(self, _topic: str, body: bytes) -> None:
        try:
            job = job_of(body, self._identity)
        except OrderRefused as error:
            self._refusals = [_error("validationError", "WARNING", str(error))]
            return
        if job.order_id == self._announced:
            return  # its own fleet control sent it
        why = self._amr.order(job, self._turn / RATE_HZ)
        self._refusals = [_error("orderError", "WARNING", why)] if why else []

    # --- the connection

    def _new_publisher(self) -> Publisher:
        return Publisher(
            self._broker,
            f"amr-{self._identity['serialNumber']}-{id(self):x}"[:23],
            will=self._connection("CONNECTIONBROKEN"),
            topic=f"{self.base}/order",
            on_message=self._order_received,
            on_connect=self._after_connect,
        )

    def _after_connect(self) -> None:
        if self._publisher is not None:
            self._publisher.publish(*self._connection("ONLINE"), qos=1, retain=True)

    def _before_end(self, publisher: Publisher) -> None:
        publisher.publish(*self._connection("OFFLINE"), qos=1, retain=True)


def _order(mission: Mission) -> dict[str, Any]:
    nodes = mission.nodes
    return {
        "orderId": mission.order_id,
        "orderUpdateId": 0,
        "nodes": [
            {
                "nodeId": name,
                "sequenceId": 2 * i,
                "released": True,
                "nodePosition": {"x": x, "y": y, "mapId": MAP},
                "actions": [],
            }
            for i, (name, x, y) in enumerate(nodes)
        ],
        "edges": [
            _edge(nodes, i) | {"startNodeId": nodes[i - 1][0], "endNodeId": nodes[i][0], "actions": []}
            for i in range(1, len(nodes))
        ],
    }


def _edge(nodes: Sequence[tuple[str, float, float]], to: int) -> dict[str, Any]:
    return {"edgeId": f"{nodes[to - 1][0]}-{nodes[to][0]}", "sequenceId": 2 * to - 1, "released": True}


def _errors(now: Situation) -> list[dict[str, Any]]:
    found = []
    if now.e_stop:
        found.append(_error("emergencyStop", "FATAL", "the emergency stop is pressed"))
    if now.field_violation:
        found.append(_error("obstacle", "WARNING", "the way is blocked"))
    return found


def _error(kind: str, level: str, text: str) -> dict[str, Any]:
    return {"errorType": kind, "errorLevel": level, "errorDescription": text, "errorReferences": []}
