"""The device that a drill reads: it sends numbered lines of JSON over TCP."""

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
    """Sends `{"n": 0, "t": seconds, "v": 0.5}` to every connected client, `rate_hz` lines a second.

    n counts up and never repeats, also over connections. `jumps` counts where n may jump for a reader: lines
    in flight when a connection ends are gone, and a line with NaN is not JSON.
    """

    def __init__(self, rate_hz: float = 300.0) -> None:
        self.rate_hz = rate_hz
        self.port = 0
        self.sent = 0  # lines, also the next n
        self.jumps = -1  # the first connection does not count
        self.silent = False
        self.nan = False  # send v as NaN, which is not JSON: real devices do so
        self.backward_s = 0.0  # how far t is behind the clock
        self._clock = Clock()
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}
        self._owed = 0

    def flood(self, lines: int) -> None:
        """Send `lines` lines as fast as the reader takes them."""
        self._owed += lines

    def options(self) -> dict[str, Any]:
        """Return the options of the adapter `serial` that read this device."""
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
                # after a pause, make up for one second at most
                due_s = max(due_s + period_s, self._clock.monotonic() - 1.0)
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
