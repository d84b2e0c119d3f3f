"""A socket that reads ahead, yields whole MQTT packets and gathers what it sends."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple

_AHEAD = 65_536
_GATHER = 262_144
LARGEST = 131_072  # bytes of a packet that are kept: more than any message of the contract
_PUBLISH = 0x30
_PUBACK = b"\x40\x02"


class PublishPacket(NamedTuple):
    """A PUBLISH packet; `mid` is 0 with QoS 0."""

    topic: bytes
    body: bytes
    mid: int
    retained: bool
    dup: bool


class Malformed(ValueError):
    """The bytes are not MQTT; nothing after them can be read."""


class PacketSocket:
    """A non-blocking socket: `fill` reads ahead, `send` gathers until `flush`.

    `publishes` yields the PUBLISH packets: paho would read single bytes and acknowledge each message by
    itself, ten times the work. Every other packet is for paho, and its `recv` sees nothing before `release`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = b""
        self._at = 0
        self._released = 0  # up to where `recv` may read
        self._skip = 0  # bytes to come of a packet that was too large to be kept
        self._ended = False
        self._unsent = bytearray()

    def fill(self) -> None:
        """Read ahead once, without waiting.

        Raises:
            OSError: the connection is broken.
        """
        try:
            more = self._sock.recv(_AHEAD)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        self._ended = not more
        if self._skip:
            self._skip, more = max(0, self._skip - len(more)), more[self._skip :]
        self._held, self._at, self._released = self._held[self._at :] + more, 0, 0

    def publishes(self, *, v5: bool) -> Iterator[PublishPacket]:
        """Each whole PUBLISH packet before the first other packet; of one beyond `LARGEST` the beginning.

        Raises:
            Malformed: a broker must not send this packet.
        """
        held, size = self._held, len(self._held)
        while size - self._at >= 2 and held[self._at] & 0xF0 == _PUBLISH:
            first = held[self._at]
            start, end = _extent(held, self._at)
            if not start:
                return
            if end > size:
                if size - self._at < LARGEST:
                    return
                self._skip, end = end - size, size
            qos = first >> 1 & 3
            try:
                topic = body = start + 2 + (held[start] << 8 | held[start + 1])
                mid = 0
                if qos:
                    mid, body = held[body] << 8 | held[body + 1], body + 2
                if v5:
                    body, end_of_properties = _extent(held, body - 1)
                    body = end_of_properties if body else end + 1
            except IndexError:
                body = end + 1
            if body > end or qos > 1 or (qos and not mid):
                raise Malformed("a PUBLISH packet that cannot be read")
            self._at = end
            yield PublishPacket(
                held[start + 2 : topic], held[body:end], mid, bool(first & 1), bool(first & 8)
            )

    def release(self) -> bool:
        """Make the next packet, or the end, readable by `recv`; False when it is incomplete or a PUBLISH."""
        if self._ended:
            self._released = len(self._held)
            return True
        start, end = _extent(self._held, self._at)
        if not start or end > len(self._held) or self._held[self._at] & 0xF0 == _PUBLISH:
            if start and end - self._at > LARGEST and self._held[self._at] & 0xF0 != _PUBLISH:
                raise Malformed(f"a packet of {end - self._at} bytes")
            return False
        self._released = end
        return True

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes of what was released; none at the end.

        Raises:
            BlockingIOError: nothing is there now.
        """
        piece = self._held[self._at : min(self._at + size, self._released)]
        if not piece and not self._ended:
            raise BlockingIOError
        self._at += len(piece)
        return piece

    def pending(self) -> bool:
        """Whether there is something to read that poll does not see."""
        start, end = _extent(self._held, self._at)
        if start and end <= len(self._held):
            return True
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def send(self, data: bytes | bytearray) -> int:
        """Take all of `data`; `flush` sends it.

        Raises:
            BlockingIOError: too much is waiting.
        """
        if len(self._unsent) >= _GATHER:
            self.flush()
            if len(self._unsent) >= _GATHER:
                raise BlockingIOError
        self._unsent += data
        return len(data)

    def puback(self, mid: int) -> None:
        """Acknowledge a message of QoS 1 with the next `flush`. A broker has at most 65,535 of them open."""
        self._unsent += _PUBACK
        self._unsent += mid.to_bytes(2)

    @property
    def unsent(self) -> int:
        """Bytes that wait for `flush`."""
        return len(self._unsent)

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

    def close(self) -> None:
        """Send what can be sent, and close."""
        with contextlib.suppress(OSError):  # the peer may be gone
            self.flush()
        self._sock.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def _extent(held: bytes, at: int) -> tuple[int, int]:
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
