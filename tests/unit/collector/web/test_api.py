"""The HTTP API v1 against its documentation, over real HTTP, without a broker."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Mount

from collector.app import Collector
from collector.fleet.problems import CODES
from collector.mqtt.received import Received
from collector.state.commands import CommandRecord
from collector.web.api import Sources, all_routes
from collector.web.commands import CommandRoutes
from collector.web.desired import DesiredRoutes
from collector.web.models import ModelRoutes
from collector.web.pilot_reports import PilotReportRoutes
from collector.web.rollouts import RolloutRoutes
from collector.web.sign_in import SignIn
from tests.unit.collector.web.serving import BASE, EP, JPEG, NODE, Get
from wire.clock import Clock
from wire.codec import encode
from wire.messages import (
    Batch,
    Event,
    Snapshot,
    Status,
)
from wire.reasons import because

DOCS = (Path(__file__).parents[4] / "docs" / "api.md").read_text()


def section_of(title: str) -> str:
    return DOCS.split(f"\n## {title}\n")[1].split("\n## ")[0]


def _desired_routes() -> DesiredRoutes:
    return DesiredRoutes(None, None, None, Clock(), None)  # type: ignore[arg-type]


def _command_routes() -> CommandRoutes:
    return CommandRoutes(None, None, None, None, Clock())  # type: ignore[arg-type]


def _rollout_routes() -> RolloutRoutes:
    return RolloutRoutes(None, None, None, None, Clock())  # type: ignore[arg-type]


def _model_routes() -> ModelRoutes:
    return ModelRoutes(None, None, Clock(), None, None)  # type: ignore[arg-type]


def _report_routes() -> PilotReportRoutes:
    return PilotReportRoutes(None, None, None, Clock(), None)  # type: ignore[arg-type]


async def test_every_route_is_documented_and_answers_as_documented(site: tuple[Collector, Get]) -> None:
    made = _desired_routes(), _command_routes(), _model_routes(), _rollout_routes(), _report_routes()
    sources = Sources(Clock(), *[None] * 9, *made)  # type: ignore[arg-type]
    signs_in = SignIn(None, None, Clock(), None)  # type: ignore[arg-type]
    routes = {
        f"{route.path}/{{name}}" if isinstance(route, Mount) else route.path.replace(":path}", "}")
        for route in all_routes(sources, signs_in)
    }
    written = set(re.findall(r"^\| \[?`(/[^`]*)`", DOCS, re.MULTILINE))
    assert routes == written
    for code in CODES:
        assert f"`{code}`" in DOCS
    _, get = site
    asked = "series?stream=joints&field=j1"
    for path, section in {
        "/api/v1/fleet": "fleet",
        "/api/v1/fleet?limit=5": "fleet",
        BASE: "node",
        f"{BASE}/stored": "stored",
        f"{BASE}/devices/arm/{asked}": "series",
        f"{BASE}/devices/arm/rows?stream=joints&from=0": "rows",
        f"{BASE}/devices/arm/events": "events",
        f"{BASE}/devices/arm/snapshot/frames": "snapshot",
        f"{BASE}/commands": "commands",
        "/api/v1/ledger": "ledger",
        "/api/v1/outboxes": "outboxes",
        "/api/v1/quarantine": "quarantine",
        "/api/v1/health": "health",
    }.items():
        answer = await get(path)
        assert answer.status == 200, path
        text = (
            DOCS.split(f"\n## {section}\n")[1].split("\n## ")[0]
            + DOCS.split("\n## fleet\n")[1].split("\n## ")[0]
        )
        for key in answer.json():
            assert re.search(rf"\b{key}\b", text), f"{key} of {path} is not documented"


async def test_the_fleet_and_a_node(site: tuple[Collector, Get]) -> None:
    _, get = site
    (node,) = (await get("/api/v1/fleet")).json()["nodes"]
    assert (node["node"], node["state"], node["clk"]) == (NODE, "online", 0)
    assert [one["code"] for one in node["trouble"]] == ["clock-unsynced", "quarantine"]
    assert node["devices"][0]["streams"]["joints"]["fields"]["j1"] == {"unit": "rad"}
    assert node["ledger"]["stored"] == 32
    one = (await get(BASE)).json()
    assert one["birth"]["devices"]["arm"]["type"] == "cobot"
    assert one["live"]["arm"]["joints"]["j1"] == 1.5
    assert (await get("/api/v1/nodes/acme/trial/hall/nobody")).status == 404


async def test_a_page_of_the_fleet(site: tuple[Collector, Get]) -> None:
    collector, get = site
    for name in "abc":
        body = Status(state="lost" if name == "c" else "online", ts=1, boot="deadbeef", sess=1)
        topic = f"tb1/acme/trial/hall/{name}/status"
        collector.ingest.receive(Received(topic, encode(body), collector.clock.now_ms(), False, None))
    everything = (await get("/api/v1/fleet")).json()
    assert set(everything) == {"now", "nodes", "problems"}
    order = [one["node"] for one in everything["nodes"]]
    assert [name[-1] for name in order] == ["c", "1", "a", "b"]
    seen: list[str] = []
    path = "/api/v1/fleet?limit=3"
    while True:
        page = (await get(path)).json()
        assert (page["found"], page["first"], page["totals"]["nodes"]) == (4, len(seen), 4)
        assert [one["node"] for one in page["nodes"]] == page["shown"]
        seen += page["shown"]
        if page["next"] is None:
            break
        path = f"/api/v1/fleet?limit=3&after={page['next']}"
    assert seen == order
    assert page["totals"]["ledger"]["stored"] == 32
    assert page["totals"]["severities"] == {"0": 2, "2": 1, "4": 1}
    for words, expected in (("LOST", ["c"]), ("cobot%20online", ["1"]), ("quarantine", ["1"]), ("x", [])):
        found = (await get(f"/api/v1/fleet?filter={words}")).json()
        assert ([name[-1] for name in found["shown"]], found["found"]) == (expected, len(expected))
    assert (await get(f"/api/v1/fleet?node={NODE}")).json()["shown"] == [NODE]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limt=5", "did you mean limit"), ("limit=0", "from 1 to 1000"), ("limit=1001", "from 1 to 1000"),
        ("limit=x", "whole number"), ("limit=", "whole number"), ("after=a/b/c/d", "next"),
        ("after=2.0.a/b/c/d", "next"), ("after=1.9.a", "next"), ("filter=" + "x" * 101, "100 are allowed"),
        ("node=x", "node"), ("limit=5&page=2", "parameter"),
    ],
)  # fmt: skip
async def test_a_page_that_cannot_be_is_refused_with_a_sentence(
    site: tuple[Collector, Get], query: str, words: str
) -> None:
    _, get = site
    for path in ("fleet", "stream") if "limit=" in query and "page" not in query else ("fleet",):
        answer = await get(f"/api/v1/{path}?{query}")
        assert answer.status == 400, query
        assert words in answer.json()["error"]


async def test_a_page_follows_its_nodes_alone(site: tuple[Collector, Get]) -> None:
    collector, _ = site
    reader, writer = await asyncio.open_connection("127.0.0.1", collector.socket.getsockname()[1])
    writer.write(b"GET /api/v1/stream?limit=1&filter=cobot HTTP/1.1\r\nHost: localhost\r\n\r\n")
    text = b""
    async with asyncio.timeout(60):
        while b'"shown"' not in text and b'"lost"' not in text:
            text += await reader.read(65_536)
            if b"event: hello" in text and b"cobot-02" not in text:
                for name in ("cobot-02", "other-01"):
                    body = Status(state="lost", ts=1, boot="deadbeef", sess=1)
                    topic = f"tb1/acme/trial/hall/{name}/status"
                    collector.ingest.receive(
                        Received(topic, encode(body), collector.clock.now_ms(), False, None)
                    )
    writer.close()
    await writer.wait_closed()
    frames = [json.loads(data) for data in re.findall(rb"event: fleet\ndata: (.*)\n", text)]
    assert "other-01" not in json.dumps(frames)
    (last,) = [frame for frame in frames if frame.get("shown") == ["acme/trial/hall/cobot-02"]]
    assert [one["state"] for one in last["nodes"]] == ["lost"]
    assert (last["found"], last["first"]) == (2, 0)


async def test_series_events_and_pictures(site: tuple[Collector, Get]) -> None:
    _, get = site
    series = (await get(f"{BASE}/devices/arm/series?stream=joints&field=j1&points=1000")).json()
    assert (series["unit"], series["source"], sum(series["n"])) == ("rad", "rows", 300)
    assert len({len(series[name]) for name in ("t", "mean", "min", "max", "n", "late")}) == 1
    words = (await get(f"{BASE}/devices/arm/series?stream=joints&field=word&points=10")).json()
    assert all(value is None for value in words["mean"])
    events = (await get(f"{BASE}/devices/arm/events?limit=1")).json()
    assert (events["events"][0]["why"], events["events"][0]["sev"]) == ("too warm", 3)
    assert (await get(f"{BASE}/devices/arm/events?before={events['next']}")).json()["events"] == []
    at, kind = events["events"][0]["ts"], events["events"][0]["type"]
    counts = (await get(f"{BASE}/devices/arm/events/counts?from={at - 90}&to={at + 1}&step=50")).json()
    assert counts["types"] == {kind: [[at - 40, 1]]}
    for wrong in ("from=5&to=5", "from=0&step=1", "step=0"):
        assert (await get(f"{BASE}/devices/arm/events/counts?{wrong}")).status == 400
    assert (await get(f"{BASE}/devices/leg/events/counts")).status == 404
    gaps = (await get(f"{BASE}/devices/_/events?type=gap")).json()
    assert gaps["events"][0]["lost"] == [[40, 41]]
    shot = (await get(f"{BASE}/devices/arm/snapshot/frames")).json()
    assert (shot["frame"], shot["boxes"][0]["label"], shot["w"]) == (7, "car", 64)
    picture = await get(shot["img"])
    assert (picture.body, picture.headers["content-type"]) == (JPEG, "image/jpeg")
    assert (await get(f"{BASE}/devices/arm/snapshot/nothing")).status == 404


async def test_newest_values_of_many_devices_in_pages(site: tuple[Collector, Get]) -> None:
    _, get = site
    whole = (await get("/api/v1/newest")).json()
    assert whole["next"] is None
    assert {(one["node"], one["device"]) for one in whole["devices"]} >= {(NODE, "arm")}
    pages, after = [], ""
    while after is not None:
        page = (await get(f"/api/v1/newest?limit=1&after={after}")).json()
        pages += page["devices"]
        after = page["next"]
    assert pages == whole["devices"]
    assert (await get("/api/v1/newest?after=arm")).status == 400


async def test_rows_as_they_are_stored(site: tuple[Collector, Get]) -> None:
    _, get = site
    rows = (await get(f"{BASE}/devices/arm/rows?stream=joints&from=0")).json()
    assert len(rows["us"]) == len(rows["f"]["j1"]) == 300
    assert rows["us"] == sorted(rows["us"])
    half = rows["us"][150] // 1000
    later = (await get(f"{BASE}/devices/arm/rows?stream=joints&from={half}")).json()
    assert later["us"] == [at for at in rows["us"] if at >= half * 1000]
    table = await get(f"{BASE}/devices/arm/rows?stream=joints&from=0&format=csv")
    lines = table.body.decode().splitlines()
    assert table.headers["content-type"].startswith("text/csv")
    assert lines[0].split(",")[0] == "time"
    assert len(lines) == 301


async def test_ledger_quarantine_and_health(site: tuple[Collector, Get]) -> None:
    _, get = site
    ledger = (await get(f"/api/v1/ledger?node={NODE}")).json()
    (entry,) = ledger["entries"]
    assert (entry["taken"], entry["stored"], entry["gap_count"]) == (41, 32, 2)
    assert (entry["gaps"], entry["waiting"], entry["missing"]) == ([[40, 41, "disk full"]], 7, [])
    assert ledger["totals"]["taken"] == 41
    assert (await get("/api/v1/ledger?node=a/b/c/d")).json()["entries"] == []
    quarantine = (await get("/api/v1/quarantine")).json()
    assert (quarantine["total"], quarantine["items"][0]["head"]) == (1, "garbage")
    health = (await get("/api/v1/health")).json()
    assert (health["state"], health["broker"]["state"]) == ("degraded", "offline")
    assert health["broker"]["why"].startswith("nothing listens there")
    (problem,) = health["problems"]
    assert (problem["code"], problem["args"]["detail"]) == ("broker-offline", health["broker"]["why"])
    assert (await get("/api/v1/fleet")).json()["problems"] == [problem]


@pytest.mark.parametrize(
    "path",
    [
        "series", "series?stream=joints", "series?stream=joints&field=J1", "series?stream=../x&field=j1",
        "series?stream=joints&field=j1&points=0", "series?stream=joints&field=j1&points=5001",
        "series?stream=joints&field=j1&points=x", "series?stream=joints&field=j1&from=5&to=5",
        "series?stream=joints&field=j1&from=-1", "series?stream=joints&field=j1&to=9999999999999999999",
        "rows", "rows?stream=joints&format=xml", "rows?stream=joints&from=5&to=5",
        "events?limit=501", "events?before=x", "events?type=A B", "events?limit=1e3",
        "series?stream=joints&field=j1&from=%D9%A1",
    ],
)  # fmt: skip
async def test_wrong_parameters_are_refused_with_a_sentence(site: tuple[Collector, Get], path: str) -> None:
    _, get = site
    answer = await get(f"{BASE}/devices/arm/{path}".replace(" ", "%20"))
    assert answer.status == 400
    assert len(answer.json()["error"]) > 10


async def test_other_wrong_asks(site: tuple[Collector, Get]) -> None:
    _, get = site
    for path, status in {
        "/api/v1/nodes/a/b/c/D": 400,
        f"{BASE}/devices/A%2FB/events": 404,
        "/api/v1/stream?node=x": 400,
        "/api/v1/stream?node=a/b/c/d&device=X": 400,
        "/api/v1/quarantine?limit=0": 400,
        "/api/v1/nothing": 404,
        f"/api/v1/fleet?{'x' * 5000}": 414,
    }.items():
        assert (await get(path)).status == status, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert (await get("/api/v1/fleet", method)).status == 403, "no header Origin"
        assert (await get("/api/v1/fleet", method, Authorization="Bearer x")).status == 405


async def test_the_page_and_its_files(site: tuple[Collector, Get]) -> None:
    _, get = site
    page = await get("/", **{"Accept-Encoding": "gzip"})
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    again = await get("/", **{"If-None-Match": page.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    packed = await get("/static/app.js", **{"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    for path in (
        "../api.py", "..%2fapi.py", "%2e%2e/api.py", "/etc/passwd", ".npmrc", "app.js%00", "nothing.js",
        "vendor",
        "package.json/../../api.py", "a\\..\\b.js",
    ):  # fmt: skip
        assert (await get(f"/static/{path}")).status == 404, path


async def test_the_event_stream_sends_rows_after_their_commit(site: tuple[Collector, Get]) -> None:
    collector, _ = site
    documented = set(re.findall(r"^\| `(\w+)` \|", section_of("stream"), re.MULTILINE))
    reader, writer = await asyncio.open_connection("127.0.0.1", collector.socket.getsockname()[1])
    writer.write(f"GET /api/v1/stream?node={NODE}&device=arm HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    seen: dict[str, Any] = {}
    text = b""
    async with asyncio.timeout(60):
        while not documented <= seen.keys():
            text += await reader.read(65_536)
            if b"event: hello" in text and "hello" not in seen:
                stream_more(collector)
            for name, data in re.findall(rb"event: (\w+)\ndata: (.*)\n", text):
                seen[name.decode()] = json.loads(data)
    writer.close()
    await writer.wait_closed()
    assert b"content-type: text/event-stream" in text
    assert b"no-store" in text
    assert set(seen) == documented
    assert (seen["rows"]["stream"], seen["rows"]["f"]["j1"], seen["rows"]["late"]) == ("joints", [99.0], 0)
    assert seen["live"]["values"] == {"j1": 2.5}
    assert (seen["event"]["why"], seen["snap"]["frame"]) == ("again", 8)
    assert seen["fleet"][0]["node"] == NODE
    assert [one["code"] for one in seen["health"]["problems"]] == ["broker-offline", "messages-refused"]


def stream_more(collector: Collector) -> None:
    now = collector.clock.now_ms()
    collector.problems.report(because("too fast: refused", "messages-refused", detail="too fast"), NODE)
    bodies: dict[str, Any] = {
        "data/arm/joints": Batch(ep=EP, seq=50, t0=now, per=1, n=1, f={"j1": [99.0]}),
        "live/arm/joints": {"ts": now, "j1": 2.5},
        "event/arm/alarm": Event(ep=EP, seq=51, ts=now, type="alarm", why="again"),
        "snap/arm/frames": Snapshot(ts=now, w=64, h=48, sha256="cd", jpeg=JPEG, frame=8),
        "log/info": {"ts": now, "msg": "hello"},
        "res/arm/ping": {"v": 1, "id": "01JD3X5Y6Z7A8B9C0D1E2F3G4H", "state": "done", "ts": now},
    }
    for tail, body in bodies.items():
        payload = msgspec.json.encode(body)
        collector.ingest.receive(Received(f"tb1/{NODE}/{tail}", payload, now, False, None))
    collector.commands.request(CommandRecord(NODE, "0" * 26, "_", "ping", {}, "kim", now, 60_000), "here")


async def test_reasons_have_codes(site: tuple[Collector, Get]) -> None:
    collector, get = site
    now = collector.clock.now_ms()
    step = Event(
        ep=EP, seq=60, ts=now, type="clock-step", why="the clock was set 9.0 s back",
        code="clock-set-back", args={"seconds": 9.0},
    )  # fmt: skip
    gap = Event(ep=EP, seq=61, ts=now, type="gap", why="quota", n=1, lost=[(59, 59)])
    for event in (step, gap):
        payload = msgspec.json.encode(event)
        collector.ingest.receive(Received(f"tb1/{NODE}/event/_/{event.type}", payload, now, False, None))
    async with asyncio.timeout(60):
        events: list[Any] = []
        while not events:  # until the commit
            events = (await get(f"{BASE}/devices/_/events?type=clock-step")).json()["events"]
    assert (events[0]["code"], events[0]["args"]) == ("clock-set-back", {"seconds": 9.0})
    (item,) = (await get("/api/v1/quarantine")).json()["items"]
    assert (item["why"][:12], item["code"], item["args"]) == ("not a Batch:", "body-invalid", {})
    async with asyncio.timeout(60):
        ledger: dict[str, Any] = {"reasons": {}}
        while "quota" not in ledger["reasons"]:  # the two events may be in two commits
            ledger = (await get("/api/v1/ledger")).json()
    assert ledger["reasons"]["quota"] == {"code": "quota", "args": {}}
    assert "disk full" not in ledger["reasons"], "a text without a code"
    (node,) = (await get("/api/v1/fleet")).json()["nodes"]
    assert node["trouble"][0]["reason"] == {"code": "clock-never-set", "args": {}}
    assert (node["devices"][0]["code"], node["devices"][0]["args"]) == ("", {})


async def test_the_ledger_by_pilot_day_and_stream(site: tuple[Collector, Get]) -> None:
    _, get = site
    whole = (await get("/api/v1/ledger")).json()
    assert "days" not in whole
    assert whole["pilots"][0]["pilot"] == "acme/trial"
    assert (await get("/api/v1/ledger?pilot=acme/trial")).json()["days"][0]["doubt"]
    assert (await get("/api/v1/ledger?pilot=acme/trial&stream=arm/other")).json()["days"] == []
    assert (await get("/api/v1/ledger?pilot=acme/other")).json()["entries"] == []
    for wrong in ("day=2026-1-1", "day=x", "stream=joints", "stream=a/../b", "days=0", "days=x"):
        assert (await get(f"/api/v1/ledger?{wrong}")).status == 400, wrong
