"""One MQTT connection, without a loop; the only module that imports paho.

It uses paho's public API for foreign event loops, and one private name: `Client._create_socket`, overridden
so that paho runs on a `PacketSocket` that is connected already. docs/decisions/0034 gives the reasons.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from wire.mqtt import encoding
from wire.mqtt.errors import (
    ConnectionLost,
    ConnectRefused,
    MalformedPacket,
    MqttError,
    NoConnack,
    NotConnected,
    SubscribeRefused,
    connect_refused,
    disconnected,
    is_defined,
    subscribe_refused,
    too_large,
)
from wire.mqtt.options import ConnectOptions
from wire.mqtt.packet_socket import Malformed, PacketSocket, PublishPacket, extent
from wire.socket_errors import why_no_connection, why_no_tls

_CONNACK, _PUBACK, _SUBACK, _UNSUBACK, _PINGRESP, _DISCONNECT = 2, 4, 9, 11, 13, 14
_NAMES = (
    "reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE",
    "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
)  # fmt: skip
_ANSWERS = (0x20, 0xE0)  # the first byte of CONNACK and DISCONNECT
_PINGREQ = b"\xc0\x00"
_GRANTED = (0, 1, 2)
_SOON_S = 0.1
_ANY_NUMBER = 65_535
_VERSIONS = {"5": MQTTProtocolVersion.MQTTv5, "3.1.1": MQTTProtocolVersion.MQTTv311}


def ignore(*_: Any) -> None:
    """Do nothing."""


def _never() -> bool:
    return False


@dataclass(slots=True)
class Handlers:
    """What a connection calls; none of them may block. `on_message` leaves the PUBACK to its owner."""

    on_message: Callable[[PublishPacket], None] = ignore
    on_puback: Callable[[int, int], None] = ignore  # mid, reason code
    on_suback: Callable[[int, SubscribeRefused | None], None] = ignore  # mid, what is refused
    on_end: Callable[[], None] = ignore  # before the socket is closed
    is_full: Callable[[], bool] = _never  # asked after each message: whether to stop reading


class Connection:
    """One connection: `start` sends CONNECT on a connected socket.

    Then `read`, `write` and `check_keepalive` are called when there is something to do. It ends by itself:
    `ended` is then the reason, and every call does nothing.
    """

    def __init__(self, options: ConnectOptions, handlers: Handlers) -> None:
        self.ended: MqttError | None = None
        self.is_connected = False  # a CONNACK arrived
        self.receive_maximum = _ANY_NUMBER  # QoS 1 messages that the broker takes without a PUBACK
        self._options = options
        self._where = options.login.where
        self._v5 = options.version == "5"
        self._handlers = handlers
        self._is_started = False
        self._is_leaving = False  # a DISCONNECT was sent
        self._maximum_qos = 2  # of a message to the broker
        self._maximum_size = 0  # of a packet to the broker; 0: any
        self._held: deque[bytes] = deque()  # PUBLISH packets beyond `receive_maximum`
        self._is_pinged = False  # it owes a PINGRESP
        self._pinged_s = 0.0
        self._mid = 0  # the last packet id
        self._unanswered: set[int] = set()
        self._subscribing: dict[int, list[str]] = {}

    def start(self, sock: socket.socket) -> None:
        """Queue CONNECT for a connected socket that does not block; `is_connected` follows the CONNACK."""
        options, login = self._options, self._options.login
        self.socket = PacketSocket(sock, options.largest, cuts_large=options.cuts_large)
        self._is_started = True
        self._paho = _paho_client(options, self.socket)
        self._paho.on_connect = self._on_connack
        self._paho.on_socket_register_write = ignore  # paho then queues packets, for `loop_write`
        if self._v5:
            properties = _properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=options.session_expiry_s,
                ReceiveMaximum=options.receive_maximum,
            )
            self._paho.connect(
                login.host, login.port, options.keepalive_s,
                clean_start=options.clean_start, properties=properties,
            )  # fmt: skip
        else:
            self._paho.connect(login.host, login.port, options.keepalive_s)
        self._paho.loop_write()

    @property
    def unanswered(self) -> int:
        """QoS 1 messages that wait for a PUBACK."""
        return len(self._unanswered)

    @property
    def is_full(self) -> bool:
        """Whether nothing is to be read now; a CONNACK always is."""
        return self.is_connected and self._handlers.is_full()

    @property
    def check_in_s(self) -> float:
        """Seconds until `check_keepalive` has something to do."""
        return max(_SOON_S, self._asked_or_idle_s + self._keepalive_s - time.monotonic())

    @property
    def _asked_or_idle_s(self) -> float:
        """The time of the last PINGREQ, or since which one direction carries nothing that proves it alive."""
        return max(self._pinged_s, min(self.socket.read_s, self.socket.sent_s))

    @property
    def _keepalive_s(self) -> int:
        # A broker can change it. If it turns it off, pings still find a connection that is dead.
        return self._paho.keepalive or self._options.keepalive_s

    def publish(
        self, topic: str, body: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int = 0
    ) -> int:
        """Queue a message for `write`; returns its packet id for `on_puback`, 0 with QoS 0.

        What exceeds the broker's Receive Maximum waits for a PUBACK.

        Raises:
            ValueError: nothing can be published on this topic.
            TooLarge: the broker takes no packets of this size; the connection stays open.
            MqttError: there is no connection.
        """
        self._require_open()
        if qos > self._maximum_qos:
            raise ConnectRefused(self._where, "it takes no messages of QoS 1: change its settings")
        mid = self._next_mid() if qos else 0
        packet = encoding.publish(topic, body, mid, qos=qos, retain=retain, v5=self._v5, expiry_s=expiry_s)
        if 0 < self._maximum_size < len(packet):
            raise too_large(self._where, topic, len(packet), self._maximum_size)
        if not qos:
            self.socket.send(packet)
            return 0
        if len(self._unanswered) < self.receive_maximum:
            self.socket.send(packet)
        else:
            self._held.append(packet)
        self._unanswered.add(mid)
        return mid

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> int:
        """Queue a SUBSCRIBE of topic filters with their QoS; returns its packet id for `on_suback`.

        Raises:
            MqttError: there is no connection.
        """
        self._require_open()
        mid = self._next_mid()
        self.socket.send(encoding.subscribe(filters, mid, v5=self._v5))
        self._subscribing[mid] = [topic for topic, _ in filters]
        return mid

    def _next_mid(self) -> int:
        """A packet id that waits for no answer."""
        for _ in range(_ANY_NUMBER):
            self._mid = self._mid % _ANY_NUMBER + 1
            if self._mid not in self._unanswered and self._mid not in self._subscribing:
                return self._mid
        raise ConnectionLost(self._where, f"it owes {_ANY_NUMBER:,} answers")

    def puback(self, mid: int) -> None:
        """Queue the PUBACK of a received message of QoS 1."""
        self.socket.puback(mid)

    def read(self) -> None:
        """Read what the socket has, and handle it."""
        if self.ended is not None:
            return
        try:
            self.socket.fill()
            self._handle()
        except Malformed as error:
            self.end(MalformedPacket(self._where, f"it broke the MQTT protocol: it sent {error}"))
        except OSError as error:
            self._broke(error)

    def write(self) -> None:
        """Send as much as the socket takes."""
        if self.ended is not None:
            return
        try:
            self.socket.flush()
        except OSError as error:
            self._broke(error)

    def check_keepalive(self) -> None:
        """Send a PINGREQ if it is time; end a connection that did not answer the last one."""
        if self.ended is not None or self._is_leaving or not self.is_connected:
            return
        now_s = time.monotonic()
        if self.is_full:
            self.socket.heard_s = now_s  # an answer would not be read
        if now_s < self._asked_or_idle_s + self._keepalive_s:
            return
        # The answer may wait behind messages that arrive slowly: each byte shows that the broker is there.
        if self._is_pinged and now_s >= self.socket.heard_s + self._keepalive_s:
            self.fail(f"it did not answer a ping within {self._keepalive_s} s")
        else:
            self.socket.send(_PINGREQ)
            self._is_pinged, self._pinged_s = True, now_s

    def disconnect(self) -> None:
        """Queue a DISCONNECT: the broker then ends the connection, and does not publish the will."""
        if self.ended is None and not self._is_leaving:
            self._is_leaving = True
            while self._held:  # such as the status `offline`: a reader must not miss it
                self.socket.send(self._held.popleft())
            self._paho.disconnect()
            self._paho.loop_write()

    def end(self, why: MqttError) -> None:
        """End the connection now, without a DISCONNECT unless that was sent."""
        if self.ended is None:
            self.ended = why
            if self._is_started:
                self._handlers.on_end()
                self.socket.shut()

    def end_late(self) -> None:
        """End an attempt to connect that takes too long."""
        if self._is_started:
            within = f"within {self._options.connect_s:g} s"
            self.end(NoConnack(self._where, f"it did not answer CONNECT {within}"))
        else:
            self.end(NotConnected(self._where, why_no_connection(TimeoutError())))

    def fail(self, why: str) -> None:
        """End the connection now, for a reason that its owner gives."""
        self.end(ConnectionLost(self._where, why))

    def hang_up(self) -> None:
        """End a connection that the broker closed."""
        if self.is_connected:
            self.fail("it ended the connection")
        else:
            # With MQTT 5 it may be the version: 3.1.1 is tried next.
            is_plain = self._options.login.tls is None and not self._v5
            hint = ": does it expect TLS (mqtts://)?" if is_plain else ""
            self.end(NoConnack(self._where, f"it closed the connection before it answered CONNECT{hint}"))

    def _broke(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLError):  # with TLS 1.3 a certificate is refused after the handshake
            kind = ConnectionLost if self.is_connected else NoConnack
            self.end(kind(self._where, why_no_tls(error)))
        elif self.is_connected:
            self.fail(f"the connection broke: {error.strerror or error}")
        else:
            self.hang_up()

    def _require_open(self) -> None:
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if not self.is_connected or self._is_leaving:
            raise ConnectionLost(self._where, "there is no connection")

    # What the broker sends

    def _handle(self) -> None:
        """Hand over the messages and read the other packets, in their order, until there are no more."""
        sock = self.socket
        while not self._must_stop():
            for publish in sock.publishes(v5=self._v5):
                if not self.is_connected:
                    raise Malformed("a message instead of a CONNACK packet")
                if not self._is_leaving:
                    self._handlers.on_message(publish)
                if self._must_stop():
                    return
            packet = sock.packet()
            if packet is None:
                if not self.is_connected and sock.first and sock.first[0] not in _ANSWERS:
                    raise Malformed(f"{sock.first!r} instead of a CONNACK packet")
                break
            self._control(packet[0], packet[1])
            sock.skip()
        if sock.has_ended and not self._must_stop():
            self.hang_up()

    def _must_stop(self) -> bool:
        return self.ended is not None or self.is_full

    def _control(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind in (_CONNACK, _PUBACK, _SUBACK) and (first & 0x0F or len(body) < 2):
            raise Malformed(f"{_shown(first, body)} that cannot be read")
        if kind == _CONNACK and not self.is_connected:
            if body[0] > 1:
                raise Malformed(f"{_shown(first, body)} with a reserved flag")
            if body[1]:
                self.end(connect_refused(self._where, body[1], self._options.version))
            else:
                self._by_paho(first, body)
        elif kind == _DISCONNECT and self._v5:
            self.end(disconnected(self._where, body[0] if body else 0, self._options.login.client_id))
        elif not self.is_connected:
            raise Malformed(f"{_shown(first, body)} instead of a CONNACK packet")
        elif self._is_leaving:
            pass  # paho has ended
        elif kind == _SUBACK:
            self._on_suback(first, body)
        elif kind == _PUBACK:
            self._on_puback(first, body)
        elif kind in (_UNSUBACK, _PINGRESP):
            self._by_paho(first, body)
            self._is_pinged = self._is_pinged and kind != _PINGRESP
        else:
            raise Malformed(f"{_shown(first, body)}, which a broker must not send now")

    def _by_paho(self, first: int, body: bytes) -> None:
        self.socket.release()
        unreadable = f"{_shown(first, body)} that cannot be read"
        try:
            result = self._paho.loop_read()
        except Exception as error:  # paho may raise anything for a peer's bytes
            raise Malformed(unreadable) from error
        if result != 0 or self._paho.socket() is None:
            raise Malformed(unreadable)

    def _on_suback(self, first: int, body: bytes) -> None:
        mid, codes = int.from_bytes(body[:2]), body[2:]
        if self._v5:
            start, end = extent(body, 1)
            codes = body[end:] if start else b""  # behind the properties
        filters = self._subscribing.pop(mid, None)
        if filters is None:
            return
        if len(codes) != len(filters) or any(code not in _GRANTED and not is_defined(code) for code in codes):
            raise Malformed(f"{_shown(first, body)} that does not answer {len(filters)} topic filters")
        refused = {topic: code for topic, code in zip(filters, codes, strict=True) if code not in _GRANTED}
        self._handlers.on_suback(mid, subscribe_refused(self._where, refused) if refused else None)

    def _on_connack(self, _client: Any, _data: Any, _flags: Any, _code: Any, properties: Any) -> None:
        self.is_connected = True
        limit = getattr(properties, "ReceiveMaximum", None)
        self.receive_maximum = limit if isinstance(limit, int) and limit else _ANY_NUMBER
        self._maximum_size = getattr(properties, "MaximumPacketSize", 0)
        self._maximum_qos = getattr(properties, "MaximumQoS", 2)

    def _on_puback(self, first: int, body: bytes) -> None:
        mid, code = int.from_bytes(body[:2]), body[2] if len(body) > 2 else 0
        has_end = len(body) < 4 or extent(body, 2)[1] == len(body)  # of its properties
        if not mid:
            raise Malformed(f"{_shown(first, body)} with the packet id 0")
        if not has_end or code not in encoding.PUBACK_CODES or (len(body) > 2 and not self._v5):
            raise Malformed(f"{_shown(first, body)} that cannot be read")
        if mid in self._unanswered:
            self._unanswered.discard(mid)
            if self._held:
                self.socket.send(self._held.popleft())
            self._handlers.on_puback(mid, code)


class _PahoClient(Client):
    """paho on a socket that is connected already, which paho cannot take otherwise."""

    connected_socket: PacketSocket

    def _create_socket(self) -> Any:
        return self.connected_socket


def _paho_client(options: ConnectOptions, sock: PacketSocket) -> _PahoClient:
    login, v5 = options.login, options.version == "5"
    client = _PahoClient(
        CallbackAPIVersion.VERSION2,
        client_id=login.client_id,
        clean_session=None if v5 else options.clean_start,
        protocol=_VERSIONS[options.version],
        reconnect_on_failure=False,
    )
    client.connected_socket = sock
    if login.username:
        client.username_pw_set(login.username, login.password)
    if (will := options.will) is not None:
        delay = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay_s) if v5 else None
        client.will_set(will.topic, will.body, will.qos, will.retain, delay)
    return client


def _properties(packet: int, **values: Any) -> Properties:
    made = Properties(packet)  # type: ignore[no-untyped-call]  # paho's are untyped
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _shown(first: int, body: bytes) -> str:
    name = _NAMES[first >> 4]
    article = "an" if name[0] in "AU" else "a"
    return f"{article} {name} packet ({(bytes([first]) + body[:8]).hex(' ')})"
