"""The plans that were sent, and the report of a pilot, for those who may see all of its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.pilot_events import PilotEvents
from collector.pilots.report.making import MadeReport, ReportMaker
from collector.state.desired import DesiredDocuments
from collector.state.pilot_plans import PilotPlans, SentPlan
from collector.web.bodies import json_answer
from collector.web.parameters import number, unknown
from collector.web.pilot_entries import acted, kept_plan, opened_of
from collector.web.rules import FILTERED, Ruled, sight_of, user_of
from wire.clock import Clock
from wire.errors import WireError
from wire.pilot.frozen import Opened

PATH = "/api/v1/pilots/{owner}/{pilot}/report"
PARAMETERS = ("until", "hash")
_MAX_MS = 2**53 - 1

Sent = tuple[SentPlan, Opened]


class PilotReportRoutes:
    """The routes. `made` gives the report that a request asks for, so another form of it is a few lines.

    A route of HTML or PDF has a path of its own below `PATH`, calls `await self.made(request)`, renders what
    that returns in a thread, and has the rule FILTERED too: `made` itself checks who may see the pilot.
    `recorded` gives what a node has recorded of its pilots.
    """

    def __init__(
        self,
        plans: PilotPlans,
        documents: DesiredDocuments,
        maker: ReportMaker,
        clock: Clock,
        recorded: Callable[[str], PilotEvents],
    ) -> None:
        self._plans = plans
        self._documents = documents
        self.maker = maker
        self.clock = clock
        self._recorded = recorded

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        return [
            Ruled("/api/v1/pilots/plans", self.sent, FILTERED),
            Ruled(PATH, self.report, FILTERED),
        ]

    async def sent(self, request: Request) -> Response:
        """Every version of each plan that was sent, also of pilots that are over or were withdrawn."""
        sees, now_ms = sight_of(request), self.clock.now_ms()

        def answer() -> list[dict[str, Any]]:
            found, damaged = _seen(self._plans.all(), sees)
            wanted = (opened_of(each) for each in self._documents.all() if each.what == "pilot")
            in_use = {each.hash for each in wanted if each is not None}
            amended = {(one.tenant, one.previous) for one, _ in found}
            made = [
                {**_entry(one, opened, in_use, amended, now_ms), "acted": self._acted(opened)}
                for one, opened in found
            ]
            return [*made, *map(_damaged_entry, damaged)]

        return json_answer({"plans": await asyncio.to_thread(answer)})

    def _acted(self, opened: Opened) -> dict[str, tuple[int, int]]:
        found = ((node, acted(opened, self._recorded(node))) for node in opened.plan.plan.nodes)
        return {node: span for node, span in found if span is not None}

    async def report(self, request: Request) -> Response:
        """The report as canonical JSON."""
        return Response((await self.made(request)).body, media_type="application/json")

    async def made(self, request: Request) -> MadeReport:
        """The report that a request asks for.

        Raises:
            HTTPException: 404 there is no such pilot, or the user may not see all of its nodes; 400 a
                parameter is wrong; 409 its versions do not follow each other, or a kept one was changed.
            TryAgain: too many reports are being made, for this user or in all.
        """
        versions = await self.versions(request)
        until_ms = number(request, "until", _MAX_MS, 0, _MAX_MS)
        try:
            return await self.maker.report(versions, until_ms, user=user_of(request).name)
        except WireError as error:
            raise HTTPException(409, str(error)) from error

    async def versions(self, request: Request) -> list[Opened]:
        """The versions of the plan that a request asks for, the newest last. Raises as `made`."""
        for name in request.query_params:
            if name not in (*PARAMETERS, "lang"):
                raise HTTPException(400, unknown("parameter", name, PARAMETERS))
        return await asyncio.to_thread(
            self._versions,
            request.path_params["owner"],
            request.path_params["pilot"],
            sight_of(request),
            request.query_params.get("hash", ""),
        )

    def _versions(self, tenant: str, pilot: str, sees: Callable[[str], bool], digest: str) -> list[Opened]:
        """The versions up to the one with this hash, or to the one that was sent last."""
        rows = self._plans.of(tenant, pilot)
        found, changed = _seen(rows, sees)
        by_hash, damaged = {one.hash: opened for one, opened in found}, {one.hash for one in changed}
        known = (one.hash for one in rows if one.hash in by_hash or one.hash in damaged)
        newest = next((each for each in known if not digest or each == digest), None)
        if newest is None:
            raise HTTPException(404, "no such plan was sent, or you may not see all of its nodes")
        versions: list[Opened] = []
        while newest in by_hash:  # a version names the hash of the one before, so there is no circle
            versions.insert(0, by_hash[newest])
            newest = versions[0].plan.previous
        if newest in damaged:
            raise HTTPException(
                409,
                f"the kept plan {newest[:12]} is not the one that was sent: somebody changed state.db; "
                "make the report from its file: `edgebed pilot report FILE --store FOLDER`",
            )
        return versions


def _seen(plans: Iterable[SentPlan], sees: Callable[[str], bool]) -> tuple[list[Sent], list[SentPlan]]:
    """The plans that a user may see, and those that are no longer what was sent.

    All of the nodes that a plan names anywhere are visible. Which nodes a changed one had is not known: it is
    shown where every node of the tenant is visible.
    """
    found: list[Sent] = []
    damaged: list[SentPlan] = []
    for one in plans:
        if (opened := kept_plan(one)) is None:
            if sees(f"{one.tenant}/*"):
                damaged.append(one)
        elif all(sees(node) for node in opened.plan.plan.named):
            found.append((one, opened))
    return found, damaged


def _damaged_entry(one: SentPlan) -> dict[str, Any]:
    return {
        "owner": one.tenant,
        "pilot": one.pilot,
        "title": {"en": one.pilot, "ko": one.pilot},
        "hash": one.hash,
        "version": one.version,
        "previous": one.previous,
        "nodes": [],
        "acted": {},
        "trial": [one.at_ms, one.at_ms],
        "state": "damaged",
        "ts": one.at_ms,
        "by": one.by,
    }


def _entry(
    one: SentPlan, opened: Opened, in_use: set[str], amended: set[tuple[str, str]], now_ms: int
) -> dict[str, Any]:
    plan, (start_ms, end_ms) = opened.plan.plan, opened.plan.schedule.trial_ms
    if (one.tenant, one.hash) in amended:
        state = "amended"
    elif end_ms <= now_ms:
        state = "over"
    elif one.hash not in in_use:
        state = "withdrawn"
    else:
        state = "trial" if start_ms <= now_ms else "planned"
    return {
        "owner": one.tenant,
        "pilot": one.pilot,
        "title": msgspec.to_builtins(plan.title),
        "hash": one.hash,
        "version": one.version,
        "previous": one.previous,
        "nodes": list(plan.nodes),
        "trial": [start_ms, end_ms],
        "state": state,
        "ts": one.at_ms,
        "by": one.by,
    }
