"""The routes of the enrolment service for administrators on other machines."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
from msgspec import Struct

from edgebed.site import node_acts
from edgebed.site.admins import Admin
from edgebed.site.layout import Layout
from edgebed.site.node_wire import (
    ADD_PATH,
    LIST_PATH,
    REMOVE_PATH,
    AddNode,
    ListNodes,
    NodeStates,
    RemoveNode,
)
from wire.topics import Address

Note = Callable[[str, str], None]  # what, and the node
Act = Callable[[Layout, datetime, Admin, bytes, Note], Struct]


def _add(layout: Layout, now: datetime, admin: Admin, body: bytes, note: Note) -> Struct:
    asked = msgspec.json.decode(body, type=AddNode)
    node = _checked(admin, asked.node)
    found = node_acts.add(layout, node, now, asked.hours, renew=asked.renew)
    note("token", node.text)
    return found


def _list(layout: Layout, now: datetime, admin: Admin, body: bytes, _note: Note) -> Struct:
    msgspec.json.decode(body, type=ListNodes)
    return NodeStates([one for one in node_acts.states(layout, now) if admin.covers(one.node)])


def _remove(layout: Layout, now: datetime, admin: Admin, body: bytes, note: Note) -> Struct:
    node = _checked(admin, msgspec.json.decode(body, type=RemoveNode).node)
    found = node_acts.remove(layout, node, now, admin.covers)
    note("removal", node.text)
    return found


def _checked(admin: Admin, text: str) -> Address:
    node = Address.parse(text)
    admin.check(node)
    return node


ACTS: dict[str, Act] = {ADD_PATH: _add, LIST_PATH: _list, REMOVE_PATH: _remove}
