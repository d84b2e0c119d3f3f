"""The fault proxy makes the faults that are set, no others, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from simulators.faults import FaultProxy
from tests.polling import until
from wire.errors import Unreachable

PATTERN = bytes(range(256)) * 64


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """Port of a server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Line:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 60)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_without_settings_it_is_a_plain_proxy(echo: int) -> None:
    async with FaultProxy(echo) as proxy:
        async with connected(proxy.port) as one, connected(proxy.port) as two:
            big = PATTERN * 100
            assert await one.ask(big) == big
            assert await two.ask(b"other") == b"other"
            assert proxy.connections == 2
            one.writer.write_eof()
            assert await one.reader.read() == b""
        await until(lambda: proxy.connections == 0)
        assert proxy.accepted == 2


async def test_latency_delays_and_does_not_limit_throughput(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        proxy.set("down", latency_s=0.2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(20):
            line.writer.write(PATTERN)
        await line.reader.readexactly(20 * len(PATTERN))
        assert 0.2 <= loop.time() - began < 3.0  # one after another they would take 4 s


async def test_jitter_keeps_order(echo: int) -> None:
    async with FaultProxy(echo, seed=3) as proxy, connected(proxy.port) as line:
        proxy.set(jitter_s=0.01, slice=100)
        assert await line.ask(PATTERN) == PATTERN


async def test_rate_limits(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        proxy.set("up", rate=40_000)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await line.ask(PATTERN)  # 16,384 bytes
        assert loop.time() - began > 0.3


async def test_corruption_hits_the_same_bytes_for_the_same_seed(echo: int) -> None:
    async def answers(seed: int, *, sliced: int) -> bytes:
        async with FaultProxy(echo, seed=seed) as proxy:
            proxy.set("down", corrupt=0.01)
            proxy.set("up", slice=sliced)
            async with connected(proxy.port) as line:
                return await line.ask(PATTERN)

    first = await answers(1, sliced=0)
    assert await answers(1, sliced=333) == first
    assert await answers(2, sliced=0) != first
    changed = sum(a != b for a, b in zip(first, PATTERN, strict=True))
    assert 80 < changed < 260  # 164 expected


async def test_every_byte_can_be_corrupted_and_it_can_end(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        proxy.set("up", corrupt=1.0)
        assert all(a != b for a, b in zip(await line.ask(PATTERN), PATTERN, strict=True))
        proxy.heal()
        assert await line.ask(PATTERN) == PATTERN


async def test_cut_after_passes_exactly_that_number_of_bytes(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        proxy.set("down", cut_after=1_000, slice=300)
        line.writer.write(PATTERN)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(line.reader.readexactly(1_001), 60)
        await until(lambda: proxy.connections == 0)


async def test_hole_after_passes_exactly_that_number_of_bytes_and_stays_up(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        proxy.set("down", hole_after=1_000, slice=300)
        line.writer.write(PATTERN)
        assert await asyncio.wait_for(line.reader.readexactly(1_000), 60) == PATTERN[:1_000]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.2)
        assert proxy.connections == 1


@pytest.mark.parametrize("reset", [True, False])
async def test_cut_ends_every_connection(echo: int, reset: bool) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        await line.ask(b"hello")
        proxy.cut(reset=reset)
        ended = asyncio.wait_for(line.reader.read(), 60)
        if reset:
            with pytest.raises(ConnectionResetError):
                await ended
        else:
            assert await ended == b""
        await until(lambda: proxy.connections == 0)
        async with connected(proxy.port) as again:
            assert await again.ask(b"again") == b"again"


async def test_a_cut_hits_connections_at_any_moment_of_their_making(echo: int) -> None:
    """Each cut comes after another number of turns of the loop, some while asyncio opens the socket."""
    failed: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: failed.append(what))
    async with FaultProxy(echo) as proxy:
        for turns in range(12):
            accepted = proxy.accepted
            clients = [asyncio.create_task(_ended(proxy.port)) for _ in range(4)]
            while proxy.accepted == accepted:  # noqa: ASYNC110 - turns of the loop are what counts
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            proxy.cut()
            for client in clients:
                while not client.done():  # those that connected after the cut
                    await asyncio.sleep(0.001)
                    proxy.cut()
            await until(lambda: proxy.connections == 0)
    assert failed == []


async def _ended(port: int) -> None:
    with contextlib.suppress(OSError):
        async with connected(port) as line:
            await line.reader.read()


async def test_black_hole_swallows_keeps_up_and_never_resumes_a_torn_stream(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        await line.ask(b"hello")
        proxy.black_hole()
        line.writer.write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.2)
        proxy.black_hole(False)
        line.writer.write(b"after the hole")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.reader.read(1), 0.2)
        assert proxy.connections == 1
        async with connected(proxy.port) as new:
            assert await new.ask(b"new") == b"new"


async def test_refuse_refuses_keeps_the_port_and_takes_it_back(echo: int) -> None:
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        await line.ask(b"hello")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        with socket.socket() as thief, pytest.raises(OSError):
            thief.bind(("127.0.0.1", proxy.port))
        assert await line.ask(b"still") == b"still"
        proxy.refuse(False)
        async with connected(proxy.port) as new:
            assert await new.ask(b"new") == b"new"


async def test_an_absent_server_resets_the_client_and_the_proxy_lives(echo: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with FaultProxy(free.getsockname()[1]) as proxy, connected(proxy.port) as line:
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(line.reader.read(), 60)
            await until(lambda: proxy.connections == 0)


async def test_leaving_ends_what_is_stuck(echo: int) -> None:
    tasks = asyncio.all_tasks()
    async with FaultProxy(echo) as proxy, connected(proxy.port) as line:
        proxy.set("down", latency_s=60.0)
        proxy.set("up", rate=1.0)
        line.writer.write(PATTERN)
        await until(lambda: proxy.connections == 1)
    left = [task for task in asyncio.all_tasks() - tasks if "fault-proxy" in task.get_name()]
    assert not left


async def test_connections_are_bounded(echo: int) -> None:
    async with FaultProxy(echo, max_connections=1) as proxy, connected(proxy.port) as line:
        await line.ask(b"hello")
        async with connected(proxy.port) as second:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(second.reader.read(), 60) == b""
        assert proxy.connections == 1


async def test_a_taken_port_is_one_clear_error(echo: int) -> None:
    with pytest.raises(Unreachable, match=f"cannot use 127.0.0.1:{echo}: Address already in use"):
        async with FaultProxy(1, port=echo):
            pass


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(TypeError, match="no fault 'lag'; there are latency_s"):
        FaultProxy(1).set(lag=1)
