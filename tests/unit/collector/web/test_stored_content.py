"""Whatever a node may send: no answer of the API is an error of the collector because of it."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from collector.app import Collector
from collector.mqtt.received import Received
from collector.store.folder import day_files
from tests.polling import until
from tests.unit.collector.web.serving import BASE, EP, JPEG, NODE, Get
from wire.messages import MAX_DEPTH, MAX_MS

HUGE = 10**300
NAMES = [
    "",
    " ",
    "..",
    "a/b",
    "\x00",
    "\u202e",
    "\U0001f600",
    "<b>",
    "k" * 25_000,
]  # the birth has the name twice, and a body has 60,000 bytes at most


def nested(depth: int) -> Any:
    found: Any = 1
    for level in range(depth):
        found = {"a": found} if level % 2 else [found]
    return {"a": found}


def bodies(now: int) -> list[tuple[str, Any]]:
    """Topics after the node, and bodies that keep the contract but no measure."""
    picture = "/9j/4AAQ"
    assert JPEG[:2] == b"\xff\xd8"
    odd = {name: {"state": "ok", "since": MAX_MS, "why": name[:2000]} for name in NAMES}
    event = {"ep": EP, "ts": now, "type": "alarm", "n": HUGE, "frame": -HUGE, "value": 1e308, "score": -1e308}
    numbers = dict.fromkeys(("clk", "ack_ms", "uptime_s", "oldest_s", "head", "acked", "rss_mb"), 1e308)
    return [
        ("status", {"state": "online", "ts": MAX_MS, "boot": "deadbeef", "sess": 2**53, "devices": odd}),
        ("birth", {
            "ts": now, "boot": "deadbeef", "sess": 2**53, "ep": EP, "agent": {"ver": "\u202e"},
            "devices": {name: {"type": "", "streams": {name: {"rate_hz": 1e308}}} for name in NAMES},
            "cmds": [{"name": "x", "args": nested(MAX_DEPTH - 1)}],
        }),
        ("live/_/agent", {"ts": 0, "ep": EP, "boot": "b" * 50_000, "depth": -1e308, **numbers}),
        ("live/_/agent", {"ts": MAX_MS, "ep": EP, "boot": "deadbeef", "depth": 2**63 - 1, **numbers}),
        ("live/arm/joints", {"ts": MAX_MS, "j1": 2**63 - 1, "word": "w" * 50_000, "odd": "\x00\u2028"}),
        ("live/arm/rhythm", {"ts": now, "label": "\x00" * 100, "alarm": True}),
        ("snap/arm/frames", {
            "ts": MAX_MS, "w": 1, "h": 1, "sha256": "", "jpeg": picture, "frame": HUGE, "faces": -HUGE,
            "boxes": [{"label": "", "cls": HUGE, "score": 1e308, "box": [1e308, -1, 0, 0], "track": -HUGE}],
        }),
        ("res/_/ping", {
            "id": "01JD3X5Y6Z7A8B9C0D1E2F3G4H", "state": "done", "code": HUGE, "ts": now,
            "result": nested(MAX_DEPTH - 1),
        }),
        ("log/info", {"ts": MAX_MS, "msg": "\x00\x1b[31m"}),
        ("data/arm/joints", {
            "ep": EP, "seq": 101, "t0": now, "dt": [-(10**12), 0, 1],
            "f": {"j1": [2**63 - 1, -(2**63), 1e308]},
        }),
        ("data/arm/joints", {"ep": EP, "seq": 102, "t0": MAX_MS, "dt": [0], "f": {"word": ["\x00" * 9_000]}}),
        ("data/arm/joints", {"ep": EP, "seq": 103, "t0": 0, "per": 10**9, "n": 2, "f": {"j1": [True, "x"]}}),
        ("event/arm/alarm", {**event, "seq": 104, "detail": nested(MAX_DEPTH - 1)}),
        ("event/arm/alarm", {**event, "seq": 105, "detail": dict.fromkeys(NAMES, HUGE)}),
        ("event/arm/alarm", {**event, "seq": 106, "ts": MAX_MS, "detail": {"v": [None, True, -1e308, ""]}}),
        ("event/_/custody", {**event, "seq": 107, "type": "custody", "detail": nested(5)}),
        ("event/_/gap", {**event, "seq": 108, "type": "gap", "lost": [[1, 20]], "why": "\x00\u202e"}),
    ]  # fmt: skip


DEEP = f'{{"ep":"{EP}","seq":200,"ts":1,"type":"x","detail":%s}}'
WRONG = [
    *(DEEP % ('{"a":' * depth + "1" + "}" * depth) for depth in (MAX_DEPTH + 1, 300, 970, 980, 985, 5_000)),
    f'{{"ep":"{EP}","seq":301,"ts":1,"type":"x","detail":{{"a":{"[" * 980}{"]" * 980}}}}}',
    f'{{"ep":"{EP}","seq":302,"ts":1,"type":"x","n":{"9" * 5_000}}}',
    f'{{"ep":"{EP}","seq":303,"ts":1,"type":"x","value":1e999}}',
    f'{{"ep":"{EP}","seq":304,"ts":1,"type":"x","value":NaN}}',
    f'{{"ep":"{EP}","seq":305,"ts":1,"type":"x","why":"\\ud800"}}',
    f'{{"ep":"{EP}","seq":306,"ts":{MAX_MS + 1},"type":"x"}}',
    f'{{"ep":"{EP}","seq":307,"ts":1,"type":"x","unknown":{"[" * 5_000}{"]" * 5_000}}}',
]  # fmt: skip


async def ask_everything(get: Get) -> None:
    device = f"{BASE}/devices/arm"
    for path in (
        "/api/v1/fleet", BASE, "/api/v1/health", "/api/v1/quarantine?limit=500",
        f"{device}/events?limit=500", f"{BASE}/devices/_/events?limit=500",
        f"{device}/rows?stream=joints&from=0&to={MAX_MS}", f"{device}/rows?stream=joints&from=0&format=csv",
        f"{device}/series?stream=joints&field=j1&from=0&to={MAX_MS}",
        f"{device}/series?stream=joints&field=word&from=0", f"{device}/snapshot/frames",
        f"{device}/snapshot/frames.jpg", "/api/v1/ledger", f"/api/v1/ledger?node={NODE}&days=4000",
    ):  # fmt: skip
        answer = await get(path)
        assert answer.status == 200, (path, answer.body[:300])
        if answer.headers["content-type"] == "application/json":
            json.loads(answer.body)


async def test_what_keeps_the_contract_is_shown_whatever_its_size(
    site: tuple[Collector, Get], caplog: pytest.LogCaptureFixture
) -> None:
    collector, get = site
    caplog.set_level(logging.WARNING)
    now = collector.clock.now_ms()
    before = collector.ingest.counters.quarantined
    sent = bodies(now)
    viewer = collector.hub.join(NODE, "arm")
    for tail, body in sent:
        collector.ingest.receive(Received(f"tb1/{NODE}/{tail}", json.dumps(body).encode(), now, False, None))
    await until(lambda: collector.ingest.counters.stored == 32 + 8)
    assert collector.ingest.counters.quarantined == before, caplog.text
    await ask_everything(get)
    collector.hub.leave(viewer)
    (node,) = (await get("/api/v1/fleet")).json()["nodes"]
    assert node["state"] == "online"
    assert not [line for line in caplog.messages if "please report" in line]


async def test_what_breaks_the_contract_is_quarantined_and_shown(site: tuple[Collector, Get]) -> None:
    collector, get = site
    before = collector.ingest.counters.quarantined
    topics = (
        "event/arm/x",
        "status",
        "birth",
        "live/arm/x",
        "live/_/agent",
        "data/arm/x",
        "snap/arm/x",
        "pack",
    )
    for text in WRONG:
        for tail in topics:
            collector.ingest.receive(Received(f"tb1/{NODE}/{tail}", text.encode(), 1, False, None))
    await until(lambda: collector.ingest.counters.quarantined == before + len(WRONG) * len(topics))
    assert collector.ingest.counters.stored == 32
    await ask_everything(get)


async def test_an_event_that_an_earlier_release_stored_does_not_hide_the_others(
    site: tuple[Collector, Get],
) -> None:
    collector, get = site
    depth = 970
    deep = '{"why":"deep","detail":%s}' % ('{"a":' * depth + "1" + "}" * depth)
    store_event(collector.store.folder, deep.encode(), b"not JSON", b'["a list"]')
    events = (await get(f"{BASE}/devices/arm/events")).json()["events"]
    assert len(events) == 2
    assert {"why": "deep", "detail": {"error": "it nests more than 64 deep"}}.items() <= next(
        one for one in events if one["why"] == "deep"
    ).items()
    assert any(one["why"] == "too warm" for one in events)


def store_event(folder: Path, *some: bytes) -> None:
    (path,) = day_files(folder)
    db = sqlite3.connect(path, timeout=20)
    with db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(event)")]
        names = ", ".join(name for name in columns if name not in ("id", "body", "seq"))
        copied = f"SELECT {names}, ?, ? FROM event WHERE device = 'arm' LIMIT 1"  # noqa: S608
        for at, body in enumerate(some):
            db.execute(f"INSERT INTO event ({names}, seq, body) {copied}", (900 + at, body))
    db.close()
