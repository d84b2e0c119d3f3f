"""A TCP proxy that disturbs the connection between a client and a server on demand, with seeded chance."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from wire.errors import Unreachable
from wire.task_cancellation import end

Way = Literal["up", "down", "both"]
_OneWay = Literal["up", "down"]

_CHUNK = 65_536  # bytes taken from a socket at once
_IN_FLIGHT = 64  # chunks of one direction that latency may hold back: bounds memory at 4 MiB
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(slots=True)
class LinkFaults:
    """The faults of one direction; every value may change while connections run."""

    latency_s: float = 0.0
    jitter_s: float = 0.0  # more latency, from 0 up to this, drawn for each chunk; the order is kept
    rate: float = 0.0  # bytes a second of one connection; 0 = no limit
    slice: int = 0  # largest write in bytes; 0 = as received
    corrupt: float = 0.0  # share of the bytes that are changed, 0 to 1
    cut_after: int = 0  # reset a connection after this number of bytes; 0 = never
    hole_after: int = 0  # swallow everything after this number of bytes; 0 = never
    black_hole: bool = False  # swallow every byte, keep the connection up


Harm = LinkFaults  # the name in 0.1.0


class FaultProxy:
    """Forwards `host:port` to a server, with faults; without faults it is a plain proxy.

    `up` is what the client sends, `down` what the server answers. The same seed changes the same bytes of the
    n-th connection, however TCP slices them.
    """

    def __init__(
        self,
        target_port: int,
        *,
        target_host: str = "127.0.0.1",
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        max_connections: int = 1_000,
    ) -> None:
        self.target = (target_host, target_port)
        self.host = host
        self.port = port
        self.up = LinkFaults()
        self.down = LinkFaults()
        self.accepted = 0  # since the start
        self._seed = seed
        self._max = max_connections
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._held: socket.socket | None = None
        self._listening: socket.socket | None = None

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    def set(self, way: Way = "both", **settings: float | bool) -> None:
        """Change settings of `LinkFaults` in one or both directions, e.g. `set("down", latency_s=0.2)`."""
        for faults in {"up": (self.up,), "down": (self.down,), "both": (self.up, self.down)}[way]:
            for name, value in settings.items():
                if name not in LinkFaults.__slots__:
                    raise TypeError(f"no fault {name!r}; there are {', '.join(LinkFaults.__slots__)}")
                setattr(faults, name, value)

    def heal(self) -> None:
        """Remove all faults and accept connections; one that lost bytes stays a black hole until a cut."""
        self.up, self.down = LinkFaults(), LinkFaults()
        self.refuse(False)

    def cut(self, *, reset: bool = True) -> None:
        """End every connection now on both sides, with RST or with FIN."""
        for link in self._links.values():
            link.cut(reset=reset)

    def black_hole(self, on: bool = True, way: Way = "both") -> None:
        """Swallow every byte and keep connections up, as a firewall that forgot them.

        A connection that lost bytes carries nothing after `on=False` either: its stream has a hole.
        """
        self.set(way, black_hole=on)

    def break_after(self, count: int, *, cut: bool) -> None:
        """Let each connection carry `count` bytes each way, then cut it or swallow the rest."""
        self.set("both", **{"cut_after" if cut else "hole_after": count})

    def corrupt(self, share: float, way: Way = "both") -> None:
        """Change this share of the bytes, 0 to 1."""
        self.set(way, corrupt=share)

    def refuse(self, on: bool = True) -> None:
        """Refuse new connections (ECONNREFUSED) or accept them again; the port stays taken."""
        if on and self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        elif not on and self._listening is None and self._held is not None:
            self._listening = _bound(self.host, self.port)
            self._listening.listen(128)
            asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    async def __aenter__(self) -> Self:
        try:
            # bound, never listening: while connections are refused, no other program can take the port
            self._held = _bound(self.host, self.port)
        except OSError as error:
            raise Unreachable(
                f"the fault proxy cannot use {self.host}:{self.port}: {error.strerror}; choose another port"
            ) from error
        self.port = self._held.getsockname()[1]
        self.refuse(False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse(True)
        if self._held is not None:
            self._held.close()
            self._held = None
        self.cut()
        links = dict(self._links)
        await end(links)
        for link in links.values():
            if not link.writers:
                link.client.close()  # cancelled before asyncio had taken it over

    def _faults_of(self, way: _OneWay) -> LinkFaults:
        return self.up if way == "up" else self.down

    def _accept(self, listening: socket.socket) -> None:
        try:
            client, _ = listening.accept()
        except OSError:
            return  # the client disconnected before it was accepted
        client.setblocking(False)
        if len(self._links) >= self._max:
            client.close()
            return
        self.accepted += 1
        link = _Link(client, f"{self._seed}/{self.accepted}")
        task = asyncio.create_task(self._carry(link), name=f"fault-proxy-{self.accepted}")
        self._links[task] = link
        task.add_done_callback(self._links.pop)

    async def _carry(self, link: _Link) -> None:
        try:
            client_reads, client_writes = await asyncio.open_connection(sock=link.client)
            link.opened(client_writes)
            server_reads, server_writes = await asyncio.open_connection(*self.target)
            link.opened(server_writes)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, client_reads, server_writes, "up"))
                group.create_task(self._pump(link, server_reads, client_writes, "down"))
        except OSError:
            link.cut(reset=True)  # there is no server: the client sees a reset
        finally:
            link.cut(reset=False)

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _OneWay
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(self._take(link, reader, queue, way))
            await self._give(link, queue, writer, way)
            taking.cancel()  # the connection was cut, and this task may wait for room in the queue

    async def _take(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        way: _OneWay,
    ) -> None:
        rng = random.Random(f"{link.seed}/{way}/jitter")
        now, due = asyncio.get_running_loop().time, 0.0
        chunk = b"-"
        while chunk:
            try:
                chunk = await reader.read(_CHUNK)
            except OSError:
                chunk = b""
            faults = self._faults_of(way)
            due = max(due, now() + faults.latency_s + rng.random() * faults.jitter_s)
            await queue.put((due, chunk))

    async def _give(
        self,
        link: _Link,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        way: _OneWay,
    ) -> None:
        now = asyncio.get_running_loop().time
        corruption = _Corruption(random.Random(f"{link.seed}/{way}/corrupt"))
        chunk = b"-"
        while chunk:
            due, chunk = await queue.get()
            if due > now():
                await asyncio.sleep(due - now())
            faults = self._faults_of(way)
            if faults.black_hole or way in link.holes:
                link.holes.add(way)
            elif chunk:
                if not await self._write(link, writer, corruption.apply(chunk, faults.corrupt), way):
                    link.cut(reset=True)
                    return
            else:
                with contextlib.suppress(OSError):  # the other side has gone already
                    writer.write_eof()

    async def _write(self, link: _Link, writer: asyncio.StreamWriter, chunk: bytes, way: _OneWay) -> bool:
        """Write a chunk; return whether the connection continues."""
        at = 0
        while at < len(chunk):
            faults = self._faults_of(way)
            size = min(len(chunk) - at, faults.slice or _CHUNK)
            if faults.rate:
                size = min(size, max(1, int(faults.rate / 20)))
            ends = [end for end in (faults.cut_after, faults.hole_after) if end]
            size = min([size, *(max(0, end - link.carried[way]) for end in ends)])
            try:
                writer.write(chunk[at : at + size])
                await writer.drain()
            except OSError:
                return False
            link.carried[way] += size
            at += size
            if ends and link.carried[way] >= min(ends):
                link.holes.add(way)
                return not 0 < faults.cut_after <= link.carried[way]
            if faults.rate:
                await asyncio.sleep(size / faults.rate)
            elif faults.slice:
                await asyncio.sleep(0)
        return True


@dataclass(eq=False, slots=True)
class _Link:
    """One connection through the proxy: both ends, and the bytes carried so far."""

    client: socket.socket
    seed: str
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    carried: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    holes: set[str] = field(default_factory=set)
    over: Literal["", "reset", "closed"] = ""

    def opened(self, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        if self.over:
            self.cut(reset=self.over == "reset")

    def cut(self, *, reset: bool) -> None:
        # asyncio may still be opening the other socket: `opened` closes it then
        self.over = self.over or ("reset" if reset else "closed")
        for writer in self.writers:
            if reset:
                with contextlib.suppress(OSError):  # closed already
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                    )
                writer.transport.abort()
            else:
                writer.close()


class _Corruption:
    """Changes bytes at random distances, so that the borders of chunks do not matter."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._share = 0.0
        self._gap = 0  # unchanged bytes before the next changed one

    def apply(self, chunk: bytes, share: float) -> bytes:
        if share != self._share:
            self._share = share
            self._gap = self._draw()
        if not share:
            return chunk
        out = bytearray(chunk)
        while self._gap < len(out):
            out[self._gap] ^= self._rng.randint(1, 255)
            self._gap += 1 + self._draw()
        self._gap -= len(out)
        return bytes(out)

    def _draw(self) -> int:
        if not 0.0 < self._share < 1.0:
            return 0
        return int(math.log(1.0 - self._rng.random()) / math.log1p(-self._share))


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
