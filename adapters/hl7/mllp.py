"""MLLP, HL7's Minimal Lower Layer Protocol: its frames (0x0B message 0x1C 0x0D) and its connections."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adapters.base import AdapterError, DeviceUnreachable, ProtocolViolation
from adapters.device_time import DeviceClock
from adapters.hl7.tls import HANDSHAKE_S, why_not_secured
from wire.clock import Clock

log = logging.getLogger("edgebed.adapters.hl7")

START, END = b"\x0b", b"\x1c\r"
_CHUNK = 65_536
_MAX_GARBAGE = 1_000_000  # bytes between two frames: more mean another protocol
_TLS_HELLO = b"\x16\x03"  # the first bytes of a handshake
_HEAD = 4_096  # bytes that contain the MSH of any message
_ENDLESS = 2**26  # bytes beyond the longest message: it has no end
_INBOX = 4  # frames received before they are read: more would only need memory
_ACK_S = 2.0  # a monitor that accepts no answer within this time is lost
_MAX_HANDSHAKES = 16  # TLS handshakes at a time

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TooLong(bytes):
    """The beginning of a message that was longer than allowed: enough for an answer that refuses it."""


class MllpFrames:
    """Cuts a stream of bytes into messages; counts bytes outside of messages, and unfinished messages."""

    def __init__(self, max_bytes: int, counters: Counter[str]) -> None:
        self._max = max_bytes
        self._counters = counters
        self._buffer = bytearray()
        self._inside = False
        self._searched = 0  # the end was not found in the buffer before this position
        self._garbage = 0
        self.stray = ""  # what came since the last message and is not a message
        self._head = b""  # of a message that is too long
        self._dropped = 0  # bytes of it that were dropped

    @property
    def begun(self) -> bool:
        """Whether a message has begun but not ended."""
        return self._inside

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; returns the messages that are complete now, as `TooLong` if longer than allowed.

        Raises:
            ProtocolViolation: a message without an end, or bytes that are not MLLP.
        """
        self._buffer += data
        found: list[bytes] = []
        while True:
            if not self._inside and not self._begin():
                return found
            end = self._buffer.find(END, self._searched)
            if end < 0:
                self._restart()
                self._searched = max(0, len(self._buffer) - 1)
                if self._dropped or len(self._buffer) > self._max:
                    self._drop_too_long()
                return found
            self.stray = ""
            message, head = bytes(self._buffer[:end]), self._head
            del self._buffer[: end + len(END)]
            self._ended()
            restart = message.rfind(START)  # a second start: the first message was never finished
            if restart >= 0:
                self._counters["half_messages"] += 1
                message, head = message[restart + 1 :], b""
            if head or len(message) > self._max:
                self._counters["too_long"] += 1
                message = TooLong(head or message[:_HEAD])
            found.append(message)

    def drop_unfinished(self) -> None:
        """Drop and count a message that was not finished."""
        if self._inside:
            self._counters["half_messages"] += 1
            self.stray = "a message without the end 0x1C 0x0D of MLLP"
            self._buffer.clear()
            self._ended()

    def _ended(self) -> None:
        self._inside, self._searched, self._head, self._dropped = False, 0, b"", 0

    def _drop_too_long(self) -> None:
        """Keep only the beginning of a message that is too long, and its last byte: half an end mark."""
        self._head = self._head or bytes(self._buffer[:_HEAD])
        self._dropped += len(self._buffer) - 1
        del self._buffer[:-1]
        self._searched = 0
        if self._dropped > self._max + _ENDLESS:
            raise ProtocolViolation(f"a message of more than {self._dropped} bytes has no end")

    def _begin(self) -> bool:
        start = self._buffer.find(START)
        skipped = start if start >= 0 else len(self._buffer)
        head = bytes(self._buffer[: min(skipped, _HEAD)])
        del self._buffer[: skipped + (start >= 0)]
        if skipped:
            self._counters["garbage_bytes"] += skipped
            self._garbage += skipped
            self.stray = self.stray or _describe(head)
            if self._garbage > _MAX_GARBAGE:
                raise ProtocolViolation(f"more than {_MAX_GARBAGE} bytes outside of MLLP frames")
        if start < 0:
            return False
        self._garbage = 0
        self._inside, self._searched = True, 0
        return True

    def _restart(self) -> None:
        restart = self._buffer.rfind(START, self._searched)
        if restart >= 0:
            self._counters["half_messages"] += 1
            del self._buffer[: restart + 1]
            self._head, self._dropped = b"", 0


def _describe(stray: bytes) -> str:
    """What bytes outside of messages are; without the bytes themselves, which can name a person."""
    if stray.startswith(_TLS_HELLO):
        return "TLS, which needs `tls` in the options"
    if b"MSH" in stray:
        return "HL7 without the start 0x0B of MLLP"
    return "bytes that are not MLLP" if stray.strip() else ""


class Arrival(NamedTuple):
    """A message and its time of receipt; without a message, the connection has ended because of `error`."""

    peer: MllpPeer
    frame: bytes | None
    at_ns: int
    at_s: float = 0.0  # the same moment by `Clock.flowing_s()`
    error: AdapterError | None = None


class MllpPeer:
    """One connection; its own task reads it into the inbox."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: MllpFrames, half_s: float
    ) -> None:
        self.time: DeviceClock | None = None  # set with the first message
        self._reader = reader
        self._writer = writer
        self._frames = frames
        self._half_s = half_s
        self._secured = writer.get_extra_info("ssl_object") is not None
        address = writer.get_extra_info("peername") or ("",)
        self.host = str(address[0])

    async def receive(self, inbox: asyncio.Queue[Arrival], clock: Clock) -> None:
        """Read until the connection ends, then put its end into the inbox."""
        error: AdapterError = DeviceUnreachable("the monitor ended the connection")
        if self._secured:  # with TLS 1.3 a peer refuses a certificate only after the handshake
            error = DeviceUnreachable(
                "the monitor ended the secured connection before its first byte: does it trust tls.cert?"
            )
        try:
            while True:
                data = await self._read(clock)
                if data:
                    error = DeviceUnreachable("the monitor ended the connection")
                for frame in self._frames.feed(data):
                    await inbox.put(Arrival(self, frame, clock.now_ns(), clock.flowing_s()))
                if not data and not self._frames.begun and self._reader.at_eof():
                    break
        except ssl.SSLError as cause:
            error = DeviceUnreachable(f"the connection to the monitor broke: {why_not_secured(cause)}")
        except OSError as cause:
            error = DeviceUnreachable(f"the connection to the monitor broke: {cause.strerror or 'lost'}")
        except AdapterError as cause:
            error = cause
        if self.stray and type(error) is DeviceUnreachable:
            error = DeviceUnreachable(f"{error}; it sent {self.stray}")
        self._writer.transport.abort()
        await inbox.put(Arrival(self, None, clock.now_ns(), error=error))

    @property
    def stray(self) -> str:
        """What came since the last message and is not a message."""
        if self._frames.begun:
            return "a message whose end 0x1C 0x0D has not come"
        return self._frames.stray

    async def _read(self, clock: Clock) -> bytes:
        """Some bytes; empty if the peer has ended, or has not finished a message for too long."""
        try:
            half_by_s = clock.flowing_s() + self._half_s if self._frames.begun else None
            async with clock.timeout_at(half_by_s):
                data = await self._reader.read(_CHUNK)
        except TimeoutError:
            self._frames.drop_unfinished()
            return b""
        if not data:
            self._frames.drop_unfinished()
        return data

    async def send(self, message: bytes) -> bool:
        """Send a message; returns whether the peer accepted it."""
        try:
            async with asyncio.timeout(_ACK_S):
                self._writer.write(START + message + END)
                await self._writer.drain()
        except (OSError, TimeoutError):
            self.abort()
            return False
        return not self._writer.is_closing()

    def abort(self) -> None:
        """End the connection now."""
        self._writer.transport.abort()


@dataclass(frozen=True, slots=True)
class MllpLimits:
    """Bytes of a message, how long half of one may wait, and how many connections there may be."""

    max_bytes: int
    half_s: float
    connections: int = 1


class MllpConnections:
    """All connections of one adapter: the one that it made, or those that monitors made to it.

    Beyond the limit of connections, a new one replaces the oldest: a monitor whose connection broke makes a
    new one. With `secure` all use TLS, and a new one replaces another only after both certificates were
    accepted.
    """

    def __init__(
        self,
        clock: Clock,
        counters: Counter[str],
        limits: MllpLimits,
        *,
        allowed: Sequence[Network] = (),
        secure: ssl.SSLContext | None = None,
    ) -> None:
        self.refused = ""  # why the last TLS handshake failed
        self.inbox: asyncio.Queue[Arrival] = asyncio.Queue(_INBOX)
        self.peers: dict[MllpPeer, asyncio.Task[None]] = {}
        self._clock = clock
        self._counters = counters
        self._new_frames: Callable[[], MllpFrames] = lambda: MllpFrames(limits.max_bytes, counters)
        self._half_s = limits.half_s
        self._most = limits.connections
        self._allowed = allowed
        self._secure = secure
        self._handshakes: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    @property
    def stray(self) -> str:
        """What the monitors sent instead of messages; empty if they sent nothing."""
        return next((peer.stray for peer in self.peers if peer.stray), "")

    async def connect(self, host: str, port: int, name: str = "") -> None:
        """Connect; with TLS, the certificate must have the `name`, or without it the name of the host.

        Raises:
            OSError: no answer, or TLS failed.
        """
        if self._secure is None:
            self._add(*await asyncio.open_connection(host, port))
            return
        self._add(
            *await asyncio.open_connection(
                host,
                port,
                ssl=self._secure,
                server_hostname=name or host,
                ssl_handshake_timeout=HANDSHAKE_S,
            )
        )

    async def listen(self, host: str, port: int) -> None:
        """Start to listen for connections.

        Raises:
            OSError: the address cannot be used.
        """
        self._server = await asyncio.start_server(self._accept, host or None, port)

    def ended(self, peer: MllpPeer) -> None:
        """Forget a peer whose end was read from the inbox."""
        self.peers.pop(peer, None)

    async def close(self) -> None:
        """End all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = [*self.peers.values(), *self._handshakes]
        for peer, task in self.peers.items():
            task.cancel()
            peer.abort()
        for task, writer in self._handshakes.items():
            task.cancel()
            writer.transport.abort()
        self.peers.clear()
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")
        refused = self._allowed and not _is_allowed(address, self._allowed)
        if self._server is None or refused or len(self._handshakes) >= _MAX_HANDSHAKES:
            self._counters["peers_refused"] += 1
            writer.transport.abort()
        elif self._secure is None:
            self._add_newest(reader, writer)
        else:
            handshake = asyncio.create_task(
                self._handshake(reader, writer, self._secure), name="hl7-handshake"
            )
            self._handshakes[handshake] = writer
            handshake.add_done_callback(self._handshakes.pop)

    async def _handshake(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secure: ssl.SSLContext
    ) -> None:
        # not done by the asyncio server, because it does not report why a handshake failed
        try:
            await writer.start_tls(secure, ssl_handshake_timeout=HANDSHAKE_S)
        except OSError as error:
            writer.transport.abort()
            self._counters["tls_refused"] += 1
            before, self.refused = self.refused, why_not_secured(error)
            if self.refused != before:
                log.warning("a monitor was refused: %s", self.refused)
        else:
            self._add_newest(reader, writer)

    def _add_newest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self.peers) >= self._most:
            oldest, task = next(iter(self.peers.items()))
            self._counters["replaced_connections"] += 1
            task.cancel()
            oldest.abort()
            del self.peers[oldest]
        self._add(reader, writer)

    def _add(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = MllpPeer(reader, writer, self._new_frames(), self._half_s)
        self.peers[peer] = asyncio.create_task(peer.receive(self.inbox, self._clock), name="hl7-peer")


def _is_allowed(address: object, allowed: Sequence[Network]) -> bool:
    if not isinstance(address, tuple) or not address:
        return False
    host = ipaddress.ip_address(str(address[0]).partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return any((mapped or host) in network for network in allowed)
