"""Connections: idle, slow and greedy peers take no place from others. Real sockets, real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector.app import Collector
from collector.web import connections as module
from collector.web import event_stream
from collector.web.connections import BoundedProtocol, network_of
from tests.polling import until
from tests.unit.collector.web.serving import serving

HOST = "Host: 127.0.0.1\r\n"
STREAM = f"GET /api/v1/stream HTTP/1.1\r\n{HOST}\r\n".encode()
HEALTH = f"GET /api/v1/health HTTP/1.1\r\n{HOST}\r\n".encode()
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Peers:
    """Raw connections to a collector, from any loopback address."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self._all: list[asyncio.StreamWriter] = []

    async def connect(self, sent: bytes = b"", source: str = "127.0.0.1") -> Peer:
        port = self.collector.socket.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        self._all.append(writer)
        writer.write(sent)
        return reader, writer

    async def status(self, sent: bytes = HEALTH, source: str = "127.0.0.1") -> int:
        """The status of one request on a connection that stays open; 0 when it was cut."""
        reader, _ = await self.connect(sent, source)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(60):
                return int((await reader.readline() or b"x 0").split()[1])
        return 0

    def close(self) -> None:
        for writer in self._all:
            writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait until the collector has ended a connection."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass


@pytest.fixture
async def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peers]:
    """20 places, 4 of them for others than the proxy; addresses below 127.0.0.1 are not proxies."""
    monkeypatch.setattr(module, "MOST", 20)
    monkeypatch.setattr(module, "FOR_OTHERS", 4)
    monkeypatch.setattr(module, "SWEEP_S", 0.05)
    async with serving(tmp_path, connections_per_address=10) as (collector, _):
        made = Peers(collector)
        yield made
        made.close()


async def test_connections_that_send_nothing_take_no_place(peers: Peers) -> None:
    silent = [await peers.connect() for _ in range(60)]
    assert await peers.status() == 200
    assert await peers.status(source="127.0.0.2") == 200
    await ended(silent[0][0])
    assert len(peers.collector.places) <= 20


@pytest.mark.parametrize("first", [b"", HEALTH], ids=["first request", "second request"])
async def test_a_head_has_a_deadline_however_its_bytes_drip(
    peers: Peers, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(module, "HEAD_S", 0.3)
    monkeypatch.setattr(module, "KEEP_S", 0.1)
    reader, writer = await peers.connect(first)

    async def drip() -> None:
        with contextlib.suppress(ConnectionError):
            for byte in HEALTH[:-2] + b"X: " + b"x" * 10_000:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    await ended(reader)
    assert not dripping.done()
    dripping.cancel()


async def test_a_body_that_never_ends_has_a_deadline(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_S", 0.2)
    monkeypatch.setattr(module, "KEEP_S", 0.1)
    reader, _ = await peers.connect(HEALTH[:-2] + b"Content-Length: 100000000\r\n\r\nx")
    await ended(reader)


async def test_one_address_has_its_share_and_others_are_served(peers: Peers) -> None:
    assert [await peers.status(STREAM, "127.0.0.3") for _ in range(10)] == [200] * 10
    reader, _ = await peers.connect(HEALTH, "127.0.0.3")
    answer = await reader.read(1000)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"too many connections are open" in answer
    assert await peers.status(source="127.0.0.2") == 200
    assert await peers.status() == 200


async def test_a_proxy_on_this_machine_has_more_but_not_all(peers: Peers) -> None:
    assert [await peers.status(STREAM) for _ in range(16)] == [200] * 16
    assert await peers.status() == 503
    assert await peers.status(source="127.0.0.2") == 200


async def test_pages_behind_a_proxy_count_by_their_own_address(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MAX_FROM_ADDRESS", 3)
    monkeypatch.setattr(event_stream, "MAX_FROM_PROXY", 3)

    def from_(address: str) -> bytes:
        return STREAM[:-2] + f"X-Forwarded-For: {address}\r\n\r\n".encode()

    assert [await peers.status(from_(f"192.0.2.{at}")) for at in range(6)] == [200] * 6
    assert [await peers.status(from_("198.51.100.1")) for _ in range(4)] == [200, 200, 200, 503]
    assert [await peers.status(from_("198.51.100.2"), "127.0.0.9") for _ in range(4)] == [
        200,
        200,
        200,
        503,
    ], "only a proxy is believed, so all of these are of 127.0.0.9"
    assert await peers.status(from_("198.51.100.3"), "127.0.0.9") == 503


async def filled(peers: Peers) -> tuple[Peer, BoundedProtocol]:
    """A peer that asked for much and reads nothing, and the collector's end of its connection."""
    one = await peers.connect(f"GET /static/app.js HTTP/1.1\r\n{HOST}\r\n".encode() * 3000)
    protocols = peers.collector.server.server_state.connections
    return one, await until(
        lambda: next(
            (end for end in protocols if isinstance(end, BoundedProtocol) and end.flow.write_paused), None
        )
    )


async def test_a_peer_that_reads_nothing_of_its_answers_is_cut_off(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.3)
    async with asyncio.timeout(60):
        _, protocol = await filled(peers)
        await until(lambda: protocol not in peers.collector.server.server_state.connections)


async def test_a_peer_that_reads_slowly_keeps_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 1000)  # this test judges, with times of its own
    async with serving(tmp_path) as (collector, _):
        peers = Peers(collector)
        (reader, _), protocol = await filled(peers)
        protocol.judge(1000)
        before = protocol.waiting
        async with asyncio.timeout(60):
            while protocol.waiting > max(0, before - module.SLOW_BYTES):
                await reader.read(65_536)
        protocol.judge(1000 + module.SLOW_S)
        assert not protocol.transport.is_closing()
        peers.close()


async def test_answers_that_wait_are_bounded_in_all(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1000)
    (reader, _) = await peers.connect(f"GET /static/app.js HTTP/1.1\r\n{HOST}\r\n".encode() * 3000)
    async with asyncio.timeout(60):
        await until(lambda: not len(peers.collector.places))
    await ended(reader)


async def test_the_limits_are_in_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.05)
    async with serving(tmp_path, connections_per_address=12, proxies=[]) as (collector, _):
        peers = Peers(collector)
        assert [await peers.status(STREAM) for _ in range(13)] == [200] * 12 + [503]
        peers.close()


def test_what_counts_as_one_address() -> None:
    for address, expected in {
        "192.0.2.7": "192.0.2.7",
        "::ffff:192.0.2.7": "192.0.2.7",
        "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
        "2001:db8:1:2::7": "2001:db8:1:2::/64",
        "fe80::1%eth0": "fe80::/64",
        "::1": "::1",
        "": "",
        "unix": "unix",
    }.items():
        assert network_of(address) == expected


async def test_the_page_is_served_while_others_hold_what_they_can(peers: Peers) -> None:
    held = [await peers.connect(sent, "127.0.0.5") for sent in (b"", b"GET / HT", STREAM, HEALTH) * 10]
    assert await peers.status(f"GET / HTTP/1.1\r\n{HOST}\r\n".encode(), "127.0.0.6") == 200
    assert len(held) == 40
