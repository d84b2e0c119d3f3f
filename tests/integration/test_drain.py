"""A backlog drains over a narrow link: new rows overtake it, and the account is exact after a kill."""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.outbox import Message, Outbox, OutboxSettings
from collector.store.chunk import times_of
from edgebed.broker import Kind, find
from edgebed.drill.check import kept
from edgebed.drill.device import NumberedDevice
from edgebed.installation import AgentSetup, Installation
from tests.brokers import LONG_TEST_KINDS
from wire.clock import Clock
from wire.codec import decode
from wire.errors import Unreachable
from wire.messages import Batch, Event, Scalar

NODE = "acme/drain/hall/box"
BACKLOG = 5_000
RATE = 25_000.0  # bytes/s of the link


@pytest.fixture(params=LONG_TEST_KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    try:
        find(chosen)
    except Unreachable as error:
        pytest.skip(str(error))
    return chosen


def fill(folder: Path) -> None:
    outbox = Outbox.open(folder, OutboxSettings(max_mb=16), Clock())
    now_ms = Clock().now_ms()
    for number in range(BACKLOG):
        ts = now_ms - 100 * (BACKLOG - number)
        if number % 50 == 0:
            outbox.append(Message("event", "arm", "state", Event(ts=ts, type="state", why="x" * 50)))
        else:
            columns: dict[str, list[Scalar]] = {
                "x": [number / 7, number / 11, number / 13],
                "s": [f"{number:x}" * 4, "", ""],
            }
            outbox.append(Message("data", "arm", "joints", Batch(t0=ts, per=20, n=3, f=columns)))
        if number % 500 == 0:
            outbox.commit()
    outbox.close()


def packed(store: Path, device: str) -> list[int]:
    """Arrival times of a device's chunks in ms: that of the first message of each."""
    query = "SELECT c.recv_ms FROM chunk c JOIN stream s ON s.id = c.stream WHERE s.device = ?"
    return [came for (came,) in asked(store, query, device)]


def landed(store: Path, device: str) -> dict[int, tuple[int, int]]:
    """Of each message of a device that waits to be packed, by its number: arrival and newest row in ms."""
    query = "SELECT r.seq, r.recv_ms, r.body FROM raw r JOIN stream s ON s.id = r.stream WHERE s.device = ?"
    return {
        seq: (came, int(times_of(decode(body, Batch))[-1]) // 1000)
        for seq, came, body in asked(store, query, device)
    }


def asked(store: Path, query: str, device: str) -> Iterator[Any]:
    for day in sorted(store.glob("0*.db")):
        with closing(sqlite3.connect(f"file:{day}?mode=ro", uri=True)) as db:
            yield from db.execute(query, (device,))


async def test_fresh_readings_overtake_and_a_kill_costs_nothing(tmp_path: Path, kind: Kind) -> None:
    folder = tmp_path / "installation"
    fresh: dict[int, tuple[int, int]] = {}
    fill(folder / "state-box" / "outbox")
    async with NumberedDevice(rate_hz=40.0) as device:
        config = tmp_path / "box.yaml"
        document = {
            "node": NODE,
            "broker": {"url": "mqtt://127.0.0.1:1"},
            "state": "state",
            "outbox": {"max_mb": 16},
            "devices": {"counter": {"adapter": "serial", "options": device.options()}},
        }
        config.write_text(yaml.safe_dump(document))
        async with Installation(folder, [AgentSetup("box", config, "counter")], broker=kind) as installation:
            installation.links["box"].set("both", latency_s=0.02, rate=RATE)

            async def stored(wanted: int) -> bool:
                entries = (await installation.api("/api/v1/ledger"))["entries"]
                if entries:  # a chunk keeps one arrival for all its messages: look before they are packed
                    fresh.update(landed(folder / "store", "counter"))
                return any(entry["stored"] >= wanted for entry in entries)

            await installation.until("a part of the backlog is stored", lambda: stored(BACKLOG // 3), 90)
            installation.agents["box"].kill()
            installation.agents["box"].start()
            await installation.until("the backlog is stored", lambda: stored(BACKLOG), 120)
            assert installation.agent_status("box")["uplink"]["packs"] > 0

            for _ in range(5):
                await asyncio.to_thread(installation.agents["box"].stop)
                last = installation.agent_status("box")
                if last["depth"] == 0:
                    break
                installation.agents["box"].start()
                await installation.until(
                    "the agent is back", lambda: installation.agent_status("box").get("connected")
                )
            head = last["head"]
            await installation.until("every message is stored", lambda: stored(head))
    ((_, held),) = kept(folder / "store").items()
    assert held.violations(head, device.jumps) == []
    assert held.lost == set()
    old = packed(folder / "store", "arm") + [came for came, _ in landed(folder / "store", "arm").values()]
    last_ms = max(old)
    overtaking = [(came, taken) for came, taken in fresh.values() if came < last_ms]
    assert len(overtaking) >= 3
    drained_ms = last_ms - min(old)
    assert statistics.median(came - taken for came, taken in overtaking) < drained_ms / 3
