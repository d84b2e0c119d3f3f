"""A socket that reads ahead, yields whole MQTT packets and gathers what it sends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

_AHEAD = 65_536
_PUBLISH = 0x30
_PUBACK = b"\x40\x02"


class PublishPacket(NamedTuple):
    """A PUBLISH packet; `mid` is 0 with QoS 0. The body of one that is too large is cut, or empty."""

    topic: bytes
    body: bytes
    mid: int
    retained: bool
    dup: bool

    @property
    def topic_name(self) -> str:
        """The topic as text; bytes that are not UTF-8 are escaped."""
        return self.topic.decode(errors="backslashreplace")


class Malformed(ValueError):
    """The bytes are not MQTT; nothing after them can be read."""


class PacketSocket:
    """A non-blocking socket: `fill` reads ahead, `send` gathers until `flush`.

    `publishes` yields the PUBLISH packets: paho would read single bytes and acknowledge each message by
    itself, ten times the work. `packet` gives each other packet, which paho can read after `release`.
    """

    def __init__(self, sock: socket.socket, largest: int, *, cuts_large: bool) -> None:
        # of the last bytes received, of the last other packet, and of the last `send`
        self.heard_s = self.read_s = self.sent_s = time.monotonic()
        self.has_ended = False  # the peer closed the connection
        self._sock = sock
        self._largest = largest
        self._cuts_large = cuts_large
        self._held = b""
        self._at = 0
        self._released = 0  # up to where `recv` may read
        self._skip = 0  # bytes to come of a packet that was too large to be kept
        self._unsent = bytearray()
        self._sent = 0

    def fill(self) -> None:
        """Read ahead once, without waiting, unless a whole packet is here: its receiver was full.

        Raises:
            OSError: the connection is broken.
            Malformed: the bytes are not MQTT.
        """
        start, end = extent(self._held, self._at)
        if start and end <= len(self._held):
            return
        try:
            more = self._sock.recv(_AHEAD)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        self.has_ended = not more
        self.heard_s = time.monotonic()
        if self._skip:
            self._skip, more = max(0, self._skip - len(more)), more[self._skip :]
        self._held, self._at, self._released = self._held[self._at :] + more, 0, 0

    def publishes(self, *, v5: bool) -> Iterator[PublishPacket]:
        """Each whole PUBLISH packet before the first other packet.

        Raises:
            Malformed: a broker must not send this packet.
        """
        held, size = self._held, len(self._held)
        while size - self._at >= 2 and held[self._at] & 0xF0 == _PUBLISH:
            first = held[self._at]
            start, end = extent(held, self._at)
            if not start:
                return
            announced = end - self._at
            if announced > self._largest and not self._cuts_large:
                raise self._too_large("message", announced)
            if end > size:
                if size - self._at < self._largest:
                    return
                self._skip, end = end - size, size
            qos = first >> 1 & 3
            try:
                topic = body = start + 2 + (held[start] << 8 | held[start + 1])
                mid = 0
                if qos:
                    mid, body = held[body] << 8 | held[body + 1], body + 2
                if v5:
                    body, end_of_properties = extent(held, body - 1)
                    body = end_of_properties if body else end + 1
            except IndexError:
                body = end + 1
            if announced > self._largest:
                body = min(body, end)  # even its properties may be cut
            if body > end or qos > 1 or (qos and not mid) or topic == start + 2:
                raise Malformed("a PUBLISH packet that cannot be read")
            self._at = end
            yield PublishPacket(held[start + 2 : topic], held[body:end], mid, first & 1 > 0, first & 8 > 0)

    def packet(self) -> tuple[int, bytes] | None:
        """First byte and body of the next packet; None when it is incomplete or a PUBLISH.

        Raises:
            Malformed: it is too large.
        """
        start, end = extent(self._held, self._at)
        if not start or self._held[self._at] & 0xF0 == _PUBLISH:
            return None
        if end - self._at > self._largest:
            raise self._too_large("packet", end - self._at)
        return (self._held[self._at], self._held[start:end]) if end <= len(self._held) else None

    @property
    def first(self) -> bytes:
        """The bytes of the next packet that are here, at most 8."""
        return self._held[self._at : self._at + 8]

    def release(self) -> None:
        """Let `recv` read the packet that `packet` gave."""
        self._released = extent(self._held, self._at)[1]

    def skip(self) -> None:
        """Go behind the packet that `packet` gave, however much of it was read."""
        self.read_s = time.monotonic()
        self._at = self._released or extent(self._held, self._at)[1]
        self._released = 0

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes of what was released.

        Raises:
            BlockingIOError: nothing is there now.
        """
        piece = self._held[self._at : min(self._at + size, self._released)]
        if not piece:
            raise BlockingIOError
        self._at += len(piece)
        return piece

    @property
    def is_pending(self) -> bool:
        """Whether there is something to read that the selector does not see."""
        try:
            start, end = extent(self._held, self._at)
        except Malformed:
            return True
        if start and end <= len(self._held):
            return True
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def send(self, data: bytes | bytearray) -> int:
        """Take all of `data`; `flush` sends it. What may wait is bounded by who publishes."""
        self._unsent += data
        self.sent_s = time.monotonic()
        return len(data)

    def puback(self, mid: int) -> None:
        """Acknowledge a message of QoS 1 with the next `flush`. A broker has at most 65,535 of them open."""
        self._unsent += _PUBACK
        self._unsent += mid.to_bytes(2)

    @property
    def unsent(self) -> int:
        """Bytes that wait for `flush`."""
        return len(self._unsent)

    @property
    def taken(self) -> int:
        """Bytes given to `send` so far."""
        return self._sent + len(self._unsent)

    def flush(self) -> None:
        """Send as much as the peer takes now.

        Raises:
            OSError: the connection is broken.
        """
        while self._unsent:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            del self._unsent[:sent]
            self._sent += sent

    def close(self) -> None:
        """Do nothing: paho calls it, but the connection closes its socket itself, by `shut`."""

    def shut(self) -> None:
        """Send what can be sent, and close."""
        with contextlib.suppress(OSError):  # the peer may be gone
            self.flush()
        self._sock.close()

    def _too_large(self, what: str, size: int) -> Malformed:
        return Malformed(f"a {what} of {size} bytes; more than {self._largest} are never accepted")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def extent(held: bytes, at: int) -> tuple[int, int]:
    """Start and end of the body, by the length after the byte at `at`; (0, 0) while that is incomplete."""
    length = shift = 0
    for position in range(at + 1, min(at + 5, len(held))):
        byte = held[position]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return position + 1, position + 1 + length
        shift += 7
    if len(held) - at > 4:
        raise Malformed("a length of more than four bytes")
    return 0, 0
