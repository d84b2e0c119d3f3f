"""A server that attacks the first connection of an MQTT client; every later one reaches a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Moment = Literal["hello", "connect", "subscribe", "online", "publish"]
Then = Literal["hold", "close", "quiet", "flood", "drip"]

LARGEST = 268_435_455  # the length that MQTT can announce
FLOOD = 48 * 2**20  # bytes that the server really sends of it
HOLD_S = 15.0  # for a client that must end the connection; no test waits for it
TOLERATED_S = 0.1  # then the server ends a connection that the client may keep
_DRIP_S = 0.05
_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 4, 8, 12, 14


@dataclass(frozen=True)
class Request:
    """What the client sent: the attack answers it."""

    v5: bool
    mid: int = 0
    filters: int = 0


@dataclass(frozen=True)
class Attack:
    """Bytes at one moment of a connection, and what the server does after them.

    hold: it behaves, except for these bytes. close: it closes. quiet: it answers nothing more. flood: it
    sends the rest of a packet without end. drip: it sends the bytes one by one, then holds.
    `ends`: the client must end the connection by itself. `stays`: it must not.
    """

    name: str
    at: Moment
    bytes: Callable[[Request], bytes]
    then: Then = "hold"
    ends: bool = True
    only: Literal["", "5", "3.1.1"] = ""
    stays: bool = False

    def __str__(self) -> str:
        return self.name


def length(size: int) -> bytes:
    """A length as MQTT writes it."""
    found = bytearray()
    while True:
        size, digit = divmod(size, 128)
        found.append(digit | (128 if size else 0))
        if not size:
            return bytes(found)


def packet(first: int, body: bytes) -> bytes:
    """A packet with its right length."""
    return bytes([first]) + length(len(body)) + body


def connack(request: Request, properties: bytes = b"", code: int = 0, present: int = 0) -> bytes:
    """The answer to CONNECT."""
    more = length(len(properties)) + properties if request.v5 else b""
    return packet(0x20, bytes([present, code]) + more)


def suback(request: Request, codes: bytes | None = None, mid: int | None = None) -> bytes:
    """The answer to SUBSCRIBE: everything is granted with QoS 1."""
    given = b"\x01" * request.filters if codes is None else codes
    number = request.mid if mid is None else mid
    return packet(0x90, number.to_bytes(2) + (b"\0" if request.v5 else b"") + given)


def puback(request: Request, code: int = 0) -> bytes:
    """The answer to PUBLISH."""
    return packet(0x40, request.mid.to_bytes(2) + (bytes([code]) if code else b""))


def publish(
    request: Request,
    topic: bytes,
    body: bytes = b"x",
    *,
    qos: int = 1,
    mid: int = 1,
    properties: bytes = b"",
) -> bytes:
    """A message."""
    more = length(len(properties)) + properties if request.v5 else b""
    number = mid.to_bytes(2) if qos else b""
    return packet(0x30 | qos << 1, len(topic).to_bytes(2) + topic + number + more + body)


def disconnect(code: int, properties: bytes = b"") -> bytes:
    """The end, as MQTT 5 has it."""
    return packet(0xE0, bytes([code]) + length(len(properties)) + properties)


def _text(key: int, text: bytes) -> bytes:
    return bytes([key]) + len(text).to_bytes(2) + text


REASON, USER = 0x1F, 0x26
UNDEFINED = (0x77, 0xF7)
TOPIC = b"tb1/acme/hall/a/b/ack"


def _announced(first: int, head: bytes = b"") -> Callable[[Request], bytes]:
    return lambda _: bytes([first]) + length(LARGEST) + head


def _large_properties(first: int, head: bytes) -> Callable[[Request], bytes]:
    """A packet of maximum size whose properties fill it."""
    return lambda _: bytes([first]) + length(LARGEST) + head + length(LARGEST - len(head) - 4)


def _suback_with_reason(request: Request) -> bytes:
    properties = _text(REASON, b"granted" * 30)
    codes = b"\x01" * request.filters
    return packet(0x90, request.mid.to_bytes(2) + length(len(properties)) + properties + codes)


def _garbage(_: Request) -> bytes:
    return bytes(range(1, 256)) * 8


GREETING = [
    Attack("garbage", "connect", _garbage),
    Attack("zeros", "connect", lambda _: bytes(300)),
    Attack("http", "connect", lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    Attack("publish-before-connack", "connect", lambda r: publish(r, TOPIC)),
    Attack("suback-before-connack", "connect", lambda r: suback(r, b"\0", 1)),
    Attack("puback-before-connack", "connect", lambda r: puback(Request(r.v5, 1))),
    Attack("pingresp-before-connack", "connect", lambda _: b"\xd0\0"),
    Attack("connack-empty", "connect", lambda _: b"\x20\0"),
    Attack("connack-of-one-byte", "connect", lambda _: b"\x20\x01\0"),
    Attack("connack-without-properties", "connect", lambda _: b"\x20\x02\0\0", only="5"),
    Attack("connack-of-mqtt-5", "connect", lambda _: b"\x20\x03\0\0\0", only="3.1.1"),
    Attack("connack-flags", "connect", lambda r: b"\x2f" + connack(r)[1:]),
    Attack("connack-reserved-flag", "connect", lambda r: connack(r, present=0x82)),
    *(
        Attack(f"connack-undefined-{code:x}", "connect", lambda r, code=code: connack(r, code=code))  # type: ignore[misc]
        for code in UNDEFINED
    ),
    Attack("connack-refused", "connect", lambda r: connack(r, code=0x87 if r.v5 else 5)),
    Attack(
        "connack-reason-hostile",
        "connect",
        lambda r: connack(r, _text(REASON, b"go\x1b[31m\r\nERROR away\xe2\x80\xae" + b"!" * 60_000), 0x87),
        only="5",
    ),
    Attack("connack-unknown-property", "connect", lambda r: connack(r, b"\x7f\0"), only="5"),
    Attack("connack-foreign-property", "connect", lambda r: connack(r, b"\x18\0\0\0\x05"), only="5"),
    Attack("connack-double-property", "connect", lambda r: connack(r, b"\x21\0\x05" * 2), only="5"),
    Attack("connack-half-property", "connect", lambda r: connack(r, b"\x21\0"), only="5"),
    Attack("connack-long-properties", "connect", lambda _: b"\x20\x04\0\0\x09\x21", only="5"),
    Attack("connack-text-not-utf8", "connect", lambda r: connack(r, _text(REASON, b"\xff\xfe")), only="5"),
    Attack("connack-receive-maximum-0", "connect", lambda r: connack(r, b"\x21\0\0"), only="5"),
    Attack("connack-packet-size-0", "connect", lambda r: connack(r, b"\x27\0\0\0\0"), only="5"),
    Attack("connack-maximum-qos-0", "connect", lambda r: connack(r, b"\x24\0"), only="5"),
    Attack("connect-from-server", "connect", lambda _: packet(0x10, b"\0\x04MQTT\x04\x02\0\x0a\0\x01x")),
    Attack("auth", "connect", lambda _: b"\xf0\x02\x18\0"),
    Attack("disconnect-instead-of-connack", "connect", lambda _: disconnect(0x88), only="5"),
    Attack("length-of-five-bytes", "connect", lambda _: b"\x20\xff\xff\xff\xff\x01"),
    Attack("connack-of-268-mb", "connect", _announced(0x20, b"\0\0"), "flood"),
    Attack("connack-properties-of-268-mb", "connect", _large_properties(0x20, b"\0\0"), "flood", only="5"),
    Attack("close-at-tcp", "hello", lambda _: b"", "close"),
    Attack("close-at-connect", "connect", lambda _: b"", "close"),
    Attack("half-connack-then-close", "connect", lambda r: connack(r)[:3], "close"),
    Attack("half-connack-then-silence", "connect", lambda r: connack(r)[:3], "quiet"),
    Attack("silence", "connect", lambda _: b"", "quiet"),
    Attack("slow-connack", "connect", connack, "drip", ends=False, stays=True),
]
SUBSCRIBING = [
    Attack("suback-wrong-count", "subscribe", lambda r: suback(r, b"\x01" * (r.filters + 1))),
    Attack("suback-without-codes", "subscribe", lambda r: suback(r, b"")),
    Attack("suback-unknown-mid", "subscribe", lambda r: suback(r, mid=r.mid ^ 0x5555), ends=False),
    Attack("suback-mid-0", "subscribe", lambda r: suback(r, mid=0)),
    Attack("suback-flags", "subscribe", lambda r: b"\x9f" + suback(r)[1:]),
    Attack("suback-of-one-byte", "subscribe", lambda _: b"\x90\x01\0"),
    Attack("suback-refused", "subscribe", lambda r: suback(r, (b"\x87" if r.v5 else b"\x80") * r.filters)),
    *(
        Attack(
            f"suback-undefined-{code:x}",
            "subscribe",
            lambda r, code=code: suback(r, bytes([code]) * r.filters),  # type: ignore[misc]
        )
        for code in UNDEFINED
    ),
    Attack("suback-long-reason", "subscribe", _suback_with_reason, ends=False, stays=True, only="5"),
    Attack("suback-of-268-mb", "subscribe", _announced(0x90, b"\0\x01\0"), "flood"),
    Attack("suback-properties-of-268-mb", "subscribe", _large_properties(0x90, b"\0\x01"), "flood", only="5"),
    Attack("close-at-subscribe", "subscribe", lambda _: b"", "close"),
    Attack("half-suback-then-close", "subscribe", lambda r: suback(r)[:4], "close"),
    Attack("half-suback-then-silence", "subscribe", lambda r: suback(r)[:4], "quiet"),
    Attack("slow-suback", "subscribe", suback, "drip", ends=False, stays=True),
]
ONLINE = [
    Attack("publish-qos-3", "online", lambda r: publish(r, TOPIC, qos=3)),
    Attack("publish-qos-2", "online", lambda r: publish(r, TOPIC, qos=2), ends=False),
    Attack("publish-mid-0", "online", lambda r: publish(r, TOPIC, mid=0)),
    Attack("publish-topic-not-utf8", "online", lambda r: publish(r, b"tb1/\xff\xfe/a"), ends=False),
    Attack("publish-topic-nul", "online", lambda r: publish(r, b"tb1/a\0b"), ends=False),
    Attack("publish-topic-wildcard", "online", lambda r: publish(r, b"tb1/#"), ends=False),
    Attack("publish-topic-empty", "online", lambda r: publish(r, b""), ends=False),
    Attack("publish-topic-too-long", "online", lambda _: packet(0x32, b"\xff\xff" + b"a" * 40)),
    Attack("publish-empty", "online", lambda _: b"\x32\0"),
    Attack("publish-alias-unknown", "online", lambda r: publish(r, b"", properties=b"\x23\0\x07"), only="5"),
    Attack(
        "publish-alias-0", "online", lambda r: publish(r, TOPIC, properties=b"\x23\0\0"), only="5", ends=False
    ),
    Attack(
        "publish-unknown-property",
        "online",
        lambda r: publish(r, TOPIC, properties=b"\x7f\0"),
        only="5",
        ends=False,
    ),
    Attack("publish-long-properties", "online", lambda _: packet(0x32, b"\0\x01a\0\x01\x7f"), only="5"),
    Attack("second-connack", "online", connack),
    Attack("suback-unasked", "online", lambda r: suback(r, b"\0", 0x7777), ends=False),
    Attack(
        "unsuback-unasked", "online", lambda r: packet(0xB0, b"\x77\x77" + b"\0" * (2 * r.v5)), ends=False
    ),
    Attack("puback-unasked", "online", lambda r: puback(Request(r.v5, 0x7777)), ends=False, stays=True),
    Attack("puback-mid-0", "online", lambda r: puback(Request(r.v5, 0))),
    Attack("puback-of-one-byte", "online", lambda _: b"\x40\x01\0"),
    Attack("pubrec-unasked", "online", lambda _: b"\x50\x02\x77\x77", ends=False),
    Attack("pubrel-unasked", "online", lambda _: b"\x62\x02\x77\x77", ends=False),
    Attack("pubcomp-unasked", "online", lambda _: b"\x70\x02\x77\x77", ends=False),
    Attack("pingresp-unasked", "online", lambda _: b"\xd0\0", ends=False, stays=True),
    Attack("pingresp-with-body", "online", lambda _: b"\xd0\x02ab"),
    Attack("pingreq-from-server", "online", lambda _: b"\xc0\0"),
    Attack("connect-from-server-later", "online", lambda _: packet(0x10, b"\0\x04MQTT\x04\x02\0\x0a\0\x01x")),
    Attack("subscribe-from-server", "online", lambda _: packet(0x82, b"\0\x01\0\0\x01a\0")),
    Attack("reserved-type-0", "online", lambda _: b"\0\0"),
    Attack("auth-later", "online", lambda _: b"\xf0\x02\x18\0"),
    Attack("garbage-later", "online", _garbage),
    Attack("length-of-five-bytes-later", "online", lambda _: b"\x30\xff\xff\xff\xff\x01"),
    Attack("disconnect-in-3.1.1", "online", lambda _: b"\xe0\0", only="3.1.1"),
    Attack("disconnect-busy", "online", lambda _: disconnect(0x89), only="5"),
    Attack("disconnect-too-fast", "online", lambda _: disconnect(0x96), only="5"),
    *(
        Attack(f"disconnect-undefined-{code:x}", "online", lambda _, code=code: disconnect(code), only="5")  # type: ignore[misc]
        for code in UNDEFINED
    ),
    Attack(
        "disconnect-reason-hostile",
        "online",
        lambda _: disconnect(0x8B, _text(REASON, b"go\x1b[31m\r\nERROR away" + b"!" * 60_000)),
        only="5",
    ),
    Attack("publish-of-268-mb", "online", _announced(0x30, b"\0\x01a"), "flood", ends=False),
    Attack("publish-topic-of-268-mb", "online", _announced(0x32, b"\xff\xff"), "flood", ends=False),
    Attack("suback-of-268-mb-later", "online", _announced(0x90), "flood"),
    Attack("pingresp-of-268-mb", "online", _announced(0xD0), "flood"),
    Attack("disconnect-of-268-mb", "online", _announced(0xE0), "flood"),
    Attack("close-online", "online", lambda _: b"", "close"),
    Attack("half-publish-then-close", "online", lambda r: publish(r, TOPIC, b"x" * 900)[:700], "close"),
    Attack("half-publish-then-silence", "online", lambda r: publish(r, TOPIC, b"x" * 900)[:700], "quiet"),
    Attack("half-length-then-silence", "online", lambda _: b"\x30\xff", "quiet"),
    Attack("silence-online", "online", lambda _: b"", "quiet"),
]
PUBLISHING = [
    *(
        Attack(
            f"puback-undefined-{code:x}",
            "publish",
            lambda r, code=code: puback(r, code),  # type: ignore[misc]
            only="5",
        )
        for code in UNDEFINED
    ),
    Attack("puback-refused", "publish", lambda r: puback(r, 0x97), ends=False, stays=True, only="5"),
    Attack(
        "puback-unknown-mid",
        "publish",
        lambda r: puback(Request(r.v5, r.mid ^ 0x5555)),
        ends=False,
        stays=True,
    ),
    Attack("puback-twice", "publish", lambda r: puback(r) * 2, ends=False, stays=True),
    Attack("puback-flags", "publish", lambda r: b"\x4f" + puback(r)[1:]),
    Attack("puback-of-3.1.1-with-code", "publish", lambda r: puback(r, 0x87), only="3.1.1"),
    Attack("pubrec-instead", "publish", lambda r: b"\x50" + puback(r)[1:], ends=False),
    Attack("puback-of-268-mb", "publish", _announced(0x40), "flood"),
    Attack("close-at-publish", "publish", lambda _: b"", "close"),
    Attack("half-puback-then-silence", "publish", lambda r: puback(r)[:2], "quiet"),
    Attack("no-puback", "publish", lambda _: b"", "quiet"),
]
TLS = [
    Attack("tls-garbage", "hello", _garbage, "quiet"),
    Attack("tls-plain-connack", "hello", lambda _: b"\x20\x02\0\0", "quiet"),
    Attack("tls-close", "hello", lambda _: b"", "close"),
    Attack("tls-alert", "hello", lambda _: b"\x15\x03\x03\0\x02\x02\x28", "close"),
    Attack("tls-half-record-then-silence", "hello", lambda _: b"\x16\x03\x03\x40\0\x02", "quiet"),
]


@dataclass
class HostileBroker:
    """Attacks the first `times` connections; pipes the others to the broker at `healthy`."""

    attack: Attack
    healthy: int
    times: int = 1
    connections: int = 0
    attacked: int = 0  # connections
    held: bool = False  # a client that had to end the connection did not
    sent: int = 0  # bytes of the attack
    messages: list[bytes] = field(default_factory=list)  # PUBLISH packets of attacked connections
    acknowledged: int = 0  # PUBACKs of the client
    online_at: Moment = "subscribe"  # "connect" for a client that does not subscribe

    async def __aenter__(self) -> Self:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="hostile-broker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if self.connections > self.times:
                    await self._pipe(reader, writer)
                else:
                    await self._attack(reader, writer)
        finally:
            writer.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.healthy)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    target.write(data)
                    await target.drain()
            target.transport.abort() if source is far_reader else target.close()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, far_writer))
                group.create_task(pump(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _attack(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                await self._behave(reader, writer, limit)
        except TimeoutError:
            self.held = self.held or self.attack.ends

    async def _behave(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: asyncio.Timeout
    ) -> None:
        """Answer as a broker does, but for the attack; `limit` starts with it."""
        attack, request, done = self.attack, Request(v5=True), False
        if attack.at == "hello":
            await reader.read(1)
            await self._strike(request, reader, writer, limit)
        while True:
            first, body = await _read_packet(reader)
            kind, at, answer = first >> 4, "", b""
            if kind == _CONNECT:
                request = Request(v5=body[6] == 5)
                at, answer = "connect", connack(request)
            elif kind == _SUBSCRIBE:
                rest = body[2:]
                request = Request(request.v5, int.from_bytes(body[:2]), _filters(rest, v5=request.v5))
                at, answer = "subscribe", suback(request)
            elif kind == _PUBLISH:
                self.messages.append(bytes([first]) + body)
                if first & 6:
                    start = 2 + int.from_bytes(body[:2])
                    request = Request(request.v5, int.from_bytes(body[start : start + 2]))
                    at, answer = "publish", puback(request)
            elif kind == _PUBACK:
                self.acknowledged += 1
            elif kind == _PINGREQ:
                answer = b"\xd0\0"
            elif kind == _DISCONNECT:
                return
            is_online = attack.at == "online" and at == self.online_at
            if is_online or at != attack.at or done:
                writer.write(answer)
            if (is_online or at == attack.at) and not done:
                done = True
                await self._strike(request, reader, writer, limit)

    async def _strike(
        self,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: asyncio.Timeout,
    ) -> None:
        """Send the attack; raises OSError when the connection has ended."""
        attack, now = self.attack, asyncio.get_running_loop().time
        self.attacked += 1
        limit.reschedule(now() + HOLD_S)
        data = attack.bytes(request)
        for piece in [data[at : at + 1] for at in range(len(data))] if attack.then == "drip" else [data]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(_DRIP_S if attack.then == "drip" else 0)
        while attack.then == "flood" and self.sent < FLOOD:
            writer.write(bytes(65_536))
            await writer.drain()
            self.sent += 65_536
        if attack.then == "close":
            writer.close()
            raise ConnectionError
        limit.reschedule(now() + (HOLD_S if attack.ends else TOLERATED_S))
        while attack.then == "quiet":
            if not await reader.read(65_536):
                raise ConnectionError


async def _read_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first = (await reader.readexactly(1))[0]
    size = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        size |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return first, await reader.readexactly(size)


def _filters(body: bytes, *, v5: bool) -> int:
    """The number of topic filters of a SUBSCRIBE."""
    at = 1 + body[0] if v5 else 0
    count = 0
    while at < len(body):
        at += 2 + int.from_bytes(body[at : at + 2]) + 1
        count += 1
    return count
