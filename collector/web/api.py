"""The HTTP API v1 of docs/api.md: what is stored and shown, as JSON."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Mount

from collector.fleet.board import ALL_NODES, Ask
from collector.fleet.fleet import Fleet
from collector.health import CollectorProblem
from collector.ingest.live import picture
from collector.ledger.holdings import page, record
from collector.ledger.ledger import Ledger
from collector.ledger.reasons import reason_of, table
from collector.ledger.report import ReportFilter, account
from collector.rights.directory import Directory
from collector.rights.shown_problems import shown_problems
from collector.rights.user import User
from collector.state.audit import Audit
from collector.store.declared import lost
from collector.store.messages import Span, message_lines
from collector.store.reader import Readers, TooManyRows, read_rows, read_series
from collector.store.source import Key, Source, read_cursor
from collector.store.table import Table
from collector.web.access import Door, Guard
from collector.web.assets import Assets
from collector.web.bodies import json_answer
from collector.web.commands import CommandRoutes
from collector.web.desired import DesiredRoutes
from collector.web.event_stream import Hub, TooManyViewers, Viewer, encode
from collector.web.fleet_pages import FleetPages
from collector.web.models import ModelRoutes
from collector.web.parameters import number, read_ask, read_time, unknown
from collector.web.pilot_reports import PilotReportRoutes
from collector.web.plan_values import PlanValueRoutes
from collector.web.report_pages import ReportPages
from collector.web.rollouts import RolloutRoutes
from collector.web.rules import (
    FILTERED,
    PUBLIC,
    Ruled,
    address,
    asked_node,
    no_such_node,
    node_of,
    sight_of,
    user_of,
    visible,
)
from collector.web.rules import (
    NODE as OF_NODE,
)
from collector.web.sign_in import SignIn
from collector.web.usage import UsageRoutes
from collector.web.user_routes import UserRoutes
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain
from wire.messages import Snapshot
from wire.topics import FIELD, ID, NODE_ITSELF, ROOT

MAX_POINTS = 5_000
MAX_EXPORT = 200_000  # rows of one answer
MAX_EVENTS = 500
MAX_NEWEST = 1_000  # devices of one answer
PAGE_NODES, MAX_NODES = 200, 1_000  # of one page of the fleet
FLEET_PARAMETERS = ("limit", "after", "filter", "node")
MAX_MS = 253_402_300_799_999
DASHBOARD = Path(__file__).parent / "dashboard"
NODE = "/api/v1/nodes/{t}/{p}/{s}/{n}"
DEVICE = NODE + "/devices/{d}"

_TYPES = {"d": "f64", "q": "i64", "b": "bool", "j": "str"}  # of the columns of a chunk
EPOCH = re.compile(r"[0-9a-f]{8,32}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_STREAM = re.compile(rf"((data|event)/)?({ID.pattern}|{NODE_ITSELF})/{ID.pattern}")

T = TypeVar("T")


@dataclass(slots=True)
class Sources:
    """The sources of answers."""

    clock: Clock
    fleet: Fleet
    ledger: Ledger
    readers: Readers
    hub: Hub
    directory: Directory
    audit: Audit
    health: Callable[[User], dict[str, Any]]
    problems: Callable[[], list[CollectorProblem]]
    pages: FleetPages
    desired: DesiredRoutes
    commands: CommandRoutes
    models: ModelRoutes
    rollouts: RolloutRoutes
    reports: PilotReportRoutes


class Api:
    """The routes; each answers from RAM, or from the day files in a worker thread."""

    def __init__(self, sources: Sources, dashboard: Path = DASHBOARD) -> None:
        self._from = sources
        self._assets = Assets(dashboard)

    def routes(self) -> list[BaseRoute]:
        """Every route but those of logins, with its rule; docs/api.md describes each."""
        return [
            Ruled("/", self.page, PUBLIC),
            Mount("/static", self._assets),
            Ruled("/api/v1/fleet", self.fleet, FILTERED),
            Ruled("/api/v1/newest", self.newest, FILTERED),
            Ruled(NODE, self.node, OF_NODE),
            Ruled(NODE + "/stored", self.stored, OF_NODE),
            Ruled(NODE + "/outboxes/{ep}", self.outbox, OF_NODE),
            Ruled(NODE + "/outboxes/{ep}/messages", self.messages, OF_NODE),
            Ruled(DEVICE + "/series", self.series, OF_NODE),
            Ruled(DEVICE + "/rows", self.rows, OF_NODE),
            Ruled(DEVICE + "/events", self.events, OF_NODE),
            Ruled(DEVICE + "/events/counts", self.event_counts, OF_NODE),
            Ruled(DEVICE + "/snapshot/{stream}.jpg", self.snapshot_image, OF_NODE),
            Ruled(DEVICE + "/snapshot/{stream}", self.snapshot, OF_NODE),
            Ruled("/api/v1/ledger", self.ledger, FILTERED),
            Ruled("/api/v1/outboxes", self.outboxes, FILTERED),
            Ruled("/api/v1/quarantine", self.quarantine, FILTERED),
            Ruled("/api/v1/audit", self.audit, FILTERED),
            Ruled("/api/v1/health", self.health, FILTERED),
            Ruled("/api/v1/stream", self.stream, FILTERED),
        ]

    async def page(self, request: Request) -> Response:
        """The dashboard."""
        return await self._assets.get_response("index.html", request.scope)

    async def fleet(self, request: Request) -> Response:
        """Every node or a page of them, the one with the worst problem first."""
        for name in request.query_params:
            if name not in FLEET_PARAMETERS:
                raise HTTPException(400, unknown("parameter", name, FLEET_PARAMETERS))
        now = self._from.clock.now_ms()
        answer = await asyncio.to_thread(self._from.pages.answer, _ask_of(request))
        problems = shown_problems(user_of(request), await asyncio.to_thread(self._from.problems))
        return json_answer({"now": now, **answer, "problems": problems})

    async def node(self, request: Request) -> Response:
        """One node, with its birth and newest values."""
        node = node_of(request)
        views = await asyncio.to_thread(self._from.fleet.views, node)
        if not views:
            raise await no_such_node(request, asked_node(request))
        extra = {"birth": self._from.fleet.birth(node), "live": self._from.fleet.live(node)}
        return json_answer({**msgspec.to_builtins(views[0]), **extra, "now": self._from.clock.now_ms()})

    async def newest(self, request: Request) -> Response:
        """The newest live values of many devices, in the order of their names."""
        limit = number(request, "limit", MAX_NEWEST, 1, MAX_NEWEST)
        after = request.query_params.get("after", "")
        node, _, device = after.rpartition("/")
        if after and not (node and device):
            raise HTTPException(400, f"after={after[:40]!r} is not the `next` of an answer")
        found = await asyncio.to_thread(self._from.fleet.newest, (node, device), limit, sight_of(request))
        devices = [{"node": node, "device": device, "streams": live} for node, device, live in found]
        more = "/".join(found[-1][:2]) if len(found) == limit else None
        return json_answer({"now": self._from.clock.now_ms(), "devices": devices, "next": more})

    async def stored(self, request: Request) -> Response:
        """The devices of a node that have stored rows, also under names that they no longer have."""
        found = await self._ask(lambda source: source.newest(node_of(request)))
        devices = [
            {
                "id": device,
                "last": max((stream.last_ms for stream in streams.values()), default=None),
                "streams": {
                    name: {"fields": {field: {"t": _TYPES[kind]} for field, kind in stream.kinds.items()}}
                    for name, stream in streams.items()
                },
            }
            for device, streams in sorted(found.items())
        ]
        return json_answer({"devices": devices})

    async def series(self, request: Request) -> Response:
        """One field over time, down-sampled."""
        node, device = node_of(request), _device(request)
        stream, name = _word(request, "stream", ID), _word(request, "field", FIELD)
        now = self._from.clock.now_ms()
        end = _moment(request, "to", now)
        start = _moment(request, "from", max(0, end - 3_600_000))
        points = number(request, "points", 1000, 1, MAX_POINTS)
        if start >= end:
            raise HTTPException(400, f"from={start} is not before to={end}")
        losses = lost(await asyncio.to_thread(self._from.ledger.entries, node))
        found = await self._ask(
            lambda source: read_series(
                source, (node, device, stream), name, start_ms=start, end_ms=end, points=points, losses=losses
            )
        )
        if not any(found.n):
            await self._require(request, node, device, stream)
        unit = self._from.fleet.unit(node, device, stream, name)
        head: dict[str, Any] = {"stream": stream, "field": name, "unit": unit, "from": start, "to": end}
        head["clock"] = self._clock_of(node)
        reasons = table(why for _, _, why in found.gaps)
        return json_answer({**head, **msgspec.structs.asdict(found), "reasons": reasons})

    def _clock_of(self, node: str) -> dict[str, int | None]:
        offset = self._from.fleet.offset(node)
        return {
            "clk": self._from.fleet.clock_state(node),
            "skew_ms": offset.skew_ms,
            "uncertainty_ms": offset.uncertainty_ms,
        }

    async def rows(self, request: Request) -> Response:
        """Rows as they are stored, as JSON or CSV, for programs and spreadsheets."""
        node, device, stream = node_of(request), _device(request), _word(request, "stream", ID)
        form = _word(request, "format", re.compile("json|csv"), default="json")
        end = _moment(request, "to", self._from.clock.now_ms())
        start = _moment(request, "from", max(0, end - 60_000))
        limit = number(request, "limit", MAX_EXPORT, 1, MAX_EXPORT)
        if start >= end:
            raise HTTPException(400, f"from={start} is not before to={end}")
        found, more = await self._ask(lambda source: _page(source, (node, device, stream), start, end, limit))
        if not len(found):
            await self._require(request, node, device, stream)
        if form == "csv":
            headers = {} if more is None else {"x-next": str(more)}
            text = await asyncio.to_thread(found.csv)
            return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
        return json_answer({"stream": stream, "from": start, "to": end, **found.columns(), "next": more})

    async def _require(self, request: Request, node: str, device: str, stream: str = "") -> None:
        """Answer 404 where neither the node declares what was asked for nor the store has any of it."""
        fleet = self._from.fleet
        views = await asyncio.to_thread(fleet.views, node)
        stored = await self._ask(lambda source: source.streams(node))
        if not views and not stored:
            raise await no_such_node(request, asked_node(request))
        streams: dict[str, set[str]] = {NODE_ITSELF: set()}
        for each in views[0].devices if views else ():
            streams.setdefault(each["id"], set()).update(each["streams"])
        for owner, names in (*fleet.live(node).items(), *stored.items()):
            streams.setdefault(owner, set()).update(names)
        if device not in streams:
            raise HTTPException(404, unknown("device", device, streams))
        if stream and stream not in streams[device]:
            raise HTTPException(404, unknown(f"stream of {device}", stream, streams[device]))

    async def events(self, request: Request) -> Response:
        """Events, newest first."""
        node, device = node_of(request), _device(request)
        limit = number(request, "limit", 100, 1, MAX_EVENTS)
        kind = _word(request, "type", ID, default="")
        cursor = request.query_params.get("before", str(MAX_MS + 1))
        moment = read_time(cursor)
        try:
            before = read_cursor(cursor if moment is None else str(moment))
        except EdgebedError as error:
            raise HTTPException(400, str(error)) from error
        rows = await self._ask(
            lambda source: source.events(node, device, limit=limit, before=before, kind=kind)
        )
        if not rows:
            await self._require(request, node, device)
        more = rows[-1][0] if len(rows) == limit else None
        return json_answer({"events": [event for _, event in rows], "next": more})

    async def event_counts(self, request: Request) -> Response:
        """How many events of each type there are in each step of a span."""
        node, device = node_of(request), _device(request)
        end = _moment(request, "to", self._from.clock.now_ms())
        start = _moment(request, "from", max(0, end - 86_400_000))
        step = number(request, "step", 3_600_000, 1, MAX_MS)
        if start >= end:
            raise HTTPException(400, f"from={start} is not before to={end}")
        if (end - start) / step > MAX_POINTS:
            raise HTTPException(400, f"step={step} gives more than {MAX_POINTS:,} steps: ask for longer ones")
        found = await self._ask(lambda source: source.event_counts(node, device, start, end, step))
        if not found:
            await self._require(request, node, device)
        if sum(map(len, found.values())) > MAX_EXPORT:
            raise HTTPException(413, f"more than {MAX_EXPORT:,} counts: ask for longer steps")
        types = {
            kind: [[start + number * step, n] for number, n in sorted(steps.items())]
            for kind, steps in sorted(found.items())
        }
        return json_answer({"from": start, "to": end, "step": step, "types": types})

    def _snapshot(self, request: Request, stream: str) -> Snapshot | None:
        """The newest picture; None where the node declares the stream and none has arrived yet."""
        if not ID.fullmatch(stream):
            raise HTTPException(404, "no such stream")
        node, device = node_of(request), _device(request)
        found = self._from.fleet.snapshot(node, device, stream)
        if found is None and not self._from.fleet.has_pictures(node, device, stream):
            raise HTTPException(404, "no such stream of pictures")
        return found

    async def snapshot(self, request: Request) -> Response:
        """The newest picture's facts and boxes; `img` is null before the first."""
        stream = request.path_params["stream"]
        found = self._snapshot(request, stream)
        if found is None:
            return json_answer({"stream": stream, "img": None})
        url = f"{request.url.path}.jpg?sha256={found.sha256}"
        return json_answer({"stream": stream, **picture(found), "img": url})

    async def snapshot_image(self, request: Request) -> Response:
        """The newest picture; its ETag is its SHA-256, so that a viewer can match picture and boxes."""
        found = self._snapshot(request, request.path_params["stream"])
        if found is None:
            raise HTTPException(404, "no picture of this stream has arrived since the collector started")
        tag = f'"{hashlib.sha256(found.jpeg).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return Response(found.jpeg, media_type=found.mime, headers={"etag": tag, "cache-control": "no-cache"})

    async def ledger(self, request: Request) -> Response:
        """What was taken, stored, declared lost and is missing, also of one pilot, day or stream."""
        node, pilot = request.query_params.get("node", ""), request.query_params.get("pilot", "")
        wanted = ReportFilter(
            pilot,
            node,
            _word(request, "day", _DAY, default=""),
            _word(request, "stream", _STREAM, default=""),
            since=_day_before(self._from.clock, number(request, "days", 7, 1, 4000)),
            sees=sight_of(request),
        )
        detailed = bool(node or pilot or wanted.day or wanted.stream)
        found = await asyncio.to_thread(account, self._from.ledger, wanted, detailed=detailed)
        lines = [*found["entries"], *found.get("days", ())]
        texts = (each[-1] for line in lines for each in (*line.gaps, *line.absent))
        return json_answer({**found, "reasons": table(texts)})

    async def outboxes(self, request: Request) -> Response:
        """The stored numbers of every outbox, for a comparison with another collector."""
        pilot, node, after = (request.query_params.get(name, "") for name in ("pilot", "node", "after"))
        wanted = ReportFilter(pilot, node, sees=sight_of(request))
        found = await asyncio.to_thread(page, self._from.ledger, wanted, after)
        return json_answer(found)

    async def outbox(self, request: Request) -> Response:
        """One outbox as the ledger keeps it, for a collector that is filled from this one."""
        found = await asyncio.to_thread(record, self._from.ledger, _outbox(request))
        if found is None:
            raise HTTPException(404, f"the ledger has no outbox {_outbox(request)[1]} of this node")
        return json_answer(found)

    async def messages(self, request: Request) -> Response:
        """The stored messages of one outbox with these numbers, a line each."""
        first = number(request, "first", 1, 1, 2**62)
        span = Span(*_outbox(request), first, number(request, "last", first, first, 2**62))
        body = await self._ask(lambda source: message_lines(source, span))
        return Response(body, media_type="application/x-ndjson")

    async def quarantine(self, request: Request) -> Response:
        """Quarantined messages, newest first."""
        limit = number(request, "limit", 100, 1, MAX_EVENTS)
        user = user_of(request)
        # a topic that is not one may name anybody: only who sees all gets it
        under = None if user.sees_all else [_topics(prefix) for prefix in user.prefixes]
        total, items = await self._ask(lambda source: source.quarantine(limit, under))
        shown = [
            {
                "recv": one.recv,
                "topic": one.topic,
                "why": one.why,
                **reason_of(one.why).coded(),
                "size": one.size,
                "head": one.head[:80].decode("latin-1"),
            }
            for one in items
        ]
        return json_answer({"total": total, "items": shown})

    async def audit(self, request: Request) -> Response:
        """Who did what, the newest first."""
        limit = number(request, "limit", 100, 1, MAX_EVENTS)
        before = number(request, "before", MAX_MS, 1, MAX_MS)
        sees = sight_of(request)
        found = await asyncio.to_thread(
            lambda: self._from.audit.newest(limit, before=before, sees=lambda scope: sees(_whole(scope)))
        )
        return json_answer({"entries": found, "next": found[-1].id if len(found) == limit else None})

    async def health(self, request: Request) -> Response:
        """The state of the collector itself."""
        return json_answer(await asyncio.to_thread(self._from.health, user_of(request)))

    async def stream(self, request: Request) -> Response:
        """Server-sent events."""
        node = request.query_params.get("node", "")
        device = request.query_params.get("device", "")
        if node:
            node = visible(request, address(node))
        if device and not ID.fullmatch(device) and device != NODE_ITSELF:
            raise HTTPException(400, f"device={device[:40]!r} is not an id")
        ask = _ask_of(request) if "limit" in request.query_params else _within(request, None)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        try:
            host = request.client.host if request.client else ""
            viewer = self._from.hub.join(node, device, host, ask, user_of(request))
        except TooManyViewers as error:
            raise HTTPException(503, str(error)) from error
        return StreamingResponse(
            self._frames(viewer), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def _frames(self, viewer: Viewer) -> AsyncIterator[bytes]:
        try:
            if viewer.ask is not None and viewer.ask.limit != ALL_NODES:
                await asyncio.to_thread(self._from.pages.follow, viewer.ask)
            yield b"retry: 2000\n" + encode("hello", {"now": self._from.clock.now_ms()})
            async for frame in viewer.frames():
                yield frame
        finally:
            self._from.hub.leave(viewer)

    async def _ask(self, question: Callable[[Source], T]) -> T:
        def ask() -> T:
            with self._from.readers.source() as source:
                return question(source)

        return await asyncio.to_thread(ask)


def all_routes(sources: Sources, sign_in: SignIn) -> list[BaseRoute]:
    """Every route of the collector; docs/api.md describes each."""
    users = UserRoutes(sources.directory, sources.audit, sources.clock, sign_in.hashed, sources.fleet)
    usage = UsageRoutes(sources.fleet, sources.readers, sources.clock)
    values = PlanValueRoutes(sources.reports.maker)
    own = (sources.desired, sources.commands, sources.models, sources.rollouts, sources.reports)
    others = (*own, ReportPages(sources.reports), values, sign_in, users, usage)
    return [*Api(sources).routes(), *(route for each in others for route in each.routes())]


def build(
    sources: Sources, door: Door, *, names: Iterable[str] = (), session_ms: int = 43_200_000
) -> Starlette:
    """The ASGI application.

    Raises:
        ValueError: a route has no rule.
    """
    sign_in = SignIn(sources.directory, sources.audit, sources.clock, session_ms)
    served = all_routes(sources, sign_in)
    for each in served:
        if not isinstance(each, Ruled) and not (isinstance(each, Mount) and isinstance(each.app, Assets)):
            raise ValueError(f"the route {each} has no rule: make it a Ruled")
    app = Starlette(
        routes=served,
        middleware=[Middleware(Guard, names=list(names), door=door)],
        exception_handlers={HTTPException: _http_error, TryAgain: _try_again, EdgebedError: _failed},
    )
    app.state.node_names = sources.fleet.known
    app.state.sign_in = sign_in
    return app


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return json_answer({"error": "failed"}, 500)
    answer = json_answer({"error": error.detail}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _try_again(_request: Request, error: Exception) -> Response:
    return json_answer({"error": str(error)}, 503)


async def _failed(_request: Request, error: Exception) -> Response:
    return json_answer({"error": str(error)}, 500)


def _ask_of(request: Request) -> Ask | None:
    """The nodes of the fleet that a request asks for, of those that its user may see."""
    limit = number(request, "limit", PAGE_NODES, 1, MAX_NODES)
    try:
        ask = read_ask(request.query_params, limit)
    except EdgebedError as error:
        raise HTTPException(400, str(error)) from error
    return _within(request, ask)


def _within(request: Request, ask: Ask | None) -> Ask | None:
    """Of these nodes those that the user may see; None is all."""
    user = user_of(request)
    if user.sees_all:
        return ask
    if ask is None:
        return Ask(limit=ALL_NODES, under=tuple(user.prefixes))
    node = visible(request, ask.node) if ask.node else ""
    return replace(ask, node=node, under=tuple(user.prefixes))


def _topics(prefix: str) -> str:
    """How the topics of a prefix begin."""
    return f"{ROOT}/{prefix.removesuffix('*')}" if prefix.endswith("*") else f"{ROOT}/{prefix}/"


def _whole(scope: str) -> str:
    """A scope of the audit as `may` takes it: "" is the whole collector."""
    return "" if scope == "*" else scope


def _outbox(request: Request) -> tuple[str, str]:
    ep: str = request.path_params["ep"]
    if not EPOCH.fullmatch(ep):
        raise HTTPException(404, f"{ep[:40]!r} is not an outbox")
    return node_of(request), ep


def _device(request: Request) -> str:
    device: str = request.path_params["d"]
    if not ID.fullmatch(device) and device != NODE_ITSELF:
        raise HTTPException(404, f"{device[:40]!r} is not a device")
    return device


def _word(request: Request, name: str, grammar: Any, default: str | None = None) -> str:
    word = request.query_params.get(name, default)
    if word is None:
        raise HTTPException(400, f"{name}= is missing")
    if word != default and not grammar.fullmatch(word):
        raise HTTPException(400, f"{name}={word[:40]!r} is not a {name}")
    return word


def _page(source: Source, key: Key, start: int, end: int, limit: int) -> tuple[Table, int | None]:
    """The first rows of a span, about `limit` of them, and the time from which to go on; None at its end."""
    upto = end
    while True:
        try:
            found = read_rows(source, key, start_ms=start, end_ms=upto, limit=MAX_EXPORT)
            break
        except TooManyRows as error:
            if upto - start <= 1:
                raise HTTPException(413, str(error)) from error
            upto = start + (upto - start) // 2
    if len(found) > limit:
        # all rows of one millisecond stand on one page, so that the next page begins with the next one
        first = found.rows[0][0] // 1000
        upto = max(found.rows[limit][0] // 1000, first + 1)
        found = found.between(start * 1000, upto * 1000)
    return found, None if upto >= end else upto


def _moment(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    found = default if text is None else read_time(text)
    if found is None or found > MAX_MS:
        raise HTTPException(
            400,
            f"{name}={(text or '')[:40]!r} is neither ms nor an ISO time such as 2026-11-23T09:00:00Z",
        )
    return found


def _day_before(clock: Clock, days: int) -> str:
    return datetime.fromtimestamp(clock.now_ms() / 1000 - days * 86_400, UTC).strftime("%Y-%m-%d")
