"""Reads an automated vehicle that uses VDA 5050 version 2 over MQTT: its state, connection and orders.

    {interface}/v2/{manufacturer}/{serial}/state | connection | order | visualization

Facts are from the VDA 5050 recommendation, versions 2.0 and 2.1, and its JSON schemas. This adapter only
reads: edgebed never sends an order or an instant action; only the fleet control moves a vehicle.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from adapters.base import OptionsError, ProtocolViolation, Reading, Value
from adapters.mqtt.payload import Unusable, iso_ns, json_object
from adapters.mqtt.session import MqttAdapter, TopicMessage
from adapters.vda5050.messages import (
    CONNECTION_STATES,
    E_STOPS,
    ERROR_LEVELS,
    OPERATING_MODES,
    Message,
    Part,
)
from adapters.vda5050.options import Vda5050Options
from wire.clock import Clock
from wire.messages import Field, Quality, Stream
from wire.printable import printable

_LONGEST_TEXT = 2_000  # characters of one value that travel
_LARGEST_RISE = 2**31  # after a larger rise of headerId, the vehicle has started to count again

_POSE = {
    "x": Field(unit="m", dec=4),
    "y": Field(unit="m", dec=4),
    "theta": Field(unit="rad", dec=4, min=-math.pi - 1e-6, max=math.pi + 1e-6, desc="Orientation on the map"),
    "map_id": Field(t="str"),
    "position_initialized": Field(t="bool"),
    "localization_score": Field(unit="1", dec=3, min=0, max=1),
    "vx": Field(unit="m/s", dec=4, desc="Velocity in the vehicle's own direction"),
    "vy": Field(unit="m/s", dec=4),
    "omega": Field(unit="rad/s", dec=4),
}
_STATE = {
    **_POSE,
    "battery_charge": Field(unit="%", dec=2, min=0, max=100),
    "battery_voltage": Field(unit="V", dec=2, min=0),
    "charging": Field(t="bool"),
    "driving": Field(t="bool", desc="Driving or turning"),
    "paused": Field(t="bool"),
    "operating_mode": Field(t="str"),
    "e_stop": Field(t="str", desc="AUTOACK, MANUAL, REMOTE or NONE"),
    "field_violation": Field(t="bool", desc="There is an object in the protective field"),
    "errors": Field(t="i64", min=0),
    "error_level": Field(t="str", desc="The most severe level of its errors, empty without errors"),
    "error_types": Field(t="str"),
    "loads": Field(t="i64", min=0),
    "order_id": Field(t="str"),
    "order_update_id": Field(t="i64", min=0),
    "last_node_id": Field(t="str"),
    "last_node_sequence_id": Field(t="i64", min=0),
    "nodes_left": Field(t="i64", min=0, desc="Nodes of the order that are not reached yet"),
    "edges_left": Field(t="i64", min=0),
    "distance_since_last_node": Field(unit="m", dec=3, min=0),
}
_CONNECTION = {"connection_state": Field(t="str"), "online": Field(t="bool")}
_ORDERS = {
    "order_id": Field(t="str"),
    "order_update_id": Field(t="i64", min=0),
    "nodes": Field(t="i64", min=0),
    "released_nodes": Field(t="i64", min=0, desc="Nodes of the base: the vehicle may drive to them"),
    "edges": Field(t="i64", min=0),
    "route": Field(t="str", desc="Node ids in order"),
}
_OPTIONAL = {*_POSE, "battery_voltage", "paused", "loads", "distance_since_last_node"}
_VERSION = re.compile(r"\s*[vV]?\s*(\d{1,9})(?!\d)")
_OTHER_VERSIONS = (
    "v1",
    "v1.1",
    "v2.0",
    "v2.0.0",
    "v2.1",
    "v2.1.0",
    "v3",
    "v3.0",
    "v3.0.0",
)  # second topic levels in use beside v2


class Vda5050(MqttAdapter[Vda5050Options]):
    """One vehicle: streams `state`, `connection`, and if the options ask for them `orders`, `visualization`.

    `state` rows have the vehicle's timestamp. `connection` rows have the time of receipt, because the
    timestamp of a last will is that of its registration, and the timestamp of a retained message may be old.
    A retained connection state becomes a row with the first state message: then ONLINE is GOOD and any other
    is UNCERTAIN. Without a state message, the error about the silence shows it.
    """

    Options = Vda5050Options
    kind = "vda5050"

    def __init__(self, options: Vda5050Options, clock: Clock) -> None:
        for name in ("manufacturer", "serial", "interface", "topic_version"):
            if any(sign in getattr(options, name) for sign in "/+#\0"):
                raise OptionsError(
                    f"{name} {getattr(options, name)!r} is not a topic level: it contains / + or #"
                )
        super().__init__(options, clock)
        self.may_be_null |= _OPTIONAL
        self._header_ids: dict[str, int] = {}
        self._retained_state = ""
        self._last_report = ""

    def topics(self) -> list[str]:
        """One topic for each kind of message that is read."""
        options = self.options
        base = self._base(options.topic_version)
        kinds = ["state", "connection"]
        kinds += ["order"] * options.orders + ["visualization"] * options.visualization
        return [f"{base}/{kind}" for kind in kinds]

    def hint_topics(self) -> list[str]:
        """The topics of other versions: a vehicle that sends nothing on its own may use one of them."""
        others = [each for each in _OTHER_VERSIONS if each != self.options.topic_version]
        return [f"{self._base(version)}/{kind}" for version in others for kind in ("state", "connection")]

    def hint(self, topic: str) -> str:
        """What a message on one of `hint_topics` means."""
        version = topic.split("/")[1]
        return (
            f"topic of VDA 5050 {version}: not read ({topic}); set the vehicle to version 2, or set"
            f" topic_version: {version} if its messages are those of version 2"
        )

    def streams(self) -> dict[str, Stream]:
        """One signal stream for each kind of message that is read."""
        options = self.options
        found = {"state": Stream(fields=_STATE), "connection": Stream(fields=_CONNECTION)}
        if options.orders:
            found["orders"] = Stream(fields=_ORDERS)
        if options.visualization:
            found["visualization"] = Stream(fields=_POSE)
        return found

    def rows(self, message: TopicMessage) -> Iterable[Reading]:
        """The row of one message; with the first state also one of the connection."""
        kind = message.topic.rpartition("/")[2]
        if kind != "connection" and message.retained:
            # only connection messages are retained (6.3); a retained state may be old
            raise Unusable("retained", f"a retained {kind} message is of unknown age", expected=True)
        taken = Message(json_object(message.body))
        made = list(_READERS[kind](self, taken, message))
        for field, why in taken.odd.items():
            self._odd(kind, field, why)
        return made

    def alive(self, reading: Reading) -> bool:
        """True except for orders: the fleet control sends them, not the vehicle."""
        return reading.stream != "orders"

    def last_report(self) -> str:
        """What the vehicle last reported of its connection."""
        return self._last_report

    def _base(self, version: str) -> str:
        options = self.options
        return f"{options.interface}/{version}/{options.manufacturer}/{options.serial}"

    def _odd(self, kind: str, field: str, why: str) -> None:
        """Note a field that cannot be used, or with an empty `why` that it can."""
        if why:
            self.counters["odd_fields"] += 1
            self.not_read(f"{field} of {kind} {why}", f"{kind}/{field}")
        elif self.unread:
            self.was_read(f"{kind}/{field}")

    def _state(self, taken: Message, message: TopicMessage) -> Iterable[Reading]:
        at_ns = self._header(taken, message)
        values, known = _state_values(taken.root)
        if values["error_types"] is not None:
            values["error_types"] = self._cut(str(values["error_types"]))
        quality = taken.quality
        if not known:
            self.counters["unknown_word"] += 1
            quality = quality.worse(Quality.UNCERTAIN)
        if values["position_initialized"] is False:
            quality = quality.worse(Quality.UNCERTAIN)
        rows = [Reading("state", at_ns, values, quality=quality)]
        if retained := self._retained_state:
            self._retained_state = ""
            agreement = Quality.GOOD if retained == "ONLINE" else Quality.UNCERTAIN
            rows.append(Reading("connection", message.at_ns, _connection_values(retained), quality=agreement))
        return rows

    def _connection(self, taken: Message, message: TopicMessage) -> Iterable[Reading]:
        self._header(taken, message, counted=not message.retained)
        state = taken.root.take("connectionState", "str")
        if message.retained:
            self._retained_state = str(state or "")
            self._last_report = f"; the last state of its connection at the broker is {state}"
            return []
        timestamp = taken.root.take("timestamp", "str")
        reported = f"; the vehicle reported {state} at {timestamp}"
        self._last_report = "" if state == "ONLINE" else reported
        quality = taken.quality if state in CONNECTION_STATES else taken.quality.worse(Quality.UNCERTAIN)
        self._retained_state = ""
        return [Reading("connection", message.at_ns, _connection_values(state), quality=quality)]

    def _order(self, taken: Message, message: TopicMessage) -> Iterable[Reading]:
        root, options = taken.root, self.options
        declared = (options.manufacturer, options.serial)
        named = (root.take("manufacturer", "str"), root.take("serialNumber", "str"))
        if any(name is not None and name != want for name, want in zip(named, declared, strict=True)):
            raise Unusable("foreign_order", f"the order is for {named[0]}/{named[1]}", expected=True)
        self._check_header_id("order", root.take("headerId", "i64"))
        at_ns = self._at(taken, message)
        nodes, edges = root.items("nodes"), root.items("edges")
        parts = None if nodes is None else [root.listed("nodes", node) for node in nodes]
        released = None if parts is None else [each.take("released", "bool") for each in parts]
        values: dict[str, Value] = {
            "order_id": root.take("orderId", "str"),
            "order_update_id": root.take("orderUpdateId", "i64"),
            "nodes": None if parts is None else len(parts),
            "released_nodes": None if released is None else sum(map(bool, released)),
            "edges": None if edges is None else len(edges),
            "route": None if parts is None else self._cut(_route(parts)),
        }
        return [Reading("orders", at_ns, values, quality=taken.quality)]

    def _visualization(self, taken: Message, message: TopicMessage) -> Iterable[Reading]:
        at_ns = self._header(taken, message)
        values, there = _pose_values(taken.root)
        if not there:
            raise Unusable("no_fields", "the visualization has no position and no velocity")
        return [Reading("visualization", at_ns, values, quality=taken.quality)]

    def _cut(self, text: str) -> str:
        if len(text) <= _LONGEST_TEXT:
            return text
        self.counters["text_cut"] += 1
        return text[: _LONGEST_TEXT - 1] + "…"

    # --- the header of every message

    def _header(self, taken: Message, message: TopicMessage, *, counted: bool = True) -> int:
        """Check that a message is of this vehicle and of version 2; returns its time.

        A header that lacks a name or the version is flagged: its topic has them.
        """
        root, options = taken.root, self.options
        declared = (options.manufacturer, options.serial)
        named = (root.take("manufacturer", "str"), root.take("serialNumber", "str"))
        if any(
            name is not None and str(name).strip().casefold() != want.casefold()
            for name, want in zip(named, declared, strict=True)
        ):
            found = "/".join(printable(str(name), 128) for name in named)
            raise ProtocolViolation(f"messages on {message.topic} are from {found}, not {'/'.join(declared)}")
        version = root.plain("version")
        major = _VERSION.match(version)
        if major and int(major[1]) != 2:
            raise ProtocolViolation(
                f"{'/'.join(declared)} uses VDA 5050 {printable(version, 32)}: this adapter reads version 2"
            )
        header_id = root.take("headerId", "i64")
        if counted:
            self._check_header_id(message.topic.rpartition("/")[2], header_id)
        return self._at(taken, message)

    def _check_header_id(self, kind: str, header_id: Value) -> None:
        """Count missing messages: each topic numbers its messages without gaps."""
        if not isinstance(header_id, int):
            return
        before = self._header_ids.get(kind)
        self._header_ids[kind] = header_id
        if before is None:
            return
        rise = header_id - before
        if rise == 0:
            self.counters["repeated_header_id"] += 1
        elif rise < 0 or rise > _LARGEST_RISE:
            self.counters["header_id_restarts"] += 1  # the vehicle was restarted
        elif rise > 1 and kind != "connection":  # a last will that was never sent has used a number
            self.counters["missed"] += rise - 1

    def _at(self, taken: Message, message: TopicMessage) -> int:
        timestamp = taken.root.take("timestamp", "str")
        device_ns = iso_ns(timestamp) if isinstance(timestamp, str) else None
        at_ns, quality = self.device_time(device_ns, message)
        taken.quality = taken.quality.worse(quality)
        return at_ns


def _state_values(root: Part) -> tuple[dict[str, Value], bool]:
    """The values of a state, and whether VDA 5050 has each of its enumeration values."""
    battery, safety = root.part("batteryState"), root.part("safetyState")
    errors, loads = root.items("errors"), root.items("loads", required=False)
    nodes, edges = root.items("nodeStates"), root.items("edgeStates")
    faults = [root.listed("errors", error) for error in errors or []]
    levels = [str(level) for fault in faults if (level := fault.take("errorLevel", "str")) is not None]
    types = [str(word) for fault in faults if (word := fault.take("errorType", "str")) is not None]
    worst_level = max(levels, key=lambda level: ERROR_LEVELS.get(level, 0), default="")
    values: dict[str, Value] = {
        **_pose_values(root)[0],
        "battery_charge": battery.take("batteryCharge", "f64"),
        "battery_voltage": battery.take("batteryVoltage", "f64", required=False),
        "charging": battery.take("charging", "bool"),
        "driving": root.take("driving", "bool"),
        "paused": root.take("paused", "bool", required=False),
        "operating_mode": root.take("operatingMode", "str"),
        "e_stop": safety.take("eStop", "str"),
        "field_violation": safety.take("fieldViolation", "bool"),
        "errors": None if errors is None else len(errors),
        "error_level": None if errors is None else worst_level,
        "error_types": None if errors is None else " ".join(types),
        "loads": None if loads is None else len(loads),
        "order_id": root.take("orderId", "str"),
        "order_update_id": root.take("orderUpdateId", "i64"),
        "last_node_id": root.take("lastNodeId", "str"),
        "last_node_sequence_id": root.take("lastNodeSequenceId", "i64"),
        "nodes_left": None if nodes is None else len(nodes),
        "edges_left": None if edges is None else len(edges),
        "distance_since_last_node": root.take("distanceSinceLastNode", "f64", required=False),
    }
    known = (
        values["operating_mode"] in OPERATING_MODES | {None}
        and values["e_stop"] in E_STOPS | {None}
        and ERROR_LEVELS.keys() >= set(levels)
    )
    return values, known


def _pose_values(root: Part) -> tuple[dict[str, Value], bool]:
    """Position and velocity, and whether the message has one of them."""
    position = root.part("agvPosition", required=False)
    velocity = root.part("velocity", required=False)
    values: dict[str, Value] = {
        "x": position.take("x", "f64"),
        "y": position.take("y", "f64"),
        "theta": position.take("theta", "f64"),
        "map_id": position.take("mapId", "str"),
        "position_initialized": position.take("positionInitialized", "bool"),
        "localization_score": position.take("localizationScore", "f64", required=False),
        "vx": velocity.take("vx", "f64", required=False),
        "vy": velocity.take("vy", "f64", required=False),
        "omega": velocity.take("omega", "f64", required=False),
    }
    return values, position.there or velocity.there


def _route(nodes: list[Part]) -> str:
    """The ids of the nodes by their sequence; as they stand if a number is odd."""
    places = [(each.take("sequenceId", "i64"), str(each.take("nodeId", "str") or "?")) for each in nodes]
    if all(isinstance(number, int) for number, _ in places):
        places.sort(key=lambda place: place[0])  # type: ignore[arg-type,return-value]  # all are numbers
    return " ".join(name for _, name in places)


def _connection_values(state: Value) -> dict[str, Value]:
    known = str(state).strip().upper()
    return {"connection_state": state, "online": known == "ONLINE" if known in CONNECTION_STATES else None}


_READERS: dict[str, Callable[[Vda5050, Message, TopicMessage], Iterable[Reading]]] = {
    "state": Vda5050._state,
    "connection": Vda5050._connection,
    "order": Vda5050._order,
    "visualization": Vda5050._visualization,
}
