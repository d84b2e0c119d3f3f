"""The desired documents of a node: its configuration, its pilot's plan, and what the node reports of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.fleet import Fleet
from collector.rights.user import Action, User, may
from collector.state.audit import Audit, AuditEntry
from collector.state.desired import DesiredDocument, DesiredDocuments, What
from collector.state.pilot_plans import TooManyPlans
from collector.web.bodies import json_answer, read_body
from collector.web.connections import network_of
from collector.web.models import TenantRule
from collector.web.pilot_entries import entry, opened_of
from collector.web.refusals import Refusals
from collector.web.rules import (
    FILTERED,
    NODE,
    Ruled,
    asked_node,
    changes,
    no_such_node,
    node_of,
    sight_of,
    user_of,
)
from wire.clock import Clock
from wire.errors import ConfigError, EdgebedError, WireError
from wire.messages import MAX_BODY, is_deep
from wire.pilot.frozen import MAX_SIGNED, Opened, SignedPlan, read_signed, require_signed, require_sound

PATH = "/api/v1/nodes/{t}/{p}/{s}/{n}/desired"
PILOT_PATH = "/api/v1/nodes/{t}/{p}/{s}/{n}/pilot"
WHOLE_PILOT = "/api/v1/pilots/{tenant}/{pilot}"
WHAT = {"PUT": "desired configuration", "DELETE": "desired configuration withdrawn"}  # in the audit
PILOT_WHAT = {"PUT": "pilot plan", "DELETE": "pilot plan withdrawn"}
_AUDIT: dict[What, dict[str, str]] = {"config": WHAT, "pilot": PILOT_WHAT}
_ENVELOPE = 1_000  # bytes that a message needs beside the document

Section = dict[str, dict[str, Any]]


class DesiredBody(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a request: what replaces the sections of the node's own file."""

    devices: Section | UnsetType = UNSET
    models: Section | UnsetType = UNSET
    publish: Section | UnsetType = UNSET


class _PilotRule(TenantRule):
    """For operators of a node of the tenant; the route asks for each node of the pilot."""

    async def check(self, request: Request) -> None:
        """Refuse as `TenantRule`, about a pilot. Raises as that."""
        try:
            await super().check(request)
        except HTTPException as error:
            raise _no_such_pilot() if error.status_code == HTTPStatus.NOT_FOUND else error from error


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
        pilots = self._refusals.noted_by(changes(Action.CONFIGURE), PILOT_WHAT)
        rule = _PilotRule(str(Action.CONFIGURE), Action.CONFIGURE)
        whole = self._refusals.noted_by(rule, PILOT_WHAT)
        return [
            Ruled("/api/v1/pilots", self.pilots, FILTERED),
            Ruled(WHOLE_PILOT, self.withdraw_whole_pilot, whole, methods=["DELETE"]),
            Ruled(PATH, self.show, NODE),
            Ruled(PATH, self.put, configures, methods=["PUT"]),
            Ruled(PATH, self.withdraw, configures, methods=["DELETE"]),
            Ruled(PILOT_PATH, self.show_pilot, NODE),
            Ruled(PILOT_PATH, self.put_pilot, pilots, methods=["PUT"]),
            Ruled(PILOT_PATH, self.withdraw_pilot, pilots, methods=["DELETE"]),
        ]

    async def show(self, request: Request) -> Response:
        """The newest configuration, and what the node reports."""
        return await self._show(request, "config")

    async def show_pilot(self, request: Request) -> Response:
        """The newest plan, and what the node reports."""
        return await self._show(request, "pilot")

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
            return await self._request(request, "config", doc)

    async def put_pilot(self, request: Request) -> Response:
        """Send a signed plan to a node; the node checks who signed it."""
        async with self._refusals.noted(request, PILOT_WHAT["PUT"]):
            body = await read_body(request, SignedPlan, MAX_SIGNED)
            opened = await asyncio.to_thread(_sound, body)
            node, plan = asked_node(request), opened.plan.plan
            if node not in plan.nodes:
                raise HTTPException(400, f"the plan of the pilot {plan.pilot} does not name {node}")
            await asyncio.to_thread(self._require_free, node, plan.pilot)
            return await self._request(request, "pilot", msgspec.to_builtins(body))

    async def withdraw(self, request: Request) -> Response:
        """Request that the node uses its own file alone."""
        return await self._request(request, "config", {})

    async def withdraw_pilot(self, request: Request) -> Response:
        """Request that the node ends its pilot."""
        return await self._request(request, "pilot", {})

    async def withdraw_whole_pilot(self, request: Request) -> Response:
        """Request that each node of a pilot ends it; the answer names the nodes where it does not end now."""
        tenant, pilot = request.path_params["tenant"], request.path_params["pilot"]
        async with self._refusals.noted(request, PILOT_WHAT["DELETE"]) as subject:
            subject.append(f"{tenant}/{pilot}")
            return json_answer(await asyncio.to_thread(self._end_pilot, _Who.of(request), tenant, pilot))

    async def pilots(self, request: Request) -> Response:
        """The plan of every node that has one."""
        sees = sight_of(request)

        def answer() -> list[dict[str, Any]]:
            found = [each for each in self._documents.all() if each.what == "pilot" and sees(each.node)]
            now_ms = self._clock.now_ms()
            return [
                entry(each, opened, self._fleet, now_ms)
                for each in found
                if (opened := opened_of(each)) is not None
            ]

        return json_answer({"pilots": await asyncio.to_thread(answer)})

    def _require_free(self, node: str, pilot: str) -> None:
        """Raise where a node has another pilot, which a second plan would end before its trial is over."""
        wanted = self._documents.get(node, "pilot")
        opened = None if wanted is None else opened_of(wanted)
        if opened is None or opened.plan.plan.pilot == pilot:
            return
        if self._clock.now_ms() < opened.plan.schedule.trial_ms[1]:
            other = opened.plan.plan.pilot
            text = f"{node} has the pilot {other}, whose trial is not over: withdraw it first"
            raise HTTPException(409, text)

    async def _show(self, request: Request, what: What) -> Response:
        node = node_of(request)
        if node not in self._fleet.names():
            raise await no_such_node(request, asked_node(request))
        return json_answer(await asyncio.to_thread(self._answer, node, what))

    async def _request(self, request: Request, what: What, doc: dict[str, Any]) -> Response:
        node, who = asked_node(request), _Who.of(request)
        if node not in self._fleet.names():
            raise await no_such_node(request, node)

        def act() -> dict[str, Any]:
            try:
                self._keep(node, who, what, doc)
            except TooManyPlans as error:
                raise HTTPException(409, str(error)) from error
            return self._answer(node, what)

        return json_answer(await asyncio.to_thread(act))

    def _keep(self, node: str, who: _Who, what: What, doc: dict[str, Any]) -> None:
        """Keep a document, send it to its node, and note that."""
        reported, now = self._fleet.reported(node, what), self._clock.now_ms()
        after = 0 if reported is None else reported.ver
        made = self._documents.put(node, doc, by=who.user.name, at_ms=now, after=after, what=what)
        self._publish(made)
        act, result = _AUDIT[what]["PUT" if doc else "DELETE"], f"version {made.ver}"
        self._audit.note(AuditEntry(now, who.user.name, act, node, who.address, result, node))

    def _end_pilot(self, who: _Who, tenant: str, pilot: str) -> dict[str, Any]:
        """Withdraw a pilot from each node that has it and that the user may configure."""
        having = [
            each.node
            for each in self._documents.all()
            if each.what == "pilot" and each.node.startswith(f"{tenant}/") and _pilot_of(each) == pilot
        ]
        seen = [node for node in having if may(who.user, Action.VIEW, node)]
        if not seen:
            raise _no_such_pilot()
        asked = [node for node in seen if may(who.user, Action.CONFIGURE, node)]
        if not asked:
            text = f"{who.user.name} may see the nodes of {pilot}, but not configure them: a higher role may"
            raise HTTPException(403, text)
        failed = {}
        for node in asked:
            try:
                self._keep(node, who, "pilot", {})
            except EdgebedError as error:  # the other nodes end it all the same
                failed[node] = str(error)
        ended = [node for node in asked if node not in failed]
        return {
            "tenant": tenant,
            "pilot": pilot,
            "withdrawn": ended,
            "offline": [node for node in ended if not self._fleet.is_online(node)],
            "refused": [node for node in seen if node not in asked],
            "failed": failed,
            "hidden": len(having) - len(seen),
        }

    def _answer(self, node: str, what: What) -> dict[str, Any]:
        wanted, reported = self._documents.get(node, what), self._fleet.reported(node, what)
        shown = None
        if wanted is not None:
            shown = {"ver": wanted.ver, "ts": wanted.at_ms, "by": wanted.by, "doc": wanted.doc}
        key = "desired" if what == "config" else what
        return {"node": node, key: shown, "reported": msgspec.to_builtins(reported)}


@dataclass(frozen=True, slots=True)
class _Who:
    """Who asks, and from where."""

    user: User
    address: str

    @classmethod
    def of(cls, request: Request) -> _Who:
        return cls(user_of(request), network_of(request.client.host if request.client else ""))


def _pilot_of(document: DesiredDocument) -> str | None:
    opened = opened_of(document)
    return None if opened is None else opened.plan.plan.pilot


def _no_such_pilot() -> HTTPException:
    return HTTPException(404, "no node that you may see has this pilot")


def _sound(body: SignedPlan) -> Opened:
    """The plan in an envelope, held to what `edgebed pilot freeze` asks before it sends one.

    Raises:
        HTTPException: 400, with every mistake.
    """
    name = "the plan"
    try:
        opened = read_signed(msgspec.json.encode(body))
        require_sound(opened, name)
        require_signed(opened, name)
    except ConfigError as error:
        raise HTTPException(400, "; ".join(error.mistakes)[:2_000]) from error
    except WireError as error:
        raise HTTPException(400, str(error)) from error
    return opened
