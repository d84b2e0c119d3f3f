"""The desired configuration of a node: what was requested, and what the node reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.fleet import Fleet
from collector.rights.user import Action
from collector.state.audit import Audit, AuditEntry
from collector.state.desired import DesiredDocument, DesiredDocuments
from collector.web.bodies import json_answer, read_body
from collector.web.connections import network_of
from collector.web.refusals import Refusals
from collector.web.rules import NODE, Ruled, asked_node, changes, no_such_node, node_of, user_of
from wire.clock import Clock
from wire.messages import MAX_BODY, is_deep

PATH = "/api/v1/nodes/{t}/{p}/{s}/{n}/desired"
WHAT = {"PUT": "desired configuration", "DELETE": "desired configuration withdrawn"}  # in the audit
_ENVELOPE = 1_000  # bytes that a message needs beside the document

Section = dict[str, dict[str, Any]]


class DesiredBody(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a request: what replaces the sections of the node's own file."""

    devices: Section | UnsetType = UNSET
    models: Section | UnsetType = UNSET
    publish: Section | UnsetType = UNSET


class DesiredRoutes:
    """The routes; `publish` sends a document to its node, retained."""

    def __init__(
        self,
        documents: DesiredDocuments,
        fleet: Fleet,
        audit: Audit,
        clock: Clock,
        publish: Callable[[DesiredDocument], None],
    ) -> None:
        self._documents = documents
        self._fleet = fleet
        self._audit = audit
        self._refusals = Refusals(fleet, audit, clock)
        self._clock = clock
        self._publish = publish

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        configures = self._refusals.noted_by(changes(Action.CONFIGURE), WHAT)
        return [
            Ruled(PATH, self.show, NODE),
            Ruled(PATH, self.put, configures, methods=["PUT"]),
            Ruled(PATH, self.withdraw, configures, methods=["DELETE"]),
        ]

    async def show(self, request: Request) -> Response:
        """The newest document, and what the node reports."""
        node = node_of(request)
        if node not in self._fleet.names():
            raise await no_such_node(request, asked_node(request))
        return json_answer(await asyncio.to_thread(self._answer, node))

    async def put(self, request: Request) -> Response:
        """Request a configuration."""
        async with self._refusals.noted(request, WHAT["PUT"]):
            body = await read_body(request, DesiredBody, MAX_BODY)
            doc: dict[str, Any] = msgspec.to_builtins(body)
            if not doc:
                raise HTTPException(400, "send devices, models or publish; to withdraw, send DELETE")
            if is_deep(doc):
                raise HTTPException(400, "the body nests too deep")
            if len(msgspec.json.encode(doc)) > MAX_BODY - _ENVELOPE:
                raise HTTPException(413, f"the document has more than {MAX_BODY - _ENVELOPE} bytes")
            return await self._request(request, doc)

    async def withdraw(self, request: Request) -> Response:
        """Request that the node uses its own file alone."""
        return await self._request(request, {})

    async def _request(self, request: Request, doc: dict[str, Any]) -> Response:
        node, user = asked_node(request), user_of(request)
        if node not in self._fleet.names():
            raise await no_such_node(request, node)
        what = WHAT["PUT" if doc else "DELETE"]
        address = network_of(request.client.host if request.client else "")
        now = self._clock.now_ms()

        def act() -> dict[str, Any]:
            reported = self._fleet.reported(node)
            after = 0 if reported is None else reported.ver
            made = self._documents.put(node, doc, by=user.name, at_ms=now, after=after)
            self._publish(made)
            entry = AuditEntry(now, user.name, what, node, address, f"version {made.ver}", node)
            self._audit.note(entry)
            return self._answer(node)

        return json_answer(await asyncio.to_thread(act))

    def _answer(self, node: str) -> dict[str, Any]:
        wanted, reported = self._documents.get(node), self._fleet.reported(node)
        shown = None
        if wanted is not None:
            shown = {"ver": wanted.ver, "ts": wanted.at_ms, "by": wanted.by, "doc": wanted.doc}
        return {"node": node, "desired": shown, "reported": msgspec.to_builtins(reported)}
