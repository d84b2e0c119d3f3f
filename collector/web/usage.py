"""What each pilot used on each UTC day, with the limits of its nodes."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from collector.fleet.fleet import Fleet
from collector.fleet.usage import DAY_MS, day_of, total, usage_between
from collector.store.reader import Readers
from collector.web.bodies import json_answer
from collector.web.parameters import unknown
from collector.web.rules import FILTERED, Ruled, sight_of
from wire.clock import Clock

MAX_DAYS = 92  # of one answer
DAYS = 30
MAX_NODES = 1_000
PARAMETERS = ("pilot", "from", "to")


class UsageRoutes:
    """The route; it answers from the stored records and the newest heartbeats."""

    def __init__(self, fleet: Fleet, readers: Readers, clock: Clock) -> None:
        self._fleet = fleet
        self._readers = readers
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """Its routes."""
        return [Ruled("/api/v1/usage", self.show, FILTERED)]

    async def show(self, request: Request) -> Response:
        """The pilots; with `pilot` what one of them used."""
        for name in request.query_params:
            if name not in PARAMETERS:
                raise HTTPException(400, unknown("parameter", name, PARAMETERS))
        sees = sight_of(request)
        return json_answer(await asyncio.to_thread(self._answer, sees, dict(request.query_params)))

    def _answer(self, sees: Callable[[str], bool], params: dict[str, str]) -> dict[str, Any]:
        today = day_of(self._clock.now_ms())
        last = _day(params, "to", today)
        first = _day(params, "from", day_of(max(0, _ms(last) - (DAYS - 1) * DAY_MS)))
        days = (_ms(last) - _ms(first)) // DAY_MS + 1
        if not 1 <= days <= MAX_DAYS:
            raise HTTPException(400, f"from={first} to to={last} are {days:,} days: ask for 1 to {MAX_DAYS}")
        pilots: dict[str, list[str]] = {}
        for node in sorted(filter(sees, self._fleet.known())):
            pilots.setdefault("/".join(node.split("/")[:2]), []).append(node)
        if "pilot" not in params:
            return {"pilots": list(pilots)}
        pilot = params["pilot"]
        if pilot not in pilots:
            raise HTTPException(404, unknown("pilot", pilot, pilots))
        if len(pilots[pilot]) > MAX_NODES:
            raise HTTPException(413, f"{pilot} has more than {MAX_NODES:,} nodes: read their usage events")
        return {"pilot": pilot, "from": first, "to": last, **self._sums(pilots[pilot], first, last)}

    def _sums(self, nodes: list[str], first: str, last: str) -> dict[str, Any]:
        by_node, by_day = [], dict[str, list[Any]]()
        for node in nodes:
            with self._readers.source() as source:  # each node is a question: others come in between
                found = usage_between(source, node, first, last)
            for day, used in found.days.items():
                by_day.setdefault(day, []).append(used)
            (view,) = self._fleet.views(node) or (None,)
            by_node.append(
                {
                    "node": node,
                    "metered": found.is_metered or bool(view and view.usage),
                    "unread": found.unread,
                    "total": total(found.days.values()) if found.days else None,
                    "fence": view.fence if view else {},
                    "by": view.fence_by if view else "",
                    "trouble": [one for one in view.problems if one.code == "fence"] if view else [],
                }
            )
        days = [
            {"day": day, "nodes": len(used), **msgspec.structs.asdict(total(used))}
            for day, used in sorted(by_day.items(), reverse=True)
        ]
        return {"days": days, "nodes": by_node}


def _day(params: dict[str, str], name: str, default: str) -> str:
    text = params.get(name, default)
    try:
        found = dt.date.fromisoformat(text)
    except ValueError:
        found = dt.date.min
    if found.isoformat() != text or found.year < 1970:
        raise HTTPException(400, f"{name}={text[:40]!r} is not a UTC day such as 2026-11-23")
    return text


def _ms(day: str) -> int:
    return (dt.date.fromisoformat(day) - dt.date(1970, 1, 1)).days * DAY_MS
