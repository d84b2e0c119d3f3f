"""What `edgebed node --url` and the enrolment service send each other, as JSON over HTTPS."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

ADD_PATH, LIST_PATH, REMOVE_PATH = "/api/v1/nodes/add", "/api/v1/nodes/list", "/api/v1/nodes/remove"
MAX_HOURS = 24 * 90
MAX_LIST = 16 * 1024 * 1024  # bytes

_Node = Annotated[str, Meta(min_length=1, max_length=200)]


class AddNode(Struct, forbid_unknown_fields=True):
    """A request for a one-time token; `renew`: also if the node has a certificate."""

    node: _Node
    hours: Annotated[float, Meta(ge=0.01, le=MAX_HOURS)] = 24.0
    renew: bool = False


class AddedNode(Struct):
    """The token; it is in this answer alone."""

    node: str
    token: str
    ends: datetime


class ListNodes(Struct, forbid_unknown_fields=True):
    """A request for the nodes that the administrator may manage."""


class NodeState(Struct):
    """A node with a certificate until `ends`, a removed one, or one with an unused token until `ends`."""

    node: str
    state: Literal["certificate", "removed", "token"]
    ends: datetime | None = None


class NodeStates(Struct):
    """The nodes."""

    nodes: list[NodeState]


class RemoveNode(Struct, forbid_unknown_fields=True):
    """A request to take every certificate and token of a node away."""

    node: _Node


class RemovedNode(Struct):
    """What was taken away, and what is left to do at the broker."""

    node: str
    had_certificate: bool
    left: list[str]
