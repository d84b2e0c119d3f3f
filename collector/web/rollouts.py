"""Rollouts of model versions: an operator starts and steers them, everyone who sees a node sees its part."""

from __future__ import annotations

import asyncio
import fnmatch
import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, get_args

import msgspec
from msgspec import UNSET, Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.fleet import Fleet
from collector.rights.user import Action, User, may
from collector.rollout import engine
from collector.rollout.candidates import candidates
from collector.rollout.driver import Rollouts
from collector.rollout.engine import NotNow, Rollout
from collector.rollout.gates import slot_of, stage_gates
from collector.rollout.packages import Kept, Packages
from collector.rollout.promotion import Least, lack
from collector.rollout.records import MAX_KEPT, SlotBusy
from collector.rollout.stages import read_stages
from collector.state.audit import Audit, AuditEntry
from collector.web.bodies import json_answer, read_body
from collector.web.connections import network_of
from collector.web.models import TenantRule
from collector.web.parameters import number, unknown
from collector.web.rules import FILTERED, Ruled, user_of
from wire.clock import Clock
from wire.messages import ModelSlot, ModelState
from wire.model_offer import Confirm
from wire.topics import ID

ALL = "/api/v1/rollouts"
OF_TENANT = ALL + "/{tenant}"
CANDIDATES = "/api/v1/candidates"
MAX_NODES = 5_000  # of one rollout
ACTS = ("pause", "resume", "abort", "rollback")


class RolloutBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """What starts a rollout; `model` is `name@version` or `sha256:...`, `nodes` a pattern or names."""

    model: str
    slot: str
    nodes: str | Annotated[list[str], Meta(min_length=1, max_length=MAX_NODES)]
    stages: str = "1,25%,100%"
    confirm: Confirm = Confirm()
    timeout_s: Annotated[float, Meta(ge=1, le=2_592_000)] = 7_200.0
    max_failed: Annotated[int, Meta(ge=0, le=MAX_NODES)] = 0


class PromoteBody(RolloutBody, forbid_unknown_fields=True, kw_only=True):
    """The body that promotes a second model in shadow: a rollout, and what the evidence must show."""

    evidence: Least = Least()
    skip_offline: bool = False


class RolloutRoutes:
    """The routes."""

    def __init__(
        self, rollouts: Rollouts, packages: Packages, fleet: Fleet, audit: Audit, clock: Clock
    ) -> None:
        self._rollouts = rollouts
        self._audit = audit
        self._packages = packages
        self._fleet = fleet
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        rule = TenantRule(str(Action.CONFIGURE), Action.CONFIGURE)
        return [
            Ruled(ALL, self.newest, FILTERED),
            Ruled(CANDIDATES, self.candidates, FILTERED),
            Ruled(OF_TENANT, self.start, rule, methods=["POST"]),
            Ruled(OF_TENANT + "/promote", self.promote, rule, methods=["POST"]),
            Ruled(OF_TENANT + "/{id}", self.show, FILTERED),
            Ruled(OF_TENANT + "/{id}/{act}", self.act, rule, methods=["POST"]),
        ]

    async def newest(self, request: Request) -> Response:
        """The newest rollouts, the newest first, each with the counts of the nodes that who asks may see."""
        limit, sees = number(request, "limit", 100, 1, MAX_KEPT), self._sight(user_of(request))

        def shown() -> list[dict[str, Any]]:
            found = self._rollouts.records.newest(limit)
            return [_head(one, seen) for one in found if (seen := list(filter(sees, one.devices)))]

        return json_answer({"rollouts": await asyncio.to_thread(shown)})

    async def show(self, request: Request) -> Response:
        """One rollout; `state`, `from` and `limit` choose some of its nodes."""
        tenant, identity = request.path_params["tenant"], request.path_params["id"]
        state, states = request.query_params.get("state", ""), get_args(engine.DeviceState)
        if state and state not in states:
            raise HTTPException(400, unknown("state", state, states))
        part = _Part(
            state, number(request, "from", 0, 0, MAX_NODES), number(request, "limit", MAX_NODES, 1, MAX_NODES)
        )
        found = await asyncio.to_thread(self._rollouts.records.get, tenant, identity)
        user = user_of(request)
        shown = None if found is None else await asyncio.to_thread(self._shown, found, user, part)
        if shown is None:
            raise _no_rollout()
        return json_answer(shown)

    async def start(self, request: Request) -> Response:
        """Start a rollout."""
        body = await read_body(request, RolloutBody)
        kept = await self._kept(request, body)
        made = await self._begin(request, body, kept, self._nodes(request, body), "rollout started")
        return json_answer(made, 201)

    async def candidates(self, request: Request) -> Response:
        """The second models in shadow on the nodes that who asks may see, and which nodes lack evidence."""
        least, sees = Least(), self._sight(user_of(request))
        kept = await asyncio.to_thread(self._packages.ls)
        found = await asyncio.to_thread(candidates, self._fleet, sees, kept, least)
        return json_answer({"candidates": found, **_plain(least)})

    async def promote(self, request: Request) -> Response:
        """Start a rollout of a second model, if every node has the evidence for it."""
        body = await read_body(request, PromoteBody)
        kept, nodes = await self._kept(request, body), self._nodes(request, body)
        online = frozenset(filter(self._fleet.is_online, nodes))
        names = [node for node in nodes if node in online or not body.skip_offline]
        if not names:
            raise HTTPException(400, f"each of the {len(nodes)} nodes is offline: none has evidence of now")
        reasons = {
            node: lack(self._fleet.model(node, body.slot), kept, body.evidence, online=node in online)
            for node in names
        }
        lacks = [{"node": node, **why.fields()} for node, why in reasons.items() if why.why]
        if lacks:
            text = f"{kept.ref} is not promoted: {len(lacks)} of {len(names)} nodes lack the evidence"
            entry = self._audited(
                request, "rollout promoted", f"{kept.ref} in {body.slot}", f"refused: {text}"
            )
            await asyncio.to_thread(self._audit.add, entry)
            return json_answer({"error": text, "lacks": lacks}, 409)
        made = await self._begin(request, body, kept, names, "rollout promoted")
        return json_answer({**made, "skipped": [node for node in nodes if node not in reasons]}, 201)

    async def _kept(self, request: Request, body: RolloutBody) -> Kept:
        tenant = request.path_params["tenant"]
        return _named(body.model, tenant, await asyncio.to_thread(self._packages.ls, tenant))

    async def _begin(
        self, request: Request, body: RolloutBody, kept: Kept, names: list[str], what: str
    ) -> dict[str, Any]:
        """Keep a new rollout; what is shown of it."""
        user = user_of(request)
        try:
            stages = read_stages(body.stages, len(names))
        except ValueError as error:
            raise HTTPException(400, f"{error}; stages are such as 1,25%,100%") from error
        now = self._clock.now_ms()
        made = Rollout(
            id=self._rollouts.new_id(),
            tenant=kept.tenant,
            slot=body.slot,
            digest=kept.digest,
            ref=kept.ref,
            by=user.name,
            ts=now,
            since=now,
            stages=stages,
            confirm=body.confirm,
            timeout_ms=int(body.timeout_s * 1000),
            max_failed=body.max_failed,
            devices={name: engine.Device() for name in names},
        )
        entry = self._entry(request, made, what, f"{len(names)} nodes, stages {body.stages[:80]}")
        try:
            made = await asyncio.to_thread(self._rollouts.start, made, entry)
        except SlotBusy as error:
            raise HTTPException(409, str(error)) from error
        return self._shown(made, user) or {}

    async def act(self, request: Request) -> Response:
        """Pause, resume, abort or roll back a rollout."""
        user, act = user_of(request), request.path_params["act"]
        tenant, identity = request.path_params["tenant"], request.path_params["id"]
        if act not in ACTS:
            raise HTTPException(404, unknown("act", act, ACTS))
        found = await asyncio.to_thread(self._rollouts.records.get, tenant, identity)
        if found is None or self._shown(found, user) is None:
            raise _no_rollout()
        if not all(may(user, Action.CONFIGURE, node) for node in found.devices):
            raise HTTPException(403, f"{user.name} may not {act} this: it needs a role over all of its nodes")
        now, new_id = self._clock.now_ms(), self._rollouts.new_id
        change: Callable[[Rollout], Rollout] = {
            "pause": partial(engine.pause, by=user.name, now=now),
            "resume": partial(engine.resume, by=user.name, now=now),
            "abort": partial(engine.abort, by=user.name, now=now, new_id=new_id),
            "rollback": partial(engine.roll_back, by=user.name, now=now, new_id=new_id),
        }[act]
        entry = self._entry(request, found, f"rollout {act}", "done")
        try:
            after = await asyncio.to_thread(self._rollouts.change, tenant, identity, change, entry)
        except (NotNow, SlotBusy) as error:
            raise HTTPException(409, str(error)) from error
        if after is None:
            raise _no_rollout()
        return json_answer(self._shown(after, user))

    def _nodes(self, request: Request, body: RolloutBody) -> list[str]:
        """The nodes that have the slot and fit: first those that are online, then by name."""
        user, tenant = user_of(request), request.path_params["tenant"]
        if not ID.fullmatch(body.slot):
            raise HTTPException(400, f"slot {body.slot[:40]!r} is not a slot")
        wanted = None if isinstance(body.nodes, str) else set(body.nodes)
        pattern = body.nodes if isinstance(body.nodes, str) else ""
        seen = [
            node
            for node in self._fleet.names()
            if node.startswith(f"{tenant}/")
            and (fnmatch.fnmatchcase(node, pattern) if wanted is None else node in wanted)
            and may(user, Action.VIEW, node)
        ]
        names = [node for node in seen if self._has(node, body.slot)]
        if absent := (wanted or set()) - set(names):
            raise HTTPException(
                400, f"{min(absent)[:80]!r} is not a node of {tenant} with a slot {body.slot}"
            )
        if not names:
            raise HTTPException(400, f"no node of {tenant} that fits {pattern[:80]!r} has a slot {body.slot}")
        if len(names) > MAX_NODES:
            raise HTTPException(413, f"{len(names):,} nodes fit; a rollout has {MAX_NODES:,} at most")
        if barred := [node for node in names if not may(user, Action.CONFIGURE, node)]:
            raise HTTPException(403, f"{user.name} may see {barred[0]}, but not configure it")
        return sorted(names, key=lambda node: (not self._fleet.is_online(node), node))

    def _has(self, node: str, slot: str) -> bool:
        birth = self._fleet.birth(node)
        return self._fleet.model(node, slot) is not None or (birth is not None and slot in birth.models)

    def _sight(self, user: User) -> Callable[[str], bool]:
        """Whether a user may see a node of a rollout."""
        return functools.cache(lambda node: user.kind != "node" and may(user, Action.VIEW, node))

    def _shown(self, rollout: Rollout, user: User, part: _Part | None = None) -> dict[str, Any] | None:
        """A rollout with the nodes that a user may see, or a part of them; None without any of them."""
        seen = list(filter(self._sight(user), rollout.devices))
        if not seen:
            return None
        part = part or _Part()
        models = {node: self._fleet.model(node, rollout.slot) for node in seen}
        slots = {node: slot_in(model) for node, model in models.items()}
        chosen = [node for node in seen if part.state in ("", rollout.devices[node].state)]
        devices = []
        for node in chosen[part.first : part.first + part.limit]:
            device = rollout.devices[node]
            of_version = slot_of(rollout, device, slots[node])
            shown = {**_plain(device), "slot": None if of_version is None else _plain(of_version)}
            devices.append({"node": node, **shown, "now": self._evidence(node, models[node])})
        gates = [_plain(one) for one in stage_gates(rollout, slots, self._clock.now_ms())]
        return {**_head(rollout, seen), "gates": gates, "total": len(chosen), "devices": devices}

    def _evidence(self, node: str, model: ModelState | None) -> dict[str, Any] | None:
        """What runs in the slot of a node now, and how it got there."""
        if model is None:
            return None
        return {
            "online": self._fleet.is_online(node),
            "ref": f"{model.name}@{model.ver}",
            "signed_by": model.signed_by,
            "runs": model.counters.get("runs", 0),
            "nan": model.counters.get("nan", 0),
            "slot": None if model.slot is UNSET else _plain(model.slot),
        }

    def _entry(self, request: Request, rollout: Rollout, what: str, result: str) -> AuditEntry:
        return self._audited(request, what, f"{rollout.ref} in {rollout.slot} {rollout.id}", result)

    def _audited(self, request: Request, what: str, subject: str, result: str) -> AuditEntry:
        origin = network_of(request.client.host if request.client else "")
        scope = f"{request.path_params['tenant']}/*"
        return AuditEntry(self._clock.now_ms(), user_of(request).name, what, subject, origin, result, scope)


def _named(model: str, tenant: str, kept: list[Kept]) -> Kept:
    """The package with a digest or a name.

    Raises:
        HTTPException: 400, there is none, or several have the name.
    """
    found = [one for one in kept if model in (one.ref, f"sha256:{one.digest}", one.digest)]
    if len(found) == 1:
        return found[0]
    if found:
        raise HTTPException(400, f"{len(found)} packages are called {model[:80]!r}: name one by sha256:...")
    raise HTTPException(400, unknown(f"model package of {tenant}", model, [one.ref for one in kept]))


def _no_rollout() -> HTTPException:
    return HTTPException(404, "there is no such rollout: `edgebed rollout ls` lists them")


def slot_in(model: ModelState | None) -> ModelSlot | None:
    """The slot in what a node reports; None where nothing was ever offered."""
    return None if model is None or model.slot is UNSET else model.slot


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the nodes of a rollout."""

    state: str = ""
    first: int = 0
    limit: int = MAX_NODES


def _head(rollout: Rollout, seen: list[str]) -> dict[str, Any]:
    """A rollout without its nodes, with the states of those that are seen."""
    counts = Counter(rollout.devices[node].state for node in seen)
    if (named := rollout.args.get("node")) is not None and named not in seen:
        rollout = msgspec.structs.replace(rollout, why="", code="", args={})  # about a node that is not seen
    alone = _plain(msgspec.structs.replace(rollout, devices={}))
    return {**alone, "is_open": rollout.is_open, "counts": counts, "devices": []}


def _plain(value: Struct) -> Mapping[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found
