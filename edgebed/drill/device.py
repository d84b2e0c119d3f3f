"""The device a drill reads: numbered lines of JSON over TCP, each row told from any other."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import TracebackType
from typing import Any, Self

from wire.clock import NS_PER_S, Clock

FIELD = "n"
STREAM = "rows"


class NumberedDevice:
    """Sends `{"n": 0, "t": seconds, "v": 0.5}`, n counting up for ever, to whoever is connected.

    `rate_hz` lines a second; n never repeats, whatever connects and goes. `jumps` counts where n may jump for
    a reader: what was on its way when a connection ended is gone, and a line with NaN is no JSON.
    """

    def __init__(self, rate_hz: float = 300.0) -> None:
        self.rate_hz = rate_hz
        self.port = 0
        self.sent = 0  # lines, also the next n
        self.jumps = -1  # the first connection is none
        self.silent = False
        self.nan = False  # v is NaN, which is no JSON: a device that does so exists
        self.backward_s = 0.0  # t is so far behind
        self._clock = Clock()
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}
        self._owed = 0

    def flood(self, lines: int) -> None:
        """Send so many lines as fast as the reader takes them."""
        self._owed += lines

    def options(self) -> dict[str, Any]:
        """What an agent's config says of it: `adapter: serial`."""
        return {
            "url": f"tcp://127.0.0.1:{self.port}",
            "format": "json",
            "stream": STREAM,
            "fields": {FIELD: {"t": "i64", "at": "n"}, "v": {"at": "v"}},
            "time_at": "t",
            "time_unit": "s",
            "first_line": True,
            "silence_s": 3,
        }

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for writer, task in list(self._writers.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._writers.values(), return_exceptions=True)

    async def _serve(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._writers[writer] = task
        self.jumps += 1
        period_s = 1 / self.rate_hz
        due_s = self._clock.monotonic()
        try:
            while not writer.is_closing():
                due_s = max(
                    due_s + period_s, self._clock.monotonic() - 1.0
                )  # no more than a second is made up
                await self._clock.sleep(due_s - self._clock.monotonic())
                if self.silent:
                    continue
                writer.write(self._line())
                while self._owed > 0:
                    for _ in range(min(self._owed, 100)):
                        writer.write(self._line())
                    self._owed -= 100
                    await writer.drain()
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._writers.pop(writer, None)
            with contextlib.suppress(RuntimeError):  # the loop has closed
                writer.transport.abort()

    def _line(self) -> bytes:
        at_s = self._clock.now_ns() / NS_PER_S - self.backward_s
        line = {FIELD: self.sent, "t": round(at_s, 6), "v": float("nan") if self.nan else self.sent / 2}
        self.sent += 1
        self.jumps += self.nan
        return json.dumps(line).encode() + b"\n"
