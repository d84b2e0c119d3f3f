"""A collector that serves over real HTTP without a broker, for the tests of this room."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.mqtt.received import Received
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import encode
from wire.messages import (
    AgentInfo,
    Batch,
    Birth,
    Box,
    Device,
    DeviceState,
    Event,
    Field,
    Snapshot,
    Status,
    Stream,
)

NODE, EP = "acme/trial/hall/cobot-01", "00112233aabbccdd"


BASE = f"/api/v1/nodes/{NODE}"


TOKEN = "-".join(["a", "token", "of", "some", "length"])


JPEG = b"\xff\xd8\xff\xe0 picture"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


Get = Callable[..., Awaitable[Answer]]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def serving(
    tmp_path: Path, site: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Collector, Get]]:
    config = CollectorConfig(
        broker=Broker(url=f"mqtt://127.0.0.1:{closed_port()}"),
        store=tmp_path / "store",
        group_commit_ms=10,
        http=Http(port=0, **options),
        **(site or {}),
    )
    collector = Collector(config, Clock())
    ready = asyncio.Event()
    running = asyncio.create_task(collector.run(ready.set))

    def ask(path: str, method: str, body: Any, headers: dict[str, str]) -> Answer:
        port = collector.socket.getsockname()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        if body is not None:
            headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}", **headers}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    async def get(path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
        return await asyncio.to_thread(ask, path, method, body, headers)

    try:
        async with asyncio.timeout(60):
            await ready.wait()
        yield collector, get
    finally:
        collector.stop()
        async with asyncio.timeout(60):
            await running


async def until_stored(collector: Collector, messages: int) -> None:
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        if collector.ingest.counters.stored >= messages:
            return
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


def fill(collector: Collector, node: str = NODE) -> None:
    """Feed the collector what a node with an arm sends."""
    now = collector.clock.now_ms()

    def receive(tail: str, body: Any) -> None:
        payload = body if isinstance(body, bytes) else encode(body)
        collector.ingest.receive(Received(f"tb1/{node}/{tail}", payload, now, False, None))

    fields = {"j1": Field(unit="rad"), "word": Field(t="str")}
    arm = Device(type="cobot", streams={"joints": Stream(rate_hz=50.0, fields=fields)})
    boxes = [Box(label="car", cls=1, score=0.5, box=(0.1, 0.1, 0.2, 0.2))]
    receive(
        "status",
        Status(state="online", ts=now, boot="deadbeef", sess=1, devices={"arm": DeviceState(state="ok")}),
    )
    receive(
        "birth",
        Birth(ts=now, boot="deadbeef", sess=1, ep=EP, agent=AgentInfo(ver="0.1.0"), devices={"arm": arm}),
    )
    receive("live/_/agent", {"ts": now, "ep": EP, "head": 33, "depth": 1, "taken_rows": 300, "clk": 0})
    receive("live/arm/joints", {"ts": now, "j1": 1.5})
    receive(
        "snap/arm/frames",
        Snapshot(ts=now, w=64, h=48, sha256="ab", jpeg=JPEG, frame=7, model="m@1", boxes=boxes),
    )
    for seq in range(1, 31):
        columns = {"j1": [float(seq)] * 10, "word": ["x"] * 10}
        receive("data/arm/joints", Batch(ep=EP, seq=seq, t0=now - (31 - seq) * 200, per=20, n=10, f=columns))
    receive("event/arm/alarm", Event(ep=EP, seq=31, ts=now - 5, type="alarm", sev=3, why="too warm"))
    receive("event/_/gap", Event(ep=EP, seq=32, ts=now, type="gap", lost=[(40, 41)], why="disk full"))
    receive("data/arm/joints", b"garbage")
