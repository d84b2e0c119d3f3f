"""Reads an automated vehicle that uses VDA 5050 version 2 over MQTT: its state, connection and orders.

    {interface}/v2/{manufacturer}/{serial}/state | connection | order | visualization

Facts are from the VDA 5050 recommendation, versions 2.0 and 2.1, and its JSON schemas. This adapter only
reads: edgebed never sends an order or an instant action; only the fleet control moves a vehicle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

from adapters.base import OptionsError, ProtocolViolation, Reading, Value
from adapters.device_time import checked_time
from adapters.mqtt.payload import Unusable, iso_ns, parse_json
from adapters.mqtt.session import MqttAdapter, TopicMessage
from adapters.vda5050.messages import (
    CONNECTION_STATES,
    E_STOPS,
    ERROR_LEVELS,
    OPERATING_MODES,
    ConnectionMessage,
    Header,
    Order,
    State,
    Visualization,
)
from adapters.vda5050.options import Vda5050Options
from wire.clock import Clock
from wire.messages import Field, Quality, Stream

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
H = TypeVar("H", bound=Header)


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
        for name in ("manufacturer", "serial", "interface"):
            if any(sign in getattr(options, name) for sign in "/+#\0"):
                raise OptionsError(
                    f"{name} {getattr(options, name)!r} is not a topic level: it contains / + or #"
                )
        super().__init__(options, clock)
        self._header_ids: dict[str, int] = {}
        self._retained_state = ""
        self._last_report = ""

    def topics(self) -> list[str]:
        """One topic for each kind of message that is read."""
        options = self.options
        base = f"{options.interface}/v2/{options.manufacturer}/{options.serial}"
        kinds = ["state", "connection"]
        kinds += ["order"] * options.orders + ["visualization"] * options.visualization
        return [f"{base}/{kind}" for kind in kinds]

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.silence_s

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
        if kind == "connection":
            return self._connection(message)
        if message.retained:  # only connection messages are retained (6.3); a retained state may be old
            raise Unusable("retained", f"a retained {kind} message is of unknown age")
        if kind == "state":
            return self._state(message)
        return self._order(message) if kind == "order" else self._visualization(message)

    def alive(self, reading: Reading) -> bool:
        """True except for orders: the fleet control sends them, not the vehicle."""
        return reading.stream != "orders"

    def last_report(self) -> str:
        """What the vehicle last reported of its connection."""
        return self._last_report

    def _state(self, message: TopicMessage) -> Iterable[Reading]:
        state = self._parsed(message, State)
        values, quality = _state_values(state)
        values["error_types"] = self._cut(str(values["error_types"]))
        if quality:
            self.counters["unknown_word"] += 1
        if state.agv_position is not None and not state.agv_position.position_initialized:
            quality = quality.worse(Quality.UNCERTAIN)
        at_ns, time_quality = self._at(state, message)
        rows = [Reading("state", at_ns, values, quality=quality.worse(time_quality))]
        if retained := self._retained_state:
            self._retained_state = ""
            agreement = Quality.GOOD if retained == "ONLINE" else Quality.UNCERTAIN
            rows.append(Reading("connection", message.at_ns, _connection_values(retained), quality=agreement))
        return rows

    def _connection(self, message: TopicMessage) -> Iterable[Reading]:
        connection = self._parsed(message, ConnectionMessage, counted=not message.retained)
        state = connection.connection_state
        if message.retained:
            self._retained_state = state
            self._last_report = f"; the last state of its connection at the broker is {state}"
            return []
        reported = f"; the vehicle reported {state} at {connection.timestamp}"
        self._last_report = "" if state == "ONLINE" else reported
        quality = Quality.GOOD if state in CONNECTION_STATES else Quality.UNCERTAIN
        self._retained_state = ""
        return [Reading("connection", message.at_ns, _connection_values(state), quality=quality)]

    def _order(self, message: TopicMessage) -> Iterable[Reading]:
        order = parse_json(message.body, Order)
        options = self.options
        if (order.manufacturer, order.serial_number) != (options.manufacturer, options.serial):
            raise Unusable("foreign_order", f"the order is for {order.manufacturer}/{order.serial_number}")
        self._check_header_id("order", order.header_id)
        route = " ".join(node.node_id for node in sorted(order.nodes, key=lambda node: node.sequence_id))
        at_ns, quality = self._at(order, message)
        values: dict[str, Value] = {
            "order_id": order.order_id,
            "order_update_id": order.order_update_id,
            "nodes": len(order.nodes),
            "released_nodes": sum(node.released for node in order.nodes),
            "edges": len(order.edges),
            "route": self._cut(route),
        }
        return [Reading("orders", at_ns, values, quality=quality)]

    def _visualization(self, message: TopicMessage) -> Iterable[Reading]:
        seen = self._parsed(message, Visualization)
        if seen.agv_position is None and seen.velocity is None:
            raise Unusable("no_fields", "the visualization has no position and no velocity")
        at_ns, quality = self._at(seen, message)
        return [Reading("visualization", at_ns, _pose_values(seen), quality=quality)]

    def _cut(self, text: str) -> str:
        if len(text) <= _LONGEST_TEXT:
            return text
        self.counters["text_cut"] += 1
        return text[: _LONGEST_TEXT - 1] + "…"

    # --- the header of every message

    def _parsed(self, message: TopicMessage, kind: type[H], *, counted: bool = True) -> H:
        """A parsed message of the vehicle; its header must name the vehicle of the options."""
        found = parse_json(message.body, kind)
        options = self.options
        declared = (options.manufacturer, options.serial)
        if (found.manufacturer, found.serial_number) != declared:
            raise ProtocolViolation(
                f"messages on {message.topic} are from"
                f" {found.manufacturer[:128]}/{found.serial_number[:128]}, not {'/'.join(declared)}"
            )
        if found.version.partition(".")[0] != "2":
            raise ProtocolViolation(
                f"{'/'.join(declared)} uses VDA 5050 {found.version[:32]}: this adapter reads version 2"
            )
        if counted:
            self._check_header_id(message.topic.rpartition("/")[2], found.header_id)
        return found

    def _check_header_id(self, kind: str, header_id: int) -> None:
        """Count missing messages: each topic numbers its messages without gaps."""
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

    def _at(self, header: Header, message: TopicMessage) -> tuple[int, Quality]:
        return checked_time(iso_ns(header.timestamp), message.at_ns, self.options.max_skew_s, self.counters)


def _state_values(state: State) -> tuple[dict[str, Value], Quality]:
    """The values of a state; UNCERTAIN if it contains an enumeration value that VDA 5050 does not have."""
    levels = [error.error_level for error in state.errors]
    worst_level = max(levels, key=lambda level: ERROR_LEVELS.get(level, 0), default="")
    known = (
        state.operating_mode in OPERATING_MODES
        and state.safety_state.e_stop in E_STOPS
        and ERROR_LEVELS.keys() >= set(levels)
    )
    values: dict[str, Value] = {
        **_pose_values(state),
        "battery_charge": state.battery_state.battery_charge,
        "battery_voltage": state.battery_state.battery_voltage,
        "charging": state.battery_state.charging,
        "driving": state.driving,
        "paused": state.paused,
        "operating_mode": state.operating_mode,
        "e_stop": state.safety_state.e_stop,
        "field_violation": state.safety_state.field_violation,
        "errors": len(state.errors),
        "error_level": worst_level,
        "error_types": " ".join(error.error_type for error in state.errors),
        "loads": None if state.loads is None else len(state.loads),
        "order_id": state.order_id,
        "order_update_id": state.order_update_id,
        "last_node_id": state.last_node_id,
        "last_node_sequence_id": state.last_node_sequence_id,
        "nodes_left": len(state.node_states),
        "edges_left": len(state.edge_states),
        "distance_since_last_node": state.distance_since_last_node,
    }
    return values, Quality.GOOD if known else Quality.UNCERTAIN


def _pose_values(message: State | Visualization) -> dict[str, Value]:
    values: dict[str, Value] = dict.fromkeys(_POSE)
    if (position := message.agv_position) is not None:
        values.update({name: getattr(position, name) for name in position.__struct_fields__})
    if (velocity := message.velocity) is not None:
        values.update({name: getattr(velocity, name) for name in velocity.__struct_fields__})
    return values


def _connection_values(state: str) -> dict[str, Value]:
    return {"connection_state": state, "online": state == "ONLINE"}
