"""A connection that carries lines: a line that arrived in time is read, even if the reader is late."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from adapters.lines.lines import Lines, LineSource
from wire.clock import Clock


async def test_a_line_that_came_while_the_process_was_paused_is_in_time() -> None:
    talks: list[asyncio.StreamWriter] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        lines = Lines(
            LineSource(f"tcp://127.0.0.1:{port}", "127.0.0.1", port), Clock(), Counter(), max_line=100
        )
        await lines.open(60.0)
        loop = asyncio.get_running_loop()
        while not talks:  # noqa: ASYNC110 - the server sets no event
            await asyncio.sleep(0)
        by_s = loop.time() + 0.01
        talks[0].write(b"late\n")
        time.sleep(0.05)  # noqa: ASYNC251 - the process is paused while the line arrives
        assert await lines.next(by_s) == b"late"
        assert await lines.next(loop.time()) is None
        lines.close()
        talks[0].transport.abort()
