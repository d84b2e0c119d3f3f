"""Counts what the uplink sends, and decides what the fence leaves for each kind of message."""

from __future__ import annotations

import math

from agent.fences.fences import Fences
from wire.mqtt.async_client import AsyncClient

_BACKLOG = 0.5  # of the burst stays free of a backlog
_PICTURE = 0.25  # of the burst stays free of pictures
_STEP = 16_384  # bytes: reading less of a backlog at once is not worth an access to the disk
_TICK_S = 0.001  # rounding must not make a wait of zero


class UplinkFence:
    """The bytes of all connections, before TLS, against the limit of `fences`; with None all may pass.

    The less is left, the fewer kinds pass: first a backlog waits, then pictures are dropped, then new
    messages wait, and live values are dropped last. Status, birth, answers and heartbeats always pass, and
    are made up for.
    """

    def __init__(self, fences: Fences | None) -> None:
        self._fences = fences
        self._bucket = None if fences is None else fences.uplink
        self._link: AsyncClient | None = None
        self._before = 0  # bytes of earlier connections
        self._charged = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes since the start, with those that wait for the socket."""
        return self._before + (0 if self._link is None else self._link.taken)

    def opened(self, link: AsyncClient) -> None:
        """Count a new connection."""
        self._link = link

    def closed(self) -> None:
        """Note the end of the connection."""
        self._before, self._link = self.sent_bytes, None

    def _left(self) -> float:
        """Bytes that may be sent now."""
        if self._bucket is None or self._fences is None:
            return math.inf
        sent = self.sent_bytes
        self._bucket.spend(sent - self._charged)
        self._charged = sent
        return self._bucket.left(self._fences.now_s())

    def may_send(self) -> bool:
        """Whether a new message may be sent now."""
        return self._left() > 0

    def may_picture(self) -> bool:
        """Whether a picture may be sent now."""
        return self._bucket is None or self._left() > self._bucket.depth * _PICTURE

    def may_live(self) -> bool:
        """Whether a live value may be sent now."""
        return self._bucket is None or self._left() > -self._bucket.depth

    def backlog(self) -> int:
        """Bytes of a backlog that may be read now; 0 while it is too little to be worth it."""
        if self._bucket is None:
            return 2**62
        room = self._left() - self._bucket.depth * _BACKLOG
        return int(room) if room >= self._step else 0

    def wait_s(self, *, backlog: bool = False) -> float:
        """Seconds until a new message, or a backlog, may be sent."""
        if self._bucket is None:
            return 0.0
        self._left()
        level = self._bucket.depth * _BACKLOG + self._step if backlog else 0.0
        return self._bucket.wait_s(level) + _TICK_S

    def held(self) -> None:
        """Note that something waits because of the fence."""
        if self._fences is not None:
            self._fences.uplink_held()

    @property
    def _step(self) -> float:
        return 0.0 if self._bucket is None else min(_STEP, self._bucket.depth / 4)
