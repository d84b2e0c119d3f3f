"""The values of a plan that is not frozen yet, for `edgebed pilot plan`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.pilots.planning.baseline import machines_of, planned_kpis
from collector.pilots.report.making import ReportMaker
from collector.web.bodies import read_body
from collector.web.rules import FILTERED, Ruled, sight_of
from wire.errors import ConfigError, TryAgain, WireError
from wire.pilot.plan import Plan, parse
from wire.pilot.schedule import schedule
from wire.yaml12 import MAX_BYTES

MAX_VALUES = 20_000  # periods x KPIs x machines
DEADLINE_S = 60.0


class PlanBody(Struct, forbid_unknown_fields=True):
    """The text of a `pilot.yaml`."""

    plan: Annotated[str, Meta(max_length=MAX_BYTES)]


class PlanValueRoutes:
    """One route; it evaluates one plan at a time."""

    def __init__(self, maker: ReportMaker) -> None:
        self._maker = maker
        self._busy = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        """The route."""
        return [Ruled("/api/v1/pilots/values", self.values, FILTERED, methods=["POST"])]

    async def values(self, request: Request) -> Response:
        """The KPIs of a plan in each period of its baseline that is over."""
        body = await read_body(request, PlanBody, 2 * MAX_BYTES)
        try:
            plan = await asyncio.to_thread(parse, body.plan, "pilot.yaml")
        except ConfigError as error:
            raise HTTPException(400, "; ".join(error.mistakes)[:2_000]) from error
        sees, known = sight_of(request), request.app.state.node_names()
        for at, node in enumerate(plan.nodes):
            if not sees(node) or node not in known:
                raise HTTPException(404, f"the node {at} of the plan is not here: `pilot check` names it")
        if self._busy.locked():
            raise TryAgain("the values of another plan are evaluated: try again later")
        async with self._busy:
            await asyncio.to_thread(_require_few, plan)
            try:
                made = await self._maker.values(body.plan, DEADLINE_S)
            except WireError as error:
                raise HTTPException(400, str(error)) from error
        return Response(made, media_type="application/json")


def _require_few(plan: Plan) -> None:
    columns = len(planned_kpis(plan)) * len(machines_of(plan)) + len(plan.adjust.covariates)
    asked = columns * sum(each.phase == "baseline" for each in schedule(plan).periods)
    if asked > MAX_VALUES:
        text = f"the plan has {asked:,} values, and {MAX_VALUES:,} are evaluated"
        raise HTTPException(413, f"{text}: use --store on the collector's machine")
