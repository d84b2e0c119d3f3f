"""HTTP connections with limits: one address never takes every place, and a slow peer is cut off.

A connection without a request holds no place: the oldest of these is closed when another one needs a place.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 500  # connections in all
FOR_OTHERS = 50  # places that connections of one proxy never take
LEAVING = 50  # refused connections that get an answer; the others are cut off
LEAVE_S = 1.0
HEAD_S = 10.0  # for the head of the first request
KEEP_S = 30.0  # between two requests; the head of the next one may take HEAD_S more
SLOW_S = 20.0  # within this time a peer must read SLOW_BYTES of an answer, or the rest
SLOW_BYTES = 20_000
MAX_WAITING = 512_000_000  # bytes of answers that wait for their peers
SWEEP_S = 1.0

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s"
)
_WHY = b'{"error":"too many connections are open: close some, or try again later"}'


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    if found.is_loopback:
        return str(found)
    return str(ipaddress.IPv6Network((found, 64), strict=False))


class Places:
    """The open connections; only the event loop uses it. `share` is the limit of one address."""

    def __init__(self, *, share: int, proxies: Iterable[str] = ()) -> None:
        self._share = share
        self._proxies = {network_of(proxy) for proxy in proxies}
        self._open: dict[BoundedProtocol, None] = {}  # in the order in which they came or became idle
        self._counts: Counter[str] = Counter()
        self._leaving = 0

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def protocol(self, *args: Any, **more: Any) -> BoundedProtocol:
        """Make the protocol of one connection: the `http` of a uvicorn config."""
        made = BoundedProtocol(*args, **more)
        made.places = self
        return made

    def enter(self, one: BoundedProtocol) -> bool:
        """Give a place to a new connection; False when there is none."""
        limit = MOST - FOR_OTHERS if one.address in self._proxies else self._share
        if self._counts[one.address] >= limit:
            if not self._make_room(one.address):
                return False
        elif len(self._open) >= MOST and not self._make_room():
            return False
        self._open[one] = None
        self._counts[one.address] += 1
        return True

    def _make_room(self, address: str = "") -> bool:
        """Close the oldest connection without a request: of one address, or of the one with the most."""
        idle = [one for one in self._open if one.is_idle and address in ("", one.address)]
        if not idle:
            return False
        most = max(self._counts[one.address] for one in idle)
        next(one for one in idle if self._counts[one.address] == most).cut()
        return True

    def became_idle(self, one: BoundedProtocol) -> None:
        """Move a connection to the end of the order."""
        if one in self._open:
            del self._open[one]
            self._open[one] = None

    def leave(self, one: BoundedProtocol) -> None:
        """Free the place of a connection; without effect if it has none."""
        if one not in self._open:
            return
        del self._open[one]
        self._counts[one.address] -= 1
        if not self._counts[one.address]:
            del self._counts[one.address]

    def refuse(self, one: BoundedProtocol) -> None:
        """Answer 503 and close; a flood is cut off without an answer."""
        if self._leaving >= LEAVING:
            one.transport.abort()
            return
        self._leaving += 1
        one.transport.write(_FULL % (len(_WHY), _WHY))
        if one.transport.can_write_eof():  # TLS cannot
            one.transport.write_eof()
        one.loop.call_later(LEAVE_S, self._gone, one)  # a close with unread data would destroy the answer

    def _gone(self, one: BoundedProtocol) -> None:
        self._leaving -= 1
        one.transport.abort()

    async def sweep(self) -> None:
        """Cut off slow peers, without end."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            for one in list(self._open):
                one.judge(now_s)
            self._bound_waiting()

    def _bound_waiting(self) -> None:
        waiting = {one: one.waiting for one in self._open}
        total = sum(waiting.values())
        while total > MAX_WAITING:
            largest = max(waiting, key=lambda one: waiting[one])
            total -= waiting.pop(largest)
            largest.cut()


class BoundedProtocol(H11Protocol):
    """One connection that may be slow or silent only within limits."""

    places: Places
    address = ""
    _refused = False
    _idle_since = 0.0
    _served = False
    _mark: tuple[float, int] | None = None  # when an answer began to wait, and how much of it

    @property
    def is_idle(self) -> bool:
        """Whether it neither waits for an answer nor reads one."""
        return self._ends and not self.waiting

    @property
    def waiting(self) -> int:
        """Bytes of answers that its peer has not read."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, or refuse."""
        super().connection_made(transport)
        self.address = network_of(self.client[0]) if self.client else ""
        self._idle_since = time.monotonic()
        if not self.places.enter(self):
            self._refused = True
            self.places.refuse(self)

    def data_received(self, data: bytes) -> None:
        """Take what arrived, unless the connection is refused."""
        if not self._refused:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        self.places.leave(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since, self._served = time.monotonic(), True
        self.places.became_idle(self)
        super().on_response_complete()

    def judge(self, now_s: float) -> None:
        """Cut the connection if its peer is too slow."""
        waiting = self.waiting
        if not waiting:
            self._mark = None
            limit = HEAD_S if not self._served else KEEP_S + HEAD_S
            if self.is_idle and now_s - self._idle_since > limit:
                self.cut()
            return
        if self._mark is None or (not self.flow.write_paused and not self._ends):
            self._mark = (now_s, waiting)
        elif now_s - self._mark[0] >= SLOW_S:
            if waiting > max(0, self._mark[1] - SLOW_BYTES):
                self.cut()
            self._mark = (now_s, waiting)
            self._idle_since = now_s

    @property
    def _ends(self) -> bool:
        """Whether all of its answers are handed to the transport."""
        return self.cycle is None or self.cycle.response_complete

    def cut(self) -> None:
        """End the connection now, whatever waits."""
        self.places.leave(self)
        self.transport.abort()
