"""An agent's outbox and uplink in this process, with a link that can be made faulty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agent.commands import Commands
from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from agent.uplink.uplink import NodeIdentity, Uplink
from wire.broker import Broker
from wire.clock import Clock
from wire.messages import AgentInfo, Batch, Birth, ClockState, Status
from wire.task_cancellation import end
from wire.topics import Address

BOOT = "ab" * 8


class Box:
    """`take` puts rows in; unacknowledged messages stay in `outbox`."""

    def __init__(self, folder: Path, address: Address, port: int) -> None:
        self.address = address
        self.outbox = Outbox.open(folder / "outbox", OutboxSettings(max_mb=64), Clock())
        self.uplink = Uplink(
            NodeIdentity(address, BOOT, "1"),
            Broker(url=f"mqtt://127.0.0.1:{port}"),
            self.outbox,
            Clock(),
            state=folder,
            describe=lambda: Birth(ts=0, boot=BOOT, sess=0, ep=self.outbox.ep, agent=AgentInfo(ver="1")),
            status=lambda: Status(state="online", ts=0, boot=BOOT, sess=0),
            clock_state=lambda: ClockState.NTP,
            on_command=Commands(folder, Clock(), {}).handle,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start committing and sending."""
        self._tasks = [
            asyncio.create_task(keep_committing(self.outbox, 5), name="committer"),
            asyncio.create_task(self.uplink.run(), name="uplink"),
        ]

    async def stop(self) -> None:
        """End both, and close the outbox."""
        await end(self._tasks)
        self.outbox.close()

    def take(self, count: int = 1, *, size: int = 0) -> None:
        """Messages of one row, with about `size` bytes of text."""
        for _ in range(count):
            columns = {"x": [1.0], **({"text": ["x" * size]} if size else {})}
            body = Batch(t0=Clock().now_ms(), per=1, n=1, f=columns)  # type: ignore[arg-type]  # scalars
            self.outbox.append(Message("data", "arm", "joints", body))

    @property
    def depth(self) -> int:
        """The number of unacknowledged messages."""
        stats = self.outbox.stats()
        return stats.depth + self.outbox.head - stats.head


@pytest.fixture
async def start_box(tmp_path: Path) -> AsyncIterator[Callable[[str, int], Awaitable[Box]]]:
    """`await start_box("n1", port)`: a box at work as node acme/trial/hall/n1."""
    boxes: list[Box] = []

    async def start(name: str, port: int) -> Box:
        box = Box(tmp_path / name, Address("acme", "trial", "hall", name), port)
        boxes.append(box)
        box.start()
        return box

    yield start
    for box in boxes:
        await box.stop()
