"""A simulated thermometer on loopback, for tests without hardware."""

import asyncio
import contextlib

import pytest


@pytest.fixture
async def device():
    """The port of a thermometer that prints a hundred lines a second."""
    connections = set()

    async def serve(_, writer):
        connections.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while True:
                writer.write(b"21.5\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in connections:
        task.cancel()
    await asyncio.gather(*connections)
