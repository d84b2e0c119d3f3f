"""Devices that only send, on a schedule: to every client on TCP, or on a pseudo terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from simulators.devices.running import listening, pseudo_terminal, stopped
from simulators.faults.fault import DeviceFaults
from wire.clock import NS_PER_S, Clock

_GIVE_UP_NS = 10 * NS_PER_S  # later than this, samples are skipped
_BEHIND = 65_536  # bytes that a client may leave unread: a serial line does not wait


class Talker(ABC):
    """A device that sends something at each sample of its schedule, to every client."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        clock: Clock | None,
        rate_hz: int,
        terminal: bool,
        faults: DeviceFaults,
    ) -> None:
        self.clock = clock or Clock()
        self.rate_hz = rate_hz
        self.start_ns = 0  # time of sample 0
        self.skipped = 0  # samples that a sleeping machine missed
        self._period_ns = NS_PER_S // rate_hz
        self._faults = faults
        self._line = LineServer(host, port, terminal=terminal)
        self._index = 0
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    def output(self, index: int) -> bytes:
        """The bytes that go over the line for one sample."""

    @property
    def url(self) -> str:
        """What the adapter's `url` takes."""
        return self._line.url

    @property
    def port(self) -> int:
        """The TCP port; 0 on a pseudo terminal."""
        return self._line.port

    @property
    def lost(self) -> int:
        """The number of lines that clients did not read in time."""
        return self._line.lost

    def inject(self, fault: str) -> None:
        """Break something from now on, or from the fault's start where that is later."""
        self._faults.add(fault, self._index / self.rate_hz)

    def repair(self) -> None:
        """Remove every fault."""
        self._faults.clear()

    def unplug(self) -> None:
        """Pull the cable."""
        self._line.unplug()

    async def __aenter__(self) -> Self:
        await self._line.__aenter__()
        self.start_ns = -(-self.clock.now_ns() // self._period_ns) * self._period_ns
        self._task = asyncio.create_task(self._talk(), name="talker")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        try:
            await stopped(task)
        finally:
            await self._line.__aexit__(kind, error, trace)

    def _sample(self, at_ns: int) -> int | None:
        """The index of the sample with this time; None where there is no sample."""
        index, rest = divmod(at_ns - self.start_ns, self._period_ns)
        return None if rest or index < 0 else index

    def _at_ns(self, index: int) -> int:
        return self.start_ns + index * self._period_ns

    async def _talk(self) -> None:
        while True:
            due_ns = self._at_ns(self._index)
            await self.clock.sleep_until(due_ns)
            late_ns = self.clock.now_ns() - due_ns
            if late_ns > _GIVE_UP_NS * self.clock.rate:
                self.skipped += late_ns // self._period_ns
                self._index += late_ns // self._period_ns
            self._line.send(self.output(self._index))
            self._index += 1
            await asyncio.sleep(0)  # clients are served between samples, however late the device is


class LineServer:
    """Use: `async with LineServer("127.0.0.1", 0) as line: line.send(data)`."""

    def __init__(self, host: str, port: int, *, terminal: bool = False) -> None:
        self.host, self.port = host, port
        self.lost = 0  # sends that a listener missed, or got a part of
        self._terminal = terminal
        self._path = ""
        self._ends: tuple[int, ...] = ()  # of the pseudo terminal: the device's and the client's
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """`tcp://host:port`, or `serial:///dev/pts/3?baud=9600`."""
        return f"serial://{self._path}?baud=9600" if self._terminal else f"tcp://{self.host}:{self.port}"

    def send(self, data: bytes) -> None:
        """Send to every client; a client that does not read misses it."""
        for writer in self._clients.values():
            if writer.transport.get_write_buffer_size() < _BEHIND:
                writer.write(data)
            else:
                self.lost += 1
        if self._ends:
            try:
                self.lost += os.write(self._ends[0], data) < len(data)
            except BlockingIOError:
                self.lost += 1

    def unplug(self) -> None:
        """Pull the cable: connections end, and the pseudo terminal goes away."""
        for end in self._ends:
            os.close(end)
        self._ends = ()
        for writer in self._clients.values():
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        if self._terminal:
            device_end, client_end, self._path = pseudo_terminal()
            self._ends = (device_end, client_end)
            return self
        with listening("the device", self.host, self.port):
            self._server = await asyncio.start_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.unplug()
        await asyncio.gather(*self._clients)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_listen(reader, writer), name="line-client")
        self._clients[task] = writer
        task.add_done_callback(self._clients.pop)


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1_024):
            pass  # a device that only sends ignores its input
    writer.close()
