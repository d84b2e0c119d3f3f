"""Reads and checks an order that came over MQTT."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from simulators.plants.amr_plan import GRID, Job

_LARGEST = 1_000_000  # bytes
_MOST_NODES = 200
_HALL_M = 1_000.0


class OrderRefused(ValueError):
    """The vehicle cannot do this order; the text goes into its errors."""


def job_of(body: bytes, identity: Mapping[str, str]) -> Job:
    """Return the released nodes of an order, sorted by their sequence ids.

    Raises:
        OrderRefused: the body is not an order, it is for another vehicle, or a place is unknown.
    """
    if len(body) > _LARGEST:
        raise OrderRefused("the order is too large")
    try:
        order = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OrderRefused("the order is not JSON") from error
    try:
        if any(order[key] != value for key, value in identity.items()):
            raise OrderRefused("the order is for another vehicle")
        order_id, update_id = str(order["orderId"]), int(order["orderUpdateId"])
        nodes = sorted(
            (node for node in order["nodes"] if node["released"]), key=lambda n: int(n["sequenceId"])
        )
        if update_id:
            raise OrderRefused("this vehicle takes no updates of an order")
        if not order_id or not 1 <= len(nodes) <= _MOST_NODES:
            raise OrderRefused(f"an order has an id and 1 to {_MOST_NODES} released nodes")
        return Job(order_id, tuple(_place(node) for node in nodes))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OrderRefused):
            raise
        raise OrderRefused(f"the order does not follow VDA 5050: {error!r}"[:200]) from error


def _place(node: Mapping[str, Any]) -> tuple[str, float, float]:
    name, position = str(node["nodeId"]), node.get("nodePosition")
    if position is None:
        if name not in GRID:
            raise OrderRefused(f"node {name[:40]!r} has no position and is not on the map")
        return (name, *GRID[name])
    x, y = float(position["x"]), float(position["y"])
    if not (math.hypot(x, y) <= _HALL_M):
        raise OrderRefused(f"node {name[:40]!r} is not in the hall")
    return name, x, y
