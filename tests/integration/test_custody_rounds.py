"""The promise: 20 mixed kills and cuts on each broker, then 0 lost, 0 doubled, order kept, ledger exact."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
import zstandard

from edgebed.broker import KINDS, Kind, find
from edgebed.stand import Site, Stand
from wire.errors import Unreachable

ROUNDS = 20
ROWS = 10_000
FAULTS = ["agent", "broker", "collector", "cut", "black hole", "stop collector", "agent and link"]
NODE = "node-1"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An agent that replays numbered rows at 1 kHz, for ever."""
    rows = tmp_path / "rows.csv"
    rows.write_text("time,n\n" + "".join(f"{n / 1000:.3f},{n}\n" for n in range(ROWS)))
    document = {
        "node": f"acme/drill/bench/{NODE}",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": "state",
        "devices": {
            "log": {
                "adapter": "replay",
                "options": {
                    "file": str(rows),
                    "time": "time",
                    "stream": "rows",
                    "fields": {"n": "n"},
                    "loop": True,
                },
            }
        },
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.timeout(420)
@pytest.mark.parametrize("kind", KINDS)
async def test_twenty_mixed_rounds_lose_nothing(
    kind: Kind, tmp_path: Path, config: Path, require: Any
) -> None:
    try:
        find(kind)
    except Unreachable:
        require("mosquitto")
    dice, restarts = random.Random(20_261_122), 0
    async with Stand(tmp_path / "stand", [Site(NODE, config, "log")], broker=kind) as stand:
        await stand.until("the first messages are stored", lambda: _stored(stand, 3))
        for round_ in range(ROUNDS):
            before = await _account(stand)
            restarts += await _harm(stand, dice)
            # each round must see new data stored, or the next fault would meet a system that is down anyway
            await stand.until(
                f"round {round_} recovers", lambda low=before["stored"] + 2: _stored(stand, low)
            )
        restarts += await _stop_empty(stand)
        status = stand.agent_status(NODE)
        await stand.until("the ledger settles", lambda: _stored(stand, status["head"]))
        ledger = await stand.api("/api/v1/ledger")
    (entry,) = ledger["entries"]
    assert entry["ep"] == status["ep"]
    assert (entry["taken"], entry["stored"]) == (status["head"], status["head"])
    assert (entry["missing"], entry["gaps"], entry["waiting"]) == ([], [], 0)
    _independent_check(tmp_path / "stand" / "store", status["head"], restarts)


async def _harm(stand: Stand, dice: random.Random) -> bool:
    """One fault; returns whether the agent was restarted."""
    link = stand.links[NODE]
    pause = dice.uniform(0.2, 1.0)
    fault = dice.choice(FAULTS)
    match fault:
        case "agent":
            stand.agents[NODE].kill()
            await asyncio.sleep(pause)
            stand.agents[NODE].start()
        case "broker":
            stand.broker.kill()
            await asyncio.sleep(pause)
            stand.broker.start()
        case "collector":
            stand.collector.kill()
            await asyncio.sleep(pause)
            stand.collector.start()
        case "stop collector":
            await asyncio.to_thread(stand.collector.stop)
            stand.collector.start()
        case "cut":
            link.refuse(True)
            link.cut(reset=dice.random() < 0.5)
            await asyncio.sleep(pause)
            link.refuse(False)
        case "black hole":
            link.black_hole(True)
            await asyncio.sleep(pause)
            link.cut()
            link.black_hole(False)
        case "agent and link":
            link.refuse(True)
            link.cut()
            stand.agents[NODE].kill()
            stand.agents[NODE].start()
            await asyncio.sleep(pause)
            link.refuse(False)
    return fault.startswith("agent")


async def _stop_empty(stand: Stand) -> int:
    """Stop the agent; a stop while the link is down leaves messages for the next start, so start it again."""
    for starts in range(10):
        assert await asyncio.to_thread(stand.agents[NODE].stop) == 0
        if stand.agent_status(NODE)["depth"] == 0:
            return starts
        stand.agents[NODE].start()
        await stand.until("the agent is back", lambda: _back(stand))
    raise AssertionError("ten stops, and messages still wait")


def _back(stand: Stand) -> bool:
    status = stand.agent_status(NODE)
    return bool(status["running"] and status["connected"])


async def _account(stand: Stand) -> dict[str, int]:
    totals: dict[str, int] = (await stand.api("/api/v1/ledger"))["totals"]
    return totals


async def _stored(stand: Stand, low: int) -> bool:
    return (await _account(stand))["stored"] >= low


def _independent_check(store: Path, head: int, restarts: int) -> None:
    """Read the day files without the collector's code: every message once, every row in its place."""
    messages: dict[int, tuple[list[int], list[int]]] = {}
    for day in sorted(store.glob("0*.db")):
        with closing(sqlite3.connect(f"file:{day}?mode=ro", uri=True)) as database:
            for (body,) in database.execute("SELECT body FROM chunk ORDER BY id"):
                for seq, times, values in _messages(body):
                    assert seq not in messages, f"message {seq} is stored twice"
                    messages[seq] = times, values
    assert sorted(messages) == list(range(1, head + 1)), "a message is missing"
    times = [at for seq in sorted(messages) for at in messages[seq][0]]
    assert times == sorted(times), "a later number carries an earlier time"
    values = [value for seq in sorted(messages) for value in messages[seq][1]]
    # the recording counts up and begins again at its end or with a new agent: anything else is a lost row
    breaks = [pair for pair in pairwise(values) if pair[1] != (pair[0] + 1) % ROWS]
    assert len(breaks) <= restarts
    assert all(after == 0 for _, after in breaks), breaks


def _messages(body: bytes) -> Iterator[tuple[int, list[int], list[int]]]:
    """Sequence number, times and values of each message in a chunk, see docs/decisions/0004-store.md."""
    plain = zstandard.ZstdDecompressor().decompress(body, max_output_size=2**24)
    size = int.from_bytes(plain[:4], "little")
    messages, columns, *_ = msgspec.msgpack.decode(plain[4 : 4 + size])
    rows = sum(count for _, count in messages)
    ((name, kind, width),) = columns
    assert (name, width) == ("n", 8 * rows)
    times = np.cumsum(np.frombuffer(plain, np.int64, rows, 4 + size)).tolist()
    dtype = {"d": np.float64, "q": np.int64}[kind]
    values = np.frombuffer(plain, dtype, rows, 4 + size + 8 * rows).astype(int).tolist()
    at = 0
    for seq, count in messages:
        yield seq, times[at : at + count], values[at : at + count]
        at += count
