"""The commands for a node: requests them, shows what became of them, and withdraws what was not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.commands import CommandDispatch, NotQueued
from collector.fleet.fleet import Fleet
from collector.rights.user import Action
from collector.state.audit import Audit
from collector.state.commands import CommandRecord, CommandRecords, OtherCommand, TooManyCommands
from collector.web.bodies import json_answer, read_body
from collector.web.connections import network_of
from collector.web.parameters import number, unknown
from collector.web.refusals import Refusals
from collector.web.rules import NODE, Ruled, asked_node, changes, no_such_node, node_of, user_of
from wire.clock import Clock
from wire.messages import is_deep
from wire.topics import ID, NODE_ITSELF
from wire.ulid import is_ulid, new_ulid

PATH = "/api/v1/nodes/{t}/{p}/{s}/{n}/commands"
MAX_ARGS = 8_000  # bytes
MAX_TTL_MS = 86_400_000
DEFAULT_TTL_MS = 60_000
MAX_PAGE = 100  # commands of one answer
WHAT = {"POST": "command", "DELETE": "command withdrawn"}  # in the audit

T = TypeVar("T")


class CommandBody(Struct, forbid_unknown_fields=True):
    """The body of a request; without an `id` the collector gives one."""

    name: str
    device: str = NODE_ITSELF
    args: dict[str, Any] = {}
    ttl_ms: int = DEFAULT_TTL_MS
    id: str = ""


class CommandRoutes:
    """The routes."""

    def __init__(
        self, records: CommandRecords, dispatch: CommandDispatch, fleet: Fleet, audit: Audit, clock: Clock
    ) -> None:
        self._records = records
        self._dispatch = dispatch
        self._fleet = fleet
        self._clock = clock
        self._refusals = Refusals(fleet, audit, clock)

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        commands = self._refusals.noted_by(changes(Action.COMMAND), WHAT)
        return [
            Ruled(PATH, self.newest, NODE),
            Ruled(PATH, self.request, commands, methods=["POST"]),
            Ruled(PATH + "/{id}", self.show, NODE),
            Ruled(PATH + "/{id}", self.withdraw, commands, methods=["DELETE"]),
        ]

    async def newest(self, request: Request) -> Response:
        """The commands of a node, the newest first."""
        node = await self._node(request)
        limit = number(request, "limit", 50, 1, MAX_PAGE)
        before = number(request, "before", 2**53, 1, 2**53)
        found = await asyncio.to_thread(self._records.newest, node, limit, before=before)
        more = found[-1].n if len(found) == limit else None
        return json_answer({"node": node, "commands": [one.shown() for one in found], "next": more})

    async def show(self, request: Request) -> Response:
        """One command of a node."""
        node, identity = await self._node(request), request.path_params["id"]
        found = await asyncio.to_thread(self._records.get, node, identity)
        return json_answer(_found(found, identity).shown())

    async def request(self, request: Request) -> Response:
        """Request a command; a repeated id gives the command that has it."""
        async with self._refusals.noted(request, WHAT["POST"]) as subject:
            node = await self._node(request)
            body = await read_body(request, CommandBody)
            subject.append(f"{body.device}/{body.name} {body.id}"[:200])
            self._check(node, body)
            now = self._clock.now_ms()
            identity = body.id or new_ulid(now)
            by = user_of(request).name
            wanted = CommandRecord(node, identity, body.device, body.name, body.args, by, now, body.ttl_ms)
            record, is_new = await _refusable(lambda: self._dispatch.request(wanted, _origin(request)))
        return json_answer(record.shown(), 201 if is_new else 200)

    async def withdraw(self, request: Request) -> Response:
        """Withdraw a command that was not sent yet."""
        identity = request.path_params["id"]
        async with self._refusals.noted(request, WHAT["DELETE"]) as subject:
            node = await self._node(request)
            subject.append(identity[:40])
            by, origin = user_of(request).name, _origin(request)
            found = await _refusable(lambda: self._dispatch.withdraw(node, identity, by, origin))
            record = _found(found, identity)
        return json_answer(record.shown())

    async def _node(self, request: Request) -> str:
        node = node_of(request)
        if node not in self._fleet.names():
            raise await no_such_node(request, asked_node(request))
        return node

    def _check(self, node: str, body: CommandBody) -> None:
        """Refuse what no node can run.

        Raises:
            HTTPException: 400, what is wrong; 413, the args are too large.
        """
        if body.id and not is_ulid(body.id):
            raise HTTPException(
                400,
                f"id {body.id[:40]!r} is not a ULID: 26 of the characters 0-9 and A-Z without I, L, O and U, "
                "the first one 0 to 7",
            )
        if not 1 <= body.ttl_ms <= MAX_TTL_MS:
            raise HTTPException(400, f"ttl_ms is not from 1 to {MAX_TTL_MS}, a day")
        if not ID.fullmatch(body.name):
            raise HTTPException(400, f"name {body.name[:40]!r} is not the name of a command")
        if body.device != NODE_ITSELF and not ID.fullmatch(body.device):
            raise HTTPException(400, f"device {body.device[:40]!r} is not a device; _ is the node itself")
        if is_deep(body.args):
            raise HTTPException(400, "args nest too deep")
        if len(msgspec.json.encode(body.args)) > MAX_ARGS:
            raise HTTPException(413, f"args have more than {MAX_ARGS} bytes")
        birth = self._fleet.birth(node)
        if birth is None:  # the node itself judges
            return
        declared = {one.name: one.device for one in birth.cmds}
        if body.name not in declared:
            raise HTTPException(400, unknown("command", body.name, declared))
        if declared[body.name] == NODE_ITSELF != body.device:
            raise HTTPException(400, f"{body.name} is a command of the node itself: leave out device")


def _origin(request: Request) -> str:
    return network_of(request.client.host if request.client else "")


def _found(record: CommandRecord | None, identity: str) -> CommandRecord:
    if record is None:
        raise HTTPException(404, f"the node has no command {identity[:40]!r}")
    return record


async def _refusable(act: Callable[[], T]) -> T:
    """Run an act in a thread; what it refuses becomes an HTTP error."""
    try:
        return await asyncio.to_thread(act)
    except (OtherCommand, NotQueued) as error:
        raise HTTPException(409, str(error)) from error
    except TooManyCommands as error:
        raise HTTPException(429, str(error)) from error
