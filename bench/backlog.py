"""Measure a waiting and draining backlog: memory, time to open, drain rate, delay of fresh readings."""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from bench.footprint import cpu_s
from collector.store.source import ALL, Hole
from collector.store.sqlite_source import SqliteSource
from edgebed.broker import BrokerProcess, Kind, find, free_port
from edgebed.drill.device import NumberedDevice
from edgebed.processes import Child, edgebed_command
from wire.clock import NS_PER_S, Clock
from wire.codec import decode
from wire.errors import EdgebedError, Unreachable
from wire.messages import Ack, Batch
from wire.topics import Address

BACKLOG = 100_000
MILLION = 1_000_000
NODE = Address("bench", "backlog", "hall", "box")
ROWS_HZ = 50.0  # rate of the device that is read meanwhile
QUIET_S = 8.0  # without a backlog, for comparison
WAIT_S = 4.0  # how long a million messages wait without a broker
DRAIN_S = 10.0  # how long they drain; then the measurement ends
GROUP_COMMIT_MS = 50
APPEND_HZ = 1_000.0  # records appended a second where the time to the disk is measured
APPEND_S = 5.0
_SIZE = 250  # bytes of a waiting body


def run(backlog: int = BACKLOG, million: int = MILLION) -> list[dict[str, Any]]:
    """Return the rows of this part."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EDGEBED_BENCH_DIR")) as name:
        folder = Path(name)
        rows = _durable(folder / "durable")
        for kind in _brokers():
            rows += asyncio.run(_fresh_beside(folder / kind, kind, backlog))
        rows += asyncio.run(_million(folder / "million", million))
    return rows


def _brokers() -> Iterator[Kind]:
    yield "nats"
    try:
        find("mosquitto")
    except Unreachable:
        return
    yield "mosquitto"


async def _fresh_beside(folder: Path, kind: Kind, backlog: int) -> list[dict[str, Any]]:
    """Measure the age of fresh readings when they are stored, with and without a draining backlog."""
    async with _Site(folder / "quiet", kind) as site:
        began_s = _now_s()
        await asyncio.sleep(QUIET_S)
        quiet = site.latencies_ms
    before = quiet(began_s, began_s + QUIET_S)
    async with _Site(folder / "drain", kind, backlog=backlog) as site:
        began_s, drain = _now_s(), _Drain()
        await site.drained(drain, 0)
        draining = site.latencies_ms
    during = draining(began_s, drain.until_s)
    what = f"while {backlog:,} messages drain; peer: without a backlog"
    return [
        _row(
            f"{kind}: taken to stored, fresh readings, p50 {what}", _p(during, 50), _p(before, 50), "ms", ""
        ),
        _row(f"{kind}: the same, p99", _p(during, 99), _p(before, 99), "ms", ""),
        _row(
            f"{kind}: drained beside {ROWS_HZ:g} rows/s, {_SIZE} B each", drain.rate, None, "messages/s", ""
        ),
        _row(f"{kind}: bytes the agent sent for each", drain.sent / backlog, None, "bytes", ""),
        _row(f"{kind}: agent's CPU for each", drain.cpu_s / backlog * 1e6, None, "us", ""),
        _row(f"{kind}: agent's memory at most; peer: at its start", drain.rss_mb, site.rss_mb, "MB", "flat"),
    ]


async def _million(folder: Path, count: int) -> list[dict[str, Any]]:
    """Measure memory and start with `count` waiting messages, and the first `DRAIN_S` of their drain."""
    async with _Site(folder / "none", "nats", serving=False) as site:
        await asyncio.sleep(WAIT_S)
        ready_s, empty_mb = site.ready_s, _rss_mb(site.agent.pid)
    async with _Site(folder / "full", "nats", backlog=count, serving=False) as site:
        await asyncio.sleep(WAIT_S)
        waiting_mb, drain = _rss_mb(site.agent.pid), _Drain()
        site.serve()
        await site.drained(drain, DRAIN_S)
    return [
        _row(f"start to ready with {count:,} waiting; peer: none", site.ready_s, ready_s, "s", ""),
        _row("memory while they wait, no broker; peer: none", waiting_mb, empty_mb, "MB", "flat"),
        _row(
            f"memory at most in the first {DRAIN_S:g} s of their drain", drain.rss_mb, empty_mb, "MB", "flat"
        ),
        _row("drained meanwhile", drain.rate, None, "messages/s", ""),
    ]


@dataclass
class _Drain:
    """The figures of a drain."""

    rate: float = 0.0  # messages/s stored
    rss_mb: float = 0.0
    cpu_s: float = 0.0
    sent: int = 0  # bytes
    until_s: float = 0.0


@dataclass
class _Site:
    """Broker, collector, and an agent with a device and `backlog` messages in its outbox."""

    folder: Path
    kind: Kind
    backlog: int = 0
    serving: bool = True
    ready_s: float = 0.0
    rss_mb: float = 0.0
    acked: list[tuple[float, Ack]] = field(default_factory=list)

    async def __aenter__(self) -> _Site:
        self.folder.mkdir(parents=True)
        if self.backlog:
            fill(self.folder / "state" / "outbox", self.backlog)
        self.broker = BrokerProcess(self.kind, self.folder / "broker")
        self.port = free_port()
        command = edgebed_command(
            "collector",
            "run",
            "--store",
            str(self.store),
            "--broker",
            self.broker.url,
            "--port",
            str(self.port),
        )
        self.collector = Child("collector", command, self.folder / "collector.log")
        self.device = NumberedDevice(ROWS_HZ)
        await self.device.__aenter__()
        self.agent = Child(
            "agent", edgebed_command("agent", "run", str(self._config())), self.folder / "agent.log"
        )
        self.observer = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="observer")
        self.observer.on_message = self._hear
        if self.serving:
            self.serve()
        await self._start_agent()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.agent.stop)
        await self.device.__aexit__(None, None, None)
        self.observer.disconnect()
        self.observer.loop_stop()
        self.collector.stop()
        self.broker.stop()

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def serve(self) -> None:
        """Start broker, collector and observer."""
        self.broker.start()
        self.collector.start()
        self.collector.first_line()
        self.observer.connect(self.broker.host, self.broker.port)
        self.observer.subscribe(NODE.topic("ack"), 0)
        self.observer.loop_start()
        while self.health()["broker"]["state"] != "online":
            time.sleep(0.02)

    async def _start_agent(self) -> None:
        began_s = time.monotonic()
        self.agent.start()
        status = self.folder / "state" / "status.json"
        while not status.exists():
            if time.monotonic() > began_s + 60:
                raise EdgebedError(f"the agent did not start: {self.agent.tail()}")
            await asyncio.sleep(0.01)
        self.ready_s = time.monotonic() - began_s
        self.rss_mb = _rss_mb(self.agent.pid)

    def _config(self) -> Path:
        path = self.folder / "box.yaml"
        document = {
            "node": str(NODE),
            "broker": {"url": self.broker.url},
            "state": "state",
            "outbox": {"max_mb": 1_000, "group_commit_ms": GROUP_COMMIT_MS},
            "devices": {"counter": {"adapter": "serial", "options": self.device.options()}},
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def _hear(self, _client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        self.acked.append((_now_s(), decode(bytes(message.payload), Ack)))

    def health(self) -> Any:
        """Return the collector's health document."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/health", timeout=30) as answer:
            return json.load(answer)

    async def drained(self, drain: _Drain, within_s: float) -> None:
        """Measure until the whole backlog is stored, or for `within_s`."""
        cpu, sent, began_s = cpu_s(self.agent.pid), _sent(self.folder / "state"), time.monotonic()
        stored = 0
        while stored < self.backlog and (not within_s or time.monotonic() < began_s + within_s):
            await asyncio.sleep(0.1)
            stored = (await asyncio.to_thread(self.health))["stored"]
            drain.rss_mb = max(drain.rss_mb, _rss_mb(self.agent.pid))
        drain.rate = stored / (time.monotonic() - began_s)
        drain.cpu_s = cpu_s(self.agent.pid) - cpu
        drain.sent = _sent(self.folder / "state") - sent
        drain.until_s = _now_s()

    def latencies_ms(self, since_s: float, until_s: float) -> list[float]:
        """Return for each message the time from its newest row to the report that it is stored."""
        first: dict[int, float] = {}
        for at_s, ack in self.acked:
            for low, high in ack.ok:
                if high - low < 100_000:
                    for seq in range(low, high + 1):
                        first.setdefault(seq, at_s)
        taken = ((seq, at_s) for seq, at_s in _taken(self.store, "counter") if since_s <= at_s < until_s)
        return [(first[seq] - at_s) * 1000 for seq, at_s in taken if seq in first]


def fill(folder: Path, count: int) -> None:
    """Write an outbox in which `count` messages wait."""
    outbox = Outbox.open(folder, OutboxSettings(max_mb=1_000), Clock())
    now_ms = Clock().now_ms()
    for number in range(count):
        outbox.append(_message(now_ms - 100 * (count - number)))
        if number % 2_000 == 0:
            outbox.commit()
    outbox.close()


def _durable(folder: Path) -> list[dict[str, Any]]:
    """Measure how long a record waits until it is on disk, with the agent's group commit."""
    waits = asyncio.run(_appending(folder))
    what = f"enqueue to durable at {APPEND_HZ:g} records/s, group commit {GROUP_COMMIT_MS} ms"
    return [
        _row(f"{what}, p50", _p(waits, 50), None, "ms", ""),
        _row("the same, p99", _p(waits, 99), None, "ms", ""),
    ]


async def _appending(folder: Path) -> list[float]:
    outbox = Outbox.open(folder, OutboxSettings(max_mb=64), Clock())
    asked: list[float] = []
    durable: list[float] = []

    def committed() -> None:
        now_s = time.perf_counter()
        durable.extend([now_s] * (outbox.stats().head - len(durable)))

    outbox.on_commit(committed)
    committer = asyncio.create_task(keep_committing(outbox, GROUP_COMMIT_MS), name="committer")
    await asyncio.sleep(0)
    began_s = time.perf_counter()
    while (now_s := time.perf_counter()) < began_s + APPEND_S:
        while len(asked) < (now_s - began_s) * APPEND_HZ:
            asked.append(time.perf_counter())
            outbox.append(_message(Clock().now_ms()))
        await asyncio.sleep(0.001)
    committer.cancel()
    await asyncio.wait({committer})
    await asyncio.to_thread(outbox.commit)
    outbox.close()
    return [(done - at) * 1000 for at, done in zip(asked, durable, strict=True)]


def _taken(store: Path, device: str) -> Iterator[tuple[int, float]]:
    """Return seq and time of the newest row of each stored message of a device, from the day files."""
    with closing(SqliteSource(store)) as source:
        for stream in source.streams(str(NODE)).get(device, ()):
            for chunk in source.chunks_between((str(NODE), device, stream), 0, ALL, names=()):
                if isinstance(chunk, Hole):
                    raise EdgebedError(chunk.why)
                at = 0
                for seq, rows in chunk.content.head.messages:
                    yield seq, float(chunk.content.times[at : at + rows].max()) / 1e6
                    at += rows


def _message(t0: int) -> Message:
    return Message("data", "arm", "joints", Batch(t0=t0, per=20, n=5, f=next(_COLUMNS)))


def _columns() -> Iterator[dict[str, list[Any]]]:
    """Return columns like real measurements: slow changes with noise, rounded to the sensor's resolution."""
    dice = random.Random(1)
    while True:
        yield {
            f"j{joint}_position": [round(30 * joint + dice.gauss(0, 1), 3) for _ in range(5)]
            for joint in range(1, 4)
        }


def _now_s() -> float:
    return Clock().now_ns() / NS_PER_S


def _p(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split(maxsplit=1)[0]) / 1024


def _sent(state: Path) -> int:
    """Return the bytes of bodies and topics that the agent has sent since its start."""
    return int(json.loads((state / "status.json").read_text())["uplink"].get("sent_bytes", 0))


def _row(what: str, ours: float, peer: float | None, unit: str, limit: str) -> dict[str, Any]:
    return {"what": what, "ours": ours, "peer": peer, "unit": unit, "limit": limit}


_COLUMNS = _columns()


if __name__ == "__main__":
    from bench.__main__ import table

    print(table(run()))
