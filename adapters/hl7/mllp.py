"""MLLP, HL7's Minimal Lower Layer Protocol: frames of 0x0B message 0x1C 0x0D, and who sends them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from adapters.base import AdapterError, DeviceUnreachable, ProtocolViolation
from adapters.device_time import DeviceClock
from adapters.hl7.tls import GREETING_S, why_not_secured
from wire.clock import Clock

log = logging.getLogger("edgebed.adapters.hl7")

START, END = b"\x0b", b"\x1c\r"
_CHUNK = 65_536
_MAX_GARBAGE = 1_000_000  # bytes between two frames: who sends more speaks another protocol
_HEAD = 4_096  # bytes that hold the MSH of any message
_ENDLESS = 2**26  # bytes beyond what is allowed: this message will never end
_WAITING = 4  # frames taken in before they are read: more would only be memory
_ACK_S = 2.0  # a monitor that takes no answer for so long has gone
_GREETING = 16  # TLS handshakes at a time, whoever asks

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TooLong(bytes):
    """The beginning of a message that was longer than allowed: enough to refuse it by its name."""


class MllpFrames:
    """Cuts a stream of bytes into messages; counts what is none."""

    def __init__(self, max_bytes: int, counters: Counter[str]) -> None:
        self._max = max_bytes
        self._counters = counters
        self._buffer = bytearray()
        self._inside = False
        self._looked = 0  # so far no end was found in the buffer
        self._garbage = 0
        self._head = b""  # of a message that is too long
        self._gone = 0  # bytes of it that were let go

    @property
    def begun(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._inside

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now; one that was longer than allowed is `TooLong`.

        Raises:
            ProtocolViolation: a message without an end, or no MLLP at all.
        """
        self._buffer += data
        found: list[bytes] = []
        while True:
            if not self._inside and not self._begin():
                return found
            end = self._buffer.find(END, self._looked)
            if end < 0:
                self._restart()
                self._looked = max(0, len(self._buffer) - 1)
                if self._gone or len(self._buffer) > self._max:
                    self._let_go()
                return found
            message, head = bytes(self._buffer[:end]), self._head
            del self._buffer[: end + len(END)]
            self._ended()
            restart = message.rfind(START)  # a second start in a message: the first one was never finished
            if restart >= 0:
                self._counters["half_messages"] += 1
                message, head = message[restart + 1 :], b""
            if head or len(message) > self._max:
                self._counters["too_long"] += 1
                message = TooLong(head or message[:_HEAD])
            found.append(message)

    def give_up(self) -> None:
        """Forget a message that was not finished."""
        if self._inside:
            self._counters["half_messages"] += 1
            self._buffer.clear()
            self._ended()

    def _ended(self) -> None:
        self._inside, self._looked, self._head, self._gone = False, 0, b"", 0

    def _let_go(self) -> None:
        """Keep of a message that is too long its beginning, and what could be half of its end."""
        self._head = self._head or bytes(self._buffer[:_HEAD])
        self._gone += len(self._buffer) - 1
        del self._buffer[:-1]
        self._looked = 0
        if self._gone > self._max + _ENDLESS:
            raise ProtocolViolation(f"a message of more than {self._gone} bytes that has no end")

    def _begin(self) -> bool:
        start = self._buffer.find(START)
        skipped = start if start >= 0 else len(self._buffer)
        del self._buffer[: skipped + (start >= 0)]
        if skipped:
            self._counters["garbage_bytes"] += skipped
            self._garbage += skipped
            if self._garbage > _MAX_GARBAGE:
                raise ProtocolViolation(f"more than {_MAX_GARBAGE} bytes outside of MLLP frames")
        if start < 0:
            return False
        self._garbage = 0
        self._inside, self._looked = True, 0
        return True

    def _restart(self) -> None:
        restart = self._buffer.rfind(START, self._looked)
        if restart >= 0:
            self._counters["half_messages"] += 1
            del self._buffer[: restart + 1]
            self._head, self._gone = b"", 0


class Arrival(NamedTuple):
    """A message and when it came; without one the peer has ended, and `error` says why."""

    peer: MllpPeer
    frame: bytes | None
    at_ns: int
    error: AdapterError | None = None


class MllpPeer:
    """One connection; a task of its own reads it into the inbox."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: MllpFrames, half_s: float
    ) -> None:
        self.time: DeviceClock | None = None  # its clock, once it was heard
        self._reader = reader
        self._writer = writer
        self._frames = frames
        self._half_s = half_s
        self._secured = writer.get_extra_info("ssl_object") is not None
        address = writer.get_extra_info("peername") or ("",)
        self.host = str(address[0])

    async def receive(self, inbox: asyncio.Queue[Arrival], clock: Clock) -> None:
        """Read until the end of the connection, and say that it ended."""
        error: AdapterError = DeviceUnreachable("the monitor ended the connection")
        if self._secured:  # with TLS 1.3 a peer that refuses our certificate says so after the handshake
            error = DeviceUnreachable(
                "the monitor ended the secured connection before its first byte: does it trust our tls.cert?"
            )
        try:
            while True:
                data = await self._read()
                if data:
                    error = DeviceUnreachable("the monitor ended the connection")
                for frame in self._frames.feed(data):
                    await inbox.put(Arrival(self, frame, clock.now_ns()))
                if not data and not self._frames.begun and self._reader.at_eof():
                    break
        except ssl.SSLError as cause:
            error = DeviceUnreachable(f"the connection to the monitor broke: {why_not_secured(cause)}")
        except OSError as cause:
            error = DeviceUnreachable(f"the connection to the monitor broke: {cause.strerror or 'lost'}")
        except AdapterError as cause:
            error = cause
        self._writer.transport.abort()
        await inbox.put(Arrival(self, None, clock.now_ns(), error))

    async def _read(self) -> bytes:
        """Some bytes; none where the peer ended, or has left a message unfinished for too long."""
        try:
            async with asyncio.timeout(self._half_s if self._frames.begun else None):
                data = await self._reader.read(_CHUNK)
        except TimeoutError:
            self._frames.give_up()
            return b""
        if not data:
            self._frames.give_up()
        return data

    async def send(self, message: bytes) -> bool:
        """Whether the peer took it."""
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


class MllpConnections:
    """All connections to one device: the one that we made, or those that were made to us.

    Of `most` connections the newest replaces the oldest: a monitor whose line broke comes back by a new one.
    With `secure` each is one of TLS, and nobody replaces anybody before both certificates were accepted.
    """

    def __init__(
        self,
        clock: Clock,
        counters: Counter[str],
        *,
        max_bytes: int,
        half_s: float,
        most: int = 1,
        allowed: Sequence[Network] = (),
        secure: ssl.SSLContext | None = None,
    ) -> None:
        self.refused = ""  # why TLS failed with the last one that tried
        self.inbox: asyncio.Queue[Arrival] = asyncio.Queue(_WAITING)
        self.peers: dict[MllpPeer, asyncio.Task[None]] = {}
        self._clock = clock
        self._counters = counters
        self._new_frames: Callable[[], MllpFrames] = lambda: MllpFrames(max_bytes, counters)
        self._half_s = half_s
        self._most = most
        self._allowed = allowed
        self._secure = secure
        self._greeting: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def connect(self, host: str, port: int, name: str = "") -> None:
        """Make the connection; with TLS the certificate must have the `name`, else that of the host.

        Raises:
            OSError: nobody is there, or TLS failed.
        """
        if self._secure is None:
            self._join(*await asyncio.open_connection(host, port))
            return
        self._join(
            *await asyncio.open_connection(
                host,
                port,
                ssl=self._secure,
                server_hostname=name or host,
                ssl_handshake_timeout=GREETING_S,
            )
        )

    async def listen(self, host: str, port: int) -> None:
        """Wait for connections.

        Raises:
            OSError: the address cannot be had.
        """
        self._server = await asyncio.start_server(self._accept, host or None, port)

    def ended(self, peer: MllpPeer) -> None:
        """A peer's end has been read from the inbox."""
        self.peers.pop(peer, None)

    async def close(self) -> None:
        """End all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = [*self.peers.values(), *self._greeting]
        for peer, task in self.peers.items():
            task.cancel()
            peer.abort()
        for task, writer in self._greeting.items():
            task.cancel()
            writer.transport.abort()
        self.peers.clear()
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")
        refused = self._allowed and not _is_allowed(address, self._allowed)
        if self._server is None or refused or len(self._greeting) >= _GREETING:
            self._counters["peers_refused"] += 1
            writer.transport.abort()
        elif self._secure is None:
            self._welcome(reader, writer)
        else:
            greeting = asyncio.create_task(self._greet(reader, writer, self._secure), name="hl7-greeting")
            self._greeting[greeting] = writer
            greeting.add_done_callback(self._greeting.pop)

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secure: ssl.SSLContext
    ) -> None:
        # started here and not by the server, which would keep to itself why a handshake failed
        try:
            await writer.start_tls(secure, ssl_handshake_timeout=GREETING_S)
        except OSError as error:
            writer.transport.abort()
            self._counters["tls_refused"] += 1
            before, self.refused = self.refused, why_not_secured(error)
            if self.refused != before:
                log.warning("a monitor was refused: %s", self.refused)
        else:
            self._welcome(reader, writer)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(self.peers) >= self._most:
            oldest, task = next(iter(self.peers.items()))
            self._counters["replaced_connections"] += 1
            task.cancel()
            oldest.abort()
            del self.peers[oldest]
        self._join(reader, writer)

    def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = MllpPeer(reader, writer, self._new_frames(), self._half_s)
        self.peers[peer] = asyncio.create_task(peer.receive(self.inbox, self._clock), name="hl7-peer")


def _is_allowed(address: object, allowed: Sequence[Network]) -> bool:
    if not isinstance(address, tuple) or not address:
        return False
    host = ipaddress.ip_address(str(address[0]).partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return any((mapped or host) in network for network in allowed)
