"""One MQTT connection of the collector, from CONNECT to its end, driven by the link's thread."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections import deque
from typing import Any, Protocol

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from collector.mqtt.login import set_login
from collector.mqtt.packet_socket import PacketSocket, PublishPacket
from collector.mqtt.probe import SYSTEM, Probe
from collector.mqtt.received import Received
from collector.mqtt.rival import Claim, claim_topic
from wire.broker import Broker
from wire.clock import Clock
from wire.topics import ROOT

_SYSTEM = SYSTEM.encode()
NODE = f"{ROOT}/+/+/+/+"
DURABLE = ("data/#", "event/#", "pack", "status", "birth", "res/#", "reported/#")
RETAINED = ("status", "birth")  # of DURABLE
FLEETING = ("live/#", "snap/#", "log/#")
RECEIVE_MAXIMUM = 2000  # messages a broker may send beyond what was acknowledged
SESSION_S = 7 * 86_400  # how long a broker keeps the session of an absent collector
MAX_INFLIGHT = 100  # own messages the broker has not acknowledged yet
KEEPALIVE_S = 20
CONNECT_S = 10.0
_UNSPECIFIED = 128  # a reason code
_TAKEN_OVER = 0x8E
SILENCE_S = 30.0  # connected and reading, but nothing arrives, not even the own probe: connect again
OWED_S = 5.0  # for the PUBACK of an ack; on a connection that carries acks alone nothing delays it longer
HELD_S = 5.0  # without a settled message though some are open: the store is stuck, not the broker
PROBE_EVERY_S = 8.0
# nats-server can lose a status that is published while a new session subscribes, live and retained.
# A second subscription brings the retained messages once more.
ASK_AGAIN_S = (2.0, 20.0)  # after coming online


class Owner(Protocol):
    """What a connection needs of the link that drives it."""

    broker: Broker
    client_id: str
    claim: Claim
    username: str
    clock: Clock
    receives: bool  # False: it carries acks alone
    connections: int  # how many there were
    settled: deque[tuple[int, int]]
    outgoing: deque[tuple[str, bytes]]
    stopping: threading.Event
    wake_in: socket.socket

    @property
    def is_holding(self) -> bool:
        """Whether nothing is to be received now."""
        ...

    def on_message(self, message: Received, /) -> None:
        """Take a received message."""
        ...

    def turn(self, now_s: float, /) -> None:
        """Set the time for `admits`."""
        ...

    def admits(self, topic: bytes, body: bytes, /) -> bool:
        """Whether the node of this topic may publish this now."""
        ...

    def take_back(self) -> None:
        """Move the acks that another connection cannot send to `outgoing`."""
        ...

    def came_online(self) -> None:
        """The connection is subscribed."""
        ...

    def count_rebuilt(self) -> None:
        """The connection ends itself because nothing comes through it."""
        ...


class Connection:
    """One paho client for one connection; only the link's thread touches it."""

    def __init__(self, link: Owner, version: MQTTProtocolVersion) -> None:
        self.was_online = False
        self.refused_version = False
        self._greeted = False  # a CONNECT was sent
        self._answered = False  # a CONNACK arrived
        self._link = link
        self._v5 = version == MQTTProtocolVersion.MQTTv5
        self._why = ""
        link.connections += 1
        self._number = link.connections
        self._open = 0  # messages handed over and not settled yet
        self._limit = MAX_INFLIGHT
        self._ending = False  # nothing more is handed over
        self._owed: dict[int, tuple[float, str, bytes]] = {}  # mid -> since when, what was published
        self._heard_at = self._settled_at = time.monotonic()
        self._probe = Probe(link.client_id, link.claim.by)
        self._probed_at = 0.0
        self._online_at = 0.0
        self._asked = 0  # how many of ASK_AGAIN_S are done
        self.client = self._build(version)

    def _build(self, version: MQTTProtocolVersion) -> mqtt.Client:
        link = self._link
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=link.client_id,
            clean_session=None if self._v5 else not link.receives,
            protocol=version,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_S / 2
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_socket_register_write = (
            _nothing  # makes paho queue its packets instead of sending them at once
        )
        return client

    @property
    def hung_up(self) -> bool:
        """Whether the broker ended it instead of answering CONNECT: some do so with an unknown version."""
        return self._greeted and not self._answered

    @property
    def online_s(self) -> float:
        """How long ago it came online."""
        return time.monotonic() - self._online_at

    def serve(self) -> str:
        """Connect and receive until the connection ends; returns the reason."""
        link, broker = self._link, self._link.broker
        set_login(self.client, broker, link.username)
        if self._v5:
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = SESSION_S if link.receives else 0
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            self.client.connect(
                broker.host, broker.port, KEEPALIVE_S, clean_start=not link.receives, properties=properties
            )
        else:
            self.client.connect(broker.host, broker.port, KEEPALIVE_S)
        self._greeted = True
        began = time.monotonic()
        while (sock := self.client.socket()) is not None and not self._why:
            if link.stopping.is_set():
                self._end()
                return "stopped"
            if not self.was_online and time.monotonic() - began > CONNECT_S:
                self.refused_version = True
                return f"it accepted the connection and did not answer within {CONNECT_S:g} s"
            self._turn(sock)
        return self._why or "the connection ended"

    def _turn(self, sock: Any) -> None:
        """Wait until there is something to do, and do it."""
        link, full = self._link, self._link.is_holding
        poll = select.poll()
        reading = 0 if full else select.POLLIN
        writing = select.POLLOUT if self.client.want_write() or sock.unsent else 0
        poll.register(sock, reading | writing)
        poll.register(link.wake_in, select.POLLIN)
        pending = not full and sock.pending()
        ready = dict(poll.poll(0 if pending else 250))
        if pending or ready.get(sock.fileno(), 0) & ~select.POLLOUT:
            self._read(sock)
        if link.wake_in.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                link.wake_in.recv(4096)
        self._send()
        self._write()
        self._look_after(full)

    def _read(self, sock: Any) -> None:
        """Read what is there: PUBLISH packets here, all others by paho."""
        link, now_s = self._link, time.monotonic()
        sock.fill()
        link.turn(now_s)
        while True:
            for publish in sock.publishes(v5=self._v5):
                self._take(sock, publish, now_s)
                if link.is_holding:
                    return
            if not sock.release() or self.client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return

    def _write(self) -> None:
        if self.client.want_write():
            self.client.loop_write()
        sock: Any = self.client.socket()
        if sock is not None:
            sock.flush()

    def _send(self) -> None:
        link, sock = self._link, self.client.socket()
        if not self.was_online or sock is None:
            return
        link.take_back()
        buffered: Any = sock
        settled = len(link.settled)  # their PUBACKs go after the acks: a broker handles packets in order
        while link.outgoing and len(self.client._out_messages) < self._limit:
            topic, body = link.outgoing.popleft()
            properties = None
            if self._v5:
                properties = _properties(PacketTypes.PUBLISH)
                properties.MessageExpiryInterval = 60
            mid = self.client.publish(topic, body, qos=1, properties=properties).mid
            self._owed[mid] = (time.monotonic(), topic, body)
        if settled:
            self.client.loop_write()
        for _ in range(settled):
            connection, mid = link.settled.popleft()
            if connection == self._number:
                self._open -= 1
                self._settled_at = time.monotonic()
                buffered.puback(mid)

    def _look_after(self, full: bool) -> None:
        now = time.monotonic()
        if full or (self._open and now - self._settled_at > HELD_S):
            self._heard_at = now  # the broker may be waiting for PUBACKs: silence proves nothing
            self._probe.excuse()
        if not full and self.client.socket() is not None:
            self.client.loop_misc()  # not while full: the answers to its pings are not read then
        if not self.was_online:
            return
        if not self._link.receives:
            if any(now - since > OWED_S for since, _, _ in itertools.islice(self._owed.values(), 1)):
                self._deaf(f"the broker acknowledges nothing for {OWED_S:g} s")
            return
        if now - self._probed_at > PROBE_EVERY_S:
            self._probed_at = now
            # QoS 1 takes the way of the data; while nothing is read, QoS 0 keeps the connection alive
            for topic, body in self._probe.next():
                self.client.publish(topic, body, qos=0 if full else 1)
        if self._asked < len(ASK_AGAIN_S) and now - self._online_at > ASK_AGAIN_S[self._asked]:
            self._asked += 1
            self._subscribe([(f"{NODE}/{tail}", 1) for tail in RETAINED])
        if now - self._heard_at > SILENCE_S:
            self._deaf(f"connected, but nothing arrived for {SILENCE_S:g} s, not even the own probe")
        elif dead := self._probe.dead(now, SILENCE_S):
            self._deaf(f"connected, but no {dead} arrived for {SILENCE_S:g} s, and neither did the own probe")

    def _deaf(self, why: str) -> None:
        self._why = why
        self._link.count_rebuilt()

    def _on_connect(
        self, _client: mqtt.Client, _user: Any, _flags: Any, code: ReasonCode, props: Any
    ) -> None:
        self._answered = True
        if code.is_failure:
            self.refused_version = "protocol version" in str(code).lower()
            self._why = f"it refuses the connection: {code}"
            return
        limit = getattr(props, "ReceiveMaximum", None)
        if isinstance(limit, int):
            self._limit = min(MAX_INFLIGHT, limit)
        if not self._link.receives:
            self._came_online()
            return
        wanted = [(f"{NODE}/{tail}", 1) for tail in DURABLE]
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
        self._heard_at = time.monotonic()
        if not self.was_online:
            self._came_online()

    def _came_online(self) -> None:
        self.was_online = True
        self._online_at = time.monotonic()
        if self._link.receives:
            claim = msgspec.json.encode(self._link.claim)
            self.client.publish(claim_topic(self._link.client_id), claim, qos=1, retain=True)
        self._link.came_online()

    def _on_publish(self, _client: Any, _user: Any, mid: int, _code: Any, _props: Any) -> None:
        self._owed.pop(mid, None)

    def _on_disconnect(self, _client: Any, _user: Any, _flags: Any, code: ReasonCode, _props: Any) -> None:
        if not self._why:
            # 128 is paho's code for an end without a reason: the broker was stopped, or the line was cut
            self._why = "the connection ended" + ("" if code.value == _UNSPECIFIED else f": {code}")
        if code.value == _TAKEN_OVER:
            self._why = f"another client connected as {self._link.client_id!r} (0x8E, session taken over)"

    def _take(self, sock: Any, publish: PublishPacket, now_s: float) -> None:
        link, mid = self._link, publish.mid
        if mid:
            self._heard_at = now_s
        if publish.topic.startswith(_SYSTEM):
            self._probe.came(publish.topic.decode(errors="replace"), publish.body, now_s)
            if mid:
                sock.puback(mid)
            return
        if not link.admits(publish.topic, publish.body):
            if mid:
                sock.puback(mid)  # for the broker alone: without an ack the node's outbox sends it again
            return
        if self._ending:
            return
        topic = publish.topic.decode(errors="backslashreplace")
        self._probe.flows(topic)
        self._open += mid > 0
        token = (self._number, mid) if mid else None
        recv_ms = link.clock.now_ms()
        link.on_message(Received(topic, publish.body, recv_ms, publish.retained, token, publish.dup))

    def _end(self) -> None:
        """Send what is settled and a DISCONNECT, within a second."""
        deadline = time.monotonic() + 1.0
        self._ending = True
        if self.was_online and self._link.receives:
            self.client.publish(claim_topic(self._link.client_id), b"", qos=1, retain=True)
        self._send()
        while (sock := self.client.socket()) is not None and time.monotonic() < deadline:
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
        """Drop the socket in whatever state it is; queue again what the broker did not acknowledge."""
        self._link.outgoing.extendleft((topic, body) for _, topic, body in reversed(self._owed.values()))
        self._owed.clear()
        sock = self.client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()


class _Client(mqtt.Client):
    """paho's client on a socket that reads in large pieces; paho itself reads single bytes."""

    def _create_socket(self) -> Any:
        sock: Any = super()._create_socket()
        return PacketSocket(sock)


def _properties(packet: int) -> Any:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho has no annotations here


def _nothing(*_: Any) -> None:
    return None
