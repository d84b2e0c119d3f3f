"""One bad peer does not stall others; what the store cannot take waits in the outboxes, not in RAM."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import secrets
import select
import socket
import sqlite3
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgebed.broker import BrokerProcess, free_port
from edgebed.processes import Child, edgebed_command
from tests.brokers import LONG_TEST_KINDS
from wire.codec import encode
from wire.messages import Batch
from wire.task_cancellation import end

pytestmark = pytest.mark.parametrize("broker", LONG_TEST_KINDS, indirect=True)

FLOOD = 2_000
FAULT_S = 2.5  # long enough to fill every buffer that a bad peer could fill
BASE = "tb1/acme/trial/hall"


class Centre(Child):
    """A collector process and its HTTP API."""

    def __init__(self, folder: Path, broker: BrokerProcess) -> None:
        self.port = free_port()
        self.store = folder / "store"
        command = edgebed_command(
            "collector", "run", "--store", str(self.store), "--broker", broker.url, "--port", str(self.port)
        )
        super().__init__("collector", command, folder / "collector.log")

    async def ask(self, path: str) -> Any:
        def get() -> Any:
            url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)

        return await asyncio.to_thread(get)

    @property
    def rss_mb(self) -> float:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    @property
    def day(self) -> Path:
        return max(self.store.glob("0*.db"))

    async def stored(self) -> dict[str, int]:
        entries = (await self.ask("ledger"))["entries"]
        return {entry["node"].rpartition("/")[2]: entry["stored"] for entry in entries}


class Site:
    """Three boxes that send ten messages a second each, and their measurements."""

    def __init__(self, centre: Centre, broker: BrokerProcess, boxes: list[Any]) -> None:
        self.centre, self.broker, self.boxes = centre, broker, boxes
        self.paused = False

    async def feed(self) -> None:
        while True:
            for box in self.boxes:
                if not self.paused:
                    box.take()
            await asyncio.sleep(0.1)

    async def goes_on(self) -> None:
        """Check during the fault: every box's messages are acknowledged, and the collector does not grow."""
        rss_mb = self.centre.rss_mb
        for wait_s in (FAULT_S, 0.0):  # once more, for messages taken meanwhile
            await asyncio.sleep(wait_s)
            heads = [box.outbox.head for box in self.boxes]
            async with asyncio.timeout(60):
                while not self._acknowledged(heads):  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.05)
        assert self.centre.rss_mb - rss_mb < 25

    def _acknowledged(self, heads: list[int]) -> bool:
        """Return whether all messages up to these numbers are acknowledged."""
        return all(box.outbox.stats().acked >= head for box, head in zip(self.boxes, heads, strict=True))

    async def grow(self, before: dict[str, int], count: int) -> None:
        """Wait until this many more messages of each box are stored."""
        async with asyncio.timeout(60):
            while True:
                now = await self.centre.stored()
                if all(now.get(name, 0) >= before.get(name, 0) + count for name in ("n1", "n2", "n3")):
                    return
                await asyncio.sleep(0.1)

    async def on_disk(self) -> None:
        """Wait until taken messages are on disk: on a slow disk the outbox drops what fills its memory."""
        async with asyncio.timeout(60):
            while any(box.outbox.stats().head < box.outbox.head for box in self.boxes):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def drained(self) -> None:
        """Wait until the outboxes are empty."""
        self.paused = True
        async with asyncio.timeout(90):
            while any(box.depth for box in self.boxes):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.05)


@pytest.fixture
async def site(tmp_path: Path, broker: BrokerProcess, start_box: Any) -> AsyncIterator[Site]:
    with Centre(tmp_path, broker) as centre:
        await asyncio.to_thread(centre.first_line)
        made = Site(centre, broker, [await start_box(name, broker.port) for name in ("n1", "n2", "n3")])
        feeding = asyncio.create_task(made.feed(), name="feed")
        try:
            await made.grow({}, 5)
            yield made
        finally:
            await end({feeding})


async def test_one_bad_peer_does_not_stall_others(site: Site) -> None:
    with a_viewer_that_does_not_read(site.centre.port), a_subscriber_that_does_not_read(site.broker.port):
        await site.goes_on()
        with flooding(site.broker.port, good):
            await site.goes_on()
        with flooding(site.broker.port, rubbish):
            await site.goes_on()
    await site.drained()
    stored = await site.centre.stored()
    assert [stored[box.address.node] for box in site.boxes] == [box.outbox.head for box in site.boxes]
    assert (await site.centre.ask("health"))["quarantined"] > 100
    log = site.centre.log.read_text()
    assert "Traceback" not in log
    assert log.count("was quarantined") < 10, "logged, but not for each message"


async def test_what_the_store_cannot_take_waits_in_the_outboxes(site: Site) -> None:
    """The store's file is locked with one broker, and its disk is full with the other."""
    rss_mb = site.centre.rss_mb
    with locked(site.centre.day) if site.broker.kind == "nats" else full(site.centre):
        await until_blocked(site.centre)
        held = await site.centre.stored()
        for box in site.boxes:  # far more than the collector may hold in memory
            for _ in range(14):
                box.take(50, size=20_000)
                await site.on_disk()
        await asyncio.sleep(3.0)
        assert await site.centre.stored() == held
        assert (await site.centre.ask("health"))["store"]["state"] == "blocked"
        assert all(box.depth >= 700 for box in site.boxes), "nothing is acknowledged"
        assert site.centre.rss_mb - rss_mb < 60
    await site.drained()
    stored = await site.centre.stored()
    assert [stored[box.address.node] for box in site.boxes] == [box.outbox.head for box in site.boxes]
    log = site.centre.log.read_text()
    assert log.count("nothing is acknowledged until it is stored") == 1


async def until_blocked(centre: Centre) -> None:
    async with asyncio.timeout(60):
        while (await centre.ask("health"))["store"]["state"] != "blocked":  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.1)


@contextmanager
def locked(day: Path) -> Iterator[None]:
    """Lock the day file, as a backup program does that does not know SQLite."""
    with contextlib.closing(sqlite3.connect(day, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(centre: Centre) -> Iterator[None]:
    """Stop the collector's files from growing."""
    largest = max(path.stat().st_size for path in centre.store.iterdir())
    before = resource.prlimit(centre.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(centre.pid, resource.RLIMIT_FSIZE, (largest + 4096, before[1]))
    try:
        yield
    finally:
        resource.prlimit(centre.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def a_viewer_that_does_not_read(port: int) -> Iterator[None]:
    """Request all data of a node and read nothing."""
    with socket.create_connection(("127.0.0.1", port)) as viewer:
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.sendall(b"GET /api/v1/stream?node=acme/trial/hall/n1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        yield


@contextmanager
def a_subscriber_that_does_not_read(port: int) -> Iterator[None]:
    """Subscribe to all topics and read nothing."""
    with connected(port, "slow") as subscriber:
        subscriber.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        topic = b"tb1/#"
        subscriber.sendall(packet(0x82, b"\x00\x01" + text(topic) + b"\x01"))
        yield


@contextmanager
def flooding(port: int, body: Any) -> Iterator[None]:
    """Publish `FLOOD` messages as fast as the broker takes them, also without PUBACKs, then continue slowly.

    The later rate is one that a slow machine can quarantine: messages are stored in the order they are sent.
    """
    done, flooded = threading.Event(), list[int]()

    def flood() -> None:
        with connected(port, "flood") as node:
            node.setblocking(False)
            number = 0
            while not done.is_set():
                burst = bytearray()
                for _ in range(100):
                    number += 1
                    topic = text(f"{BASE}/hostile/data/arm/x".encode())
                    burst += packet(0x32, topic + (number % 60_000 + 1).to_bytes(2) + body(number))
                while burst and not done.wait(0 if select.select([], [node], [], 0.1)[1] else 0.1):
                    with contextlib.suppress(BlockingIOError):
                        del burst[: node.send(burst)]
                    with contextlib.suppress(BlockingIOError):
                        while node.recv(65_536):
                            pass
                if number >= FLOOD:
                    done.wait(2.0)
        flooded.append(number)

    thread = threading.Thread(target=flood, name="flood")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert flooded[0] > 500, "it was a flood"


def good(number: int) -> bytes:
    return encode(Batch(ep="0123456789abcdef", seq=number, t0=1_795_356_000_000, per=1, n=1, f={"x": [1.0]}))


def rubbish(number: int) -> bytes:
    return b'{"ep":"0123456789abcdef","seq":%d,"t0":"%s"}' % (number, secrets.token_hex(20).encode())


@contextmanager
def connected(port: int, name: str) -> Iterator[socket.socket]:
    """Open an MQTT 3.1.1 connection with a hand-written CONNECT."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x3c" + text(name.encode())))
        assert client.recv(4)[:2] == b"\x20\x02"
        yield client


def packet(kind: int, body: bytes) -> bytes:
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([kind, *length, size]) + body


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2) + value
