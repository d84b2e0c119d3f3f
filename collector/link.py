"""The durable MQTT connection of the collector: one thread, a persistent session, acknowledged by hand."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from collector.buffered import Buffered
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import ConfigError
from wire.topics import ROOT

log = logging.getLogger(__name__)

NODE = f"{ROOT}/+/+/+/+"
DURABLE = ("data/#", "event/#", "status", "birth", "res/#", "reported/#")
RETAINED = ("status", "birth")  # of DURABLE
FLEETING = ("live/#", "snap/#", "log/#")
RECEIVE_MAXIMUM = 2000  # messages a broker may send beyond what was acknowledged
SESSION_S = 7 * 86_400  # how long a broker keeps the session of an absent collector
MAX_INFLIGHT = 100  # own messages the broker has not acknowledged yet
KEEPALIVE_S = 20
CONNECT_S = 10.0
SILENCE_S = 30.0  # connected, nothing to hold back, not even the own probe: the connection is made anew
PROBE_EVERY_S = 8.0
# nats-server can miss a status published while a new session subscribes: neither live nor as retained.
# Subscribing again brings what is retained once more.
ASK_AGAIN_S = (2.0, 20.0)  # after coming online
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_OUTGOING = (
    20_000  # acks that wait for a connection; what falls out is sent again by its node, and acked then
)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as it came; `token` settles it: (connection, mid), or None for QoS 0."""

    topic: str
    body: bytes
    recv_ms: int
    retained: bool
    token: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class LinkState:
    """The connection for people and monitors; `since` in ms."""

    state: Literal["connecting", "online", "offline", "stopped"]
    since: int
    why: str = ""
    protocol: str = ""
    connects: int = 0
    rebuilt: int = 0  # connections ended because nothing came through them


class Link:
    """Receives in its own thread, for ever: `on_message` must not block and is called from there.

    While `is_full()` nothing is read, so that what waits, waits at the broker.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        clock: Clock,
        *,
        on_message: Callable[[Incoming], None],
        is_full: Callable[[], bool],
    ) -> None:
        self.broker = broker
        self.client_id = client_id
        self.state = LinkState("connecting", clock.now_ms())
        self._clock = clock
        self._on_message = on_message
        self._is_full = is_full
        self._probe_topic = f"{ROOT}/_sys/{client_id}/probe"
        self._version = (
            MQTTProtocolVersion.MQTTv311 if broker.protocol == "3.1.1" else MQTTProtocolVersion.MQTTv5
        )
        self._settled: deque[tuple[int, int]] = deque()
        self._outgoing: deque[tuple[str, bytes]] = deque(maxlen=_OUTGOING)
        self._stop = threading.Event()
        self._held = threading.Event()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="collector-link", daemon=True)
        self._connection = 0  # counts connections: a mid means something within one only
        self._told = ""  # the last loss that was logged

    def start(self) -> None:
        """Begin connecting."""
        self._thread.start()

    def settle(self, tokens: Iterable[tuple[int, int]], acks: Iterable[tuple[str, bytes]] = ()) -> None:
        """Acknowledge messages to the broker, then publish acks; any thread, returns at once."""
        self._settled.extend(tokens)
        self._outgoing.extend(acks)
        with contextlib.suppress(BlockingIOError):  # full of wake-ups: it is awake
            self._wake_out.send(b"w")

    def hold(self) -> None:
        """Receive nothing more, but go on sending: the first half of stopping."""
        self._held.set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_holding(self) -> bool:
        """Whether nothing is to be received now."""
        return self._held.is_set() or self._is_full()

    def stop(self) -> None:
        """Send what is settled, disconnect, end the thread; the session stays at the broker."""
        self._stop.set()
        self.settle(())
        if self._thread.ident is not None:
            self._thread.join(2 * CONNECT_S)
        self._wake_in.close()
        self._wake_out.close()
        self._note("stopped", "")

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            connection = _Connection(self, self._version)
            try:
                why = connection.serve()
            except (OSError, ValueError, ConfigError) as error:
                why = _reason(error)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                if why != self._told:
                    log.exception("the MQTT connection failed in an unforeseen way")
            finally:
                connection.close()
            if self._stop.is_set():
                return
            failures = 0 if connection.was_online else failures + 1
            if not connection.was_online and connection.refused_version and self.broker.protocol == "auto":
                self._version = _other(self._version)
                if not self._told and self._version == MQTTProtocolVersion.MQTTv311:
                    self._fall_back(why)
                    continue
            self._lost(why)
            self._stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])

    def _note(self, state: Literal["connecting", "online", "offline", "stopped"], why: str) -> None:
        before = self.state
        since = before.since if before.state == state else self._clock.now_ms()
        self.state = LinkState(
            state,
            since,
            why,
            "5" if self._version == MQTTProtocolVersion.MQTTv5 else "3.1.1",
            before.connects + (state == "online"),
            before.rebuilt,
        )

    def _lost(self, why: str) -> None:
        if self._told != why:
            log.warning("no broker at %s: %s; trying on", self.broker.url, why)
            self._told = why
        self._note("offline", why)

    def _fall_back(self, why: str) -> None:
        # what nats-server always does; that nothing answers at all is told after the next attempt
        self._told = "MQTT 5 was not taken"
        log.info("broker %s does not take MQTT 5 (%s): trying MQTT 3.1.1", self.broker.url, why)
        self._note("connecting", "")

    def _came_online(self) -> None:
        self._note("online", "")
        log.info("connected to %s with MQTT %s", self.broker.url, self.state.protocol)
        self._told = ""


class _Connection:
    """One paho client for one connection, driven by the link's thread: no other thread touches it."""

    def __init__(self, link: Link, version: MQTTProtocolVersion) -> None:
        self.was_online = False
        self.refused_version = False
        self._link = link
        self._v5 = version == MQTTProtocolVersion.MQTTv5
        self._why = ""
        link._connection += 1
        self._number = link._connection
        self._received = 0
        self._open = 0  # messages handed over that nobody has settled yet
        self._limit = MAX_INFLIGHT
        self._heard_at = link._clock.monotonic()
        self._probed_at = 0.0
        self._online_at = 0.0
        self._asked = 0  # how many of ASK_AGAIN_S are done
        self.client = self._build(version)

    def _build(self, version: MQTTProtocolVersion) -> mqtt.Client:
        link = self._link
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=link.client_id,
            clean_session=None if self._v5 else False,
            protocol=version,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_S / 2
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_register_write = _nothing  # makes paho queue instead of writing where it stands
        return client

    def serve(self) -> str:
        """Connect and receive until the connection ends; returns why it did."""
        link, broker = self._link, self._link.broker
        password = broker.password()
        if broker.username or password:
            self.client.username_pw_set(broker.username or link.client_id, password)
        context = broker.ssl_context()
        if context is not None:
            self.client.tls_set_context(context)
        if self._v5:
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = SESSION_S
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            self.client.connect(
                broker.host, broker.port, KEEPALIVE_S, clean_start=False, properties=properties
            )
        else:
            self.client.connect(broker.host, broker.port, KEEPALIVE_S)
        began = link._clock.monotonic()
        while (sock := self.client.socket()) is not None and not self._why:
            if link._stop.is_set():
                self._end()
                return "stopped"
            if not self.was_online and link._clock.monotonic() - began > CONNECT_S:
                self.refused_version = True
                return f"it took the connection and answered nothing for {CONNECT_S:g} s"
            self._turn(sock)
        if not self.was_online and not self._why:
            self.refused_version = True  # closed without a word: nats-server does so with MQTT 5
        return self._why or "the connection ended"

    def _turn(self, sock: Any) -> None:
        """Wait for something to do, and do it."""
        link, full = self._link, self._link.is_holding
        poll = select.poll()
        reading = 0 if full else select.POLLIN
        writing = select.POLLOUT if self.client.want_write() or sock.unsent else 0
        poll.register(sock, reading | writing)
        poll.register(link._wake_in, select.POLLIN)
        pending = not full and sock.pending() > 0
        ready = dict(poll.poll(0 if pending else 250))
        if pending or ready.get(sock.fileno(), 0) & ~select.POLLOUT:
            self._read()
        if link._wake_in.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                link._wake_in.recv(4096)
        self._send()
        self._write()
        self._look_after(full)

    def _read(self) -> None:
        for _ in range(200):
            before = self._received
            if self.client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or self._received == before:
                return
            if self._link.is_holding:
                return

    def _write(self) -> None:
        if self.client.want_write():
            self.client.loop_write()
        sock: Any = self.client.socket()
        if sock is not None:
            sock.flush()

    def _send(self) -> None:
        link = self._link
        if not self.was_online:
            return
        while link._settled:
            connection, mid = link._settled.popleft()
            if connection == self._number:
                self._open -= 1
                self.client.ack(mid, 1)
        while link._outgoing and len(self.client._out_messages) < 1000:
            topic, body = link._outgoing.popleft()
            properties = None
            if self._v5:
                properties = _properties(PacketTypes.PUBLISH)
                properties.MessageExpiryInterval = 60
            self.client.publish(topic, body, qos=1, properties=properties)

    def _look_after(self, full: bool) -> None:
        now = self._link._clock.monotonic()
        if full or self._open > 0:
            self._heard_at = now  # it may well wait for us: silence proves nothing
        if not full and self.client.socket() is not None:
            self.client.loop_misc()  # not while full: answers to its pings are not read then
        if not self.was_online:
            return
        if now - self._probed_at > PROBE_EVERY_S:
            self._probed_at = now
            # QoS 1 travels the way of the data; while nothing is read, QoS 0 keeps the broker from giving up
            self.client.publish(self._link._probe_topic, b"?", qos=0 if full else 1)
        if self._asked < len(ASK_AGAIN_S) and now - self._online_at > ASK_AGAIN_S[self._asked]:
            self._asked += 1
            self._subscribe([(f"{NODE}/{tail}", 1) for tail in RETAINED])
        if now - self._heard_at > SILENCE_S:
            self._why = f"connected, but nothing came through for {SILENCE_S:g} s, not even the own probe"
            before = self._link.state
            self._link.state = LinkState(
                before.state, before.since, before.why, before.protocol, before.connects, before.rebuilt + 1
            )

    def _on_connect(
        self, _client: mqtt.Client, _user: Any, _flags: Any, code: ReasonCode, props: Any
    ) -> None:
        if code.is_failure:
            self.refused_version = "protocol version" in str(code).lower()
            self._why = f"it refuses the connection: {code}"
            return
        limit = getattr(props, "ReceiveMaximum", None)
        if isinstance(limit, int):
            self._limit = min(MAX_INFLIGHT, limit)
        wanted = [(f"{NODE}/{tail}", 1) for tail in DURABLE] + [(self._link._probe_topic, 1)]
        wanted += [(f"{NODE}/{tail}", 0) for tail in FLEETING]
        self._subscribe(wanted)

    def _subscribe(self, wanted: list[tuple[str, int]]) -> None:
        if self._v5:
            self.client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in wanted])
        else:
            self.client.subscribe(wanted)

    def _on_subscribe(
        self, _client: Any, _user: Any, _mid: int, codes: list[ReasonCode], _props: Any
    ) -> None:
        refused = [str(code) for code in codes if code.is_failure]
        if refused:
            self._why = f"it refuses {len(refused)} subscriptions: {refused[0]}; check its access rules"
            return
        self._heard_at = self._link._clock.monotonic()
        if not self.was_online:
            self.was_online = True
            self._online_at = self._heard_at
            self._link._came_online()

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: ReasonCode, _props: Any) -> None:
        if not self._why:
            self._why = f"the connection ended: {code}"
        if "taken over" in str(code).lower():
            self._why = (
                f"another client connected as {self._link.client_id!r}: give each collector its own id"
            )

    def _on_message(self, client: mqtt.Client, _user: Any, message: mqtt.MQTTMessage) -> None:
        self._received += 1
        if message.qos:
            self._heard_at = self._link._clock.monotonic()
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = message._topic.decode("utf-8", "backslashreplace")
        if topic == self._link._probe_topic:
            if message.qos:
                client.ack(message.mid, 1)
            return
        token = (self._number, message.mid) if message.qos else None
        self._open += token is not None
        recv_ms = self._link._clock.now_ms()
        self._link._on_message(Incoming(topic, bytes(message.payload), recv_ms, message.retain, token))

    def _end(self) -> None:
        """Send what is settled and say goodbye, within a second."""
        deadline = self._link._clock.monotonic() + 1.0
        self._link._on_message = _nothing
        self._send()
        while (sock := self.client.socket()) is not None and self._link._clock.monotonic() < deadline:
            self._write()
            if not self.client.want_write() and not self.client._out_messages:
                break
            poll = select.poll()
            poll.register(sock, select.POLLIN | (select.POLLOUT * self.client.want_write()))
            if poll.poll(100):
                self.client.loop_read()
        self.client.disconnect()
        self.client.loop_write()

    def close(self) -> None:
        """Drop the socket, whatever state it is in."""
        sock = self.client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()


class _Client(mqtt.Client):
    """paho's client on a socket that is read in large pieces: paho itself asks for single bytes."""

    def _create_socket(self) -> Any:
        sock: Any = super()._create_socket()
        return Buffered(sock)


def _properties(packet: int) -> Any:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves it without annotations


def _nothing(*_: Any) -> None:
    return None


def _other(version: MQTTProtocolVersion) -> MQTTProtocolVersion:
    v5, v311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
    return v311 if version == v5 else v5


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)
