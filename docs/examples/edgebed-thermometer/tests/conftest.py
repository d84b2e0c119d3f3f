"""A thermometer on loopback, for tests without one."""

import asyncio
import contextlib

import pytest


@pytest.fixture
async def device():
    """A thermometer that prints a hundred lines a second; its port."""
    talks = set()

    async def talk(_, writer):
        talks.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while True:
                writer.write(b"21.5\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in talks:
        task.cancel()
    await asyncio.gather(*talks)
