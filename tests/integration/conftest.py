"""A collector process and a publisher; an agent's outbox and uplink in this process."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.commands import Commands
from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from agent.uplink.uplink import NodeHooks, NodeIdentity, Uplink, UplinkSettings
from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import Child, edgebed_command
from tests import paho_client
from wire.broker import Broker
from wire.clock import Clock
from wire.messages import AgentInfo, Batch, Birth, ClockState, Status
from wire.task_cancellation import end
from wire.topics import Address

BOOT = "ab" * 8


class Box:
    """`take` puts rows in; unacknowledged messages stay in `outbox`."""

    def __init__(self, folder: Path, address: Address, port: int, ack_from: tuple[str, ...] = ()) -> None:
        self.address = address
        self.ahead: list[tuple[str, int]] = []  # what collectors stated to be ahead
        settings = OutboxSettings(max_mb=64, ack_from=list(ack_from))
        self.outbox = Outbox.open(folder / "outbox", settings, Clock())
        self.uplink = Uplink(
            NodeIdentity(address, BOOT, "1"),
            Broker(url=f"mqtt://127.0.0.1:{port}"),
            self.outbox,
            Clock(),
            NodeHooks(
                describe=lambda: Birth(ts=0, boot=BOOT, sess=0, ep=self.outbox.ep, agent=AgentInfo(ver="1")),
                status=lambda: Status(state="online", ts=0, boot=BOOT, sess=0),
                clock_state=lambda: ClockState.NTP,
                on_command=Commands(folder, Clock(), {}).handle,
                on_ahead=lambda by, ahead: self.ahead.append((by, ahead)),
            ),
            UplinkSettings(folder, ack_from=ack_from),
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
async def start_box(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Box]]]:
    """`await start_box("n1", port)`: a box at work as node acme/trial/hall/n1."""
    boxes: list[Box] = []

    async def start(name: str, port: int, ack_from: tuple[str, ...] = ()) -> Box:
        box = Box(tmp_path / name, Address("acme", "trial", "hall", name), port, ack_from)
        boxes.append(box)
        box.start()
        return box

    yield start
    for box in boxes:
        await box.stop()


class CollectorProcess(Child):
    """A collector process and its HTTP API."""

    def __init__(
        self, folder: Path, broker: BrokerProcess, shares: str = "{}", name: str = "collector-1"
    ) -> None:
        self.port = free_port()
        folder.mkdir(exist_ok=True)
        config = folder / "collector.yaml"
        config.write_text(
            f"id: {name}\nstore: {folder / 'store'}\nbroker: {{url: '{broker.url}'}}\n"
            f"http: {{port: {self.port}}}\nshares: {shares}\n"
        )
        command = edgebed_command("collector", "run", str(config))
        super().__init__("collector", command, folder / "collector.log")

    def ask(self, path: str) -> Any:
        """The answer of the API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=60) as answer:
            return json.load(answer)

    def online(self) -> None:
        """Wait until it has opened its port and is connected to the broker."""
        self.first_line()
        self.until(lambda: self.ask("health")["broker"]["state"] == "online", "it connects")

    def until(self, what: Callable[[], bool], why: str) -> None:
        """Wait until `what` holds; a failure shows what the collector says."""
        end_s = time.monotonic() + 60
        while not what():
            assert time.monotonic() < end_s, f"{why}: {self.ask('health')} {self.ask('ledger')}"
            time.sleep(0.05)


@pytest.fixture
def publisher(broker: BrokerProcess) -> Iterator[mqtt.Client]:
    """A client that is connected to the broker."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="publisher")
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    yield client
    paho_client.end(client)
