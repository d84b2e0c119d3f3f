"""Two copies: what it costs that both collectors must have a message, and what an absent one costs."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from agent.uplink.uplink import NodeHooks, NodeIdentity, Uplink, UplinkSettings
from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from wire.broker import Broker
from wire.clock import Clock
from wire.messages import AgentInfo, Batch, Birth, ClockState, Status
from wire.task_cancellation import end
from wire.topics import Address

NAMES = ("collector-1", "collector-2")
RATE_HZ = 50.0  # messages of each node
BOTH_S = 20.0
AWAY_S = 30.0
_BOOT = "ab" * 8
_GUARD_S = 120.0


def run(both_s: float = BOTH_S, away_s: float = AWAY_S) -> list[dict[str, Any]]:
    """Return the rows of this part: a node of one copy and a node of two work side by side."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("EDGEBED_BENCH_DIR")) as name:
        return asyncio.run(_measure(Path(name), both_s, away_s))


async def _measure(folder: Path, both_s: float, away_s: float) -> list[dict[str, Any]]:
    with ExitStack() as running:
        broker = running.enter_context(BrokerProcess("nats", folder / "broker"))
        children = [running.enter_context(_collector(folder, broker, name)) for name in NAMES]
        one, two = (_Node(folder, broker.port, name) for name in ("one", "two"))
        async with one, two:
            for node in (one, two):
                await node.feed(2.0)
                await node.emptied()  # both collectors are there
                node.released_s.clear()
                node.most = 0
            await asyncio.gather(one.feed(both_s), two.feed(both_s))
            both = [(np.percentile(node.released_s, p), node.most) for node in (one, two) for p in (50, 99)]
            await asyncio.to_thread(children[1].kill)
            sent, taken, held = two.sent, two.taken, two.outbox.stats().bytes
            one.released_s.clear()
            await asyncio.gather(one.feed(away_s), two.feed(away_s))
            alone = np.percentile(one.released_s, 50)
            away_sent, away_taken = two.sent - sent, two.taken - taken
            kept = (two.outbox.stats().bytes - held) / away_taken
            children[1].start()
            began_s = time.monotonic()
            await two.emptied()
            back_s, again = time.monotonic() - began_s, two.sent - sent - away_sent
    (one_50, one_most), (one_99, _), (two_50, two_most), (two_99, _) = both
    away, kept_text = f"one collector is away for {away_s:g} s", "bytes that stay in the outbox"
    return [
        _row("taken to released, p50; peer: a node of one copy", two_50 * 1e3, one_50 * 1e3, "ms"),
        _row("the same, p99", two_99 * 1e3, one_99 * 1e3, "ms"),
        _row("bytes in the outbox at most; peer: the same", two_most, one_most, "bytes"),
        _row(f"{away}: messages sent; peer: taken", away_sent, away_taken, "messages"),
        _row("the same: a node of one copy, p50; peer: before", alone * 1e3, one_50 * 1e3, "ms"),
        _row(f"the same: {kept_text} for each message", kept, None, "bytes"),
        _row("it is back: messages sent; peer: those that it lacked", again, away_taken, "messages"),
        _row("the same: from its start until the outbox is empty", back_s, None, "s"),
    ]


def _collector(folder: Path, broker: BrokerProcess, name: str) -> Child:
    options = ("--store", str(folder / name), "--broker", broker.url, "--port", "0", "--id", name)
    return Child(name, edgebed_command("collector", "run", *options), folder / f"{name}.log")


class _Node:
    """An outbox and its uplink; the node `two` needs both collectors."""

    def __init__(self, folder: Path, port: int, name: str) -> None:
        names = NAMES if name == "two" else ()
        address, clock = Address("bench", "copies", "hall", name), Clock()
        settings = OutboxSettings(ack_from=list(names))
        self.outbox = Outbox.open(folder / f"node-{name}" / "outbox", settings, clock)
        self.released_s: list[float] = []
        self.most = self.taken = 0
        self._waiting: deque[tuple[int, float]] = deque()
        hooks = NodeHooks(
            describe=lambda: Birth(ts=0, boot=_BOOT, sess=0, ep=self.outbox.ep, agent=AgentInfo(ver="1")),
            status=lambda: Status(state="online", ts=0, boot=_BOOT, sess=0),
            clock_state=lambda: ClockState.NTP,
            on_command=_no_command,
        )
        self._uplink = Uplink(
            NodeIdentity(address, _BOOT, "1"),
            Broker(url=f"mqtt://127.0.0.1:{port}"),
            self.outbox,
            clock,
            hooks,
            UplinkSettings(folder / f"node-{name}", ack_from=names),
        )

    async def __aenter__(self) -> _Node:
        self._tasks = [
            asyncio.create_task(keep_committing(self.outbox, 50)),
            asyncio.create_task(self._uplink.run()),
            asyncio.create_task(self._watch()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._tasks)
        self.outbox.close()

    @property
    def sent(self) -> int:
        return self._uplink.counters.get("sent", 0)

    async def feed(self, seconds: float) -> None:
        """Take messages at the rate, then wait a moment for what is in flight."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            values: list[Any] = [float(at) for at in range(50)]
            body = Batch(t0=Clock().now_ms(), per=1, n=50, f={"x": values})
            self._waiting.append(
                (self.outbox.append(Message("data", "arm", "joints", body)), time.monotonic())
            )
            self.taken += 1
            await asyncio.sleep(1 / RATE_HZ)
        await asyncio.sleep(1.0)

    async def emptied(self) -> None:
        """Wait until nothing waits in the outbox."""
        async with asyncio.timeout(_GUARD_S):
            while self.outbox.stats().depth:  # noqa: ASYNC110 - acknowledgements come in any order
                await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.004)
            stats = self.outbox.stats()
            self.most = max(self.most, stats.bytes)
            while self._waiting and self._waiting[0][0] <= stats.acked:
                self.released_s.append(time.monotonic() - self._waiting.popleft()[1])


async def _no_command(*_: object) -> Any:
    raise NotImplementedError


def _row(what: str, ours: float, peer: float | None, unit: str) -> dict[str, Any]:
    ratio = None if not peer else round(float(ours / peer), 2)
    peer = None if peer is None else float(peer)
    return {"what": what, "ours": float(ours), "peer": peer, "ratio": ratio, "unit": unit, "limit": ""}
