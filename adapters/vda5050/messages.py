"""The parts of VDA 5050 version 2 messages that are read; other keys are ignored.

Names and required keys are those of the JSON schemas of versions 2.0 and 2.1.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

OPERATING_MODES = frozenset({"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL", "SERVICE", "TEACHIN"})
E_STOPS = frozenset({"AUTOACK", "MANUAL", "REMOTE", "NONE"})
CONNECTION_STATES = frozenset({"ONLINE", "OFFLINE", "CONNECTIONBROKEN"})
ERROR_LEVELS = {"WARNING": 1, "FATAL": 2}  # error level -> severity

Number = Annotated[int, Meta(ge=0, le=2**62)]
Name = Annotated[str, Meta(max_length=2_000)]


class Header(Struct, rename="camel", kw_only=True):
    """The header of every message; `timestamp` is ISO 8601 in UTC."""

    header_id: Number
    timestamp: Name
    version: Name
    manufacturer: Name
    serial_number: Name


class AgvPosition(Struct, rename="camel", kw_only=True):
    """Position on the map, m and rad."""

    x: float
    y: float
    theta: float
    map_id: Name
    position_initialized: bool
    localization_score: float | None = None


class Velocity(Struct, rename="camel", kw_only=True):
    """Velocity in the vehicle's own directions, m/s and rad/s."""

    vx: float | None = None
    vy: float | None = None
    omega: float | None = None


class BatteryState(Struct, rename="camel", kw_only=True):
    """Charge in %, voltage in V."""

    battery_charge: float
    charging: bool
    battery_voltage: float | None = None


class Error(Struct, rename="camel", kw_only=True):
    """One active error."""

    error_type: Name
    error_level: Name


class SafetyState(Struct, rename="camel", kw_only=True):
    """The reasons why the vehicle may not move."""

    e_stop: Name
    field_violation: bool


class OrderNodeState(Struct, rename="camel", kw_only=True):
    """In a state, a node that the vehicle has not reached yet; in an order, any node."""

    node_id: Name
    sequence_id: Number
    released: bool


class EdgeState(Struct, rename="camel", kw_only=True):
    """In a state, an edge that the vehicle has not passed yet; in an order, any edge."""

    edge_id: Name
    sequence_id: Number
    released: bool


class Load(Struct):
    """One load of the vehicle; only counted."""


class State(Header, rename="camel", kw_only=True):
    """Topic `state`: sent at each event, and at least every 30 s."""

    order_id: Name
    order_update_id: Number
    last_node_id: Name
    last_node_sequence_id: Number
    driving: bool
    operating_mode: Name
    node_states: list[OrderNodeState]
    edge_states: list[EdgeState]
    battery_state: BatteryState
    errors: list[Error]
    safety_state: SafetyState
    paused: bool | None = None
    distance_since_last_node: float | None = None
    agv_position: AgvPosition | None = None
    velocity: Velocity | None = None
    loads: list[Load] | None = None


class ConnectionMessage(Header, rename="camel", kw_only=True):
    """Topic `connection`, retained; CONNECTIONBROKEN is the vehicle's last will."""

    connection_state: Name


class Visualization(Header, rename="camel", kw_only=True):
    """Topic `visualization`: position and velocity at a rate of the vehicle's choice."""

    agv_position: AgvPosition | None = None
    velocity: Velocity | None = None


class Order(Header, rename="camel", kw_only=True):
    """Topic `order`, from the fleet control to the vehicle."""

    order_id: Name
    order_update_id: Number
    nodes: list[OrderNodeState]
    edges: list[EdgeState]
