"""One MQTT connection of the collector, from CONNECT to its end, driven by the link's thread."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import time
from collections import deque
from typing import Protocol

import msgspec

from collector.mqtt.probe import SYSTEM, Probe
from collector.mqtt.received import Received, Receiver
from collector.mqtt.rival import Claim, claim_topic
from wire.clock import Clock
from wire.log_rate_limit import LogRateLimit
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.mqtt.errors import ConnectionLost, SubscribeRefused, TooLarge
from wire.mqtt.options import ConnectOptions, Login, Version
from wire.mqtt.packet_socket import PublishPacket
from wire.topics import ROOT

log = logging.getLogger(__name__)

_LOG_LIMIT = LogRateLimit()
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
SILENCE_S = 30.0  # connected and reading, but nothing arrives, not even the own probe: connect again
OWED_S = 5.0  # for the PUBACK of an ack; on a connection that carries acks alone nothing delays it longer
HELD_S = 5.0  # without a settled message though some are open: the store is stuck, not the broker
PROBE_EVERY_S = 2.0
_NUMBERS = 1_000_000  # of probes for each connection
# nats-server can lose a status that is published while a new session subscribes, live and retained.
# A second subscription brings the retained messages once more.
ASK_AGAIN_S = (2.0, 20.0)  # after coming online


class Owner(Protocol):
    """What a connection needs of the link that drives it."""

    claim: Claim
    clock: Clock
    receiver: Receiver | None  # None: it carries acks alone
    settled: deque[tuple[int, int]]
    outgoing: deque[tuple[str, bytes]]
    stopping: threading.Event
    wake_in: socket.socket

    def is_holding(self) -> bool:
        """Whether nothing is to be received now."""
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
    """One connection; only the link's thread touches it, except `abort`."""

    def __init__(self, link: Owner, number: int, login: Login, version: Version) -> None:
        self.was_online = False
        self._link = link
        self._login = login
        self._number = number
        self._open = 0  # messages handed over and not settled yet
        self._owed: dict[int, tuple[float, str, bytes]] = {}  # mid -> since when, what was published
        self._heard_at = self._settled_at = time.monotonic()
        self._probe = Probe(login.client_id, link.claim.by, number * _NUMBERS)
        self._probes = link.receiver.probes if link.receiver else None
        self._probed_at = 0.0
        self._online_at = 0.0
        self._asked = 0  # how many of ASK_AGAIN_S are done
        options = ConnectOptions(
            login=login,
            version=version,
            clean_start=link.receiver is None,
            session_expiry_s=login.session_s(SESSION_S) if link.receiver else 0,
            receive_maximum=RECEIVE_MAXIMUM,
            keepalive_s=KEEPALIVE_S,
            connect_s=CONNECT_S,
            cuts_large=True,
        )
        handlers = Handlers(
            on_message=self._take,
            on_puback=self._on_puback,
            on_suback=self._on_suback,
            is_full=link.is_holding,
        )
        self._client = BlockingClient(options, handlers, link.wake_in)

    @property
    def online_s(self) -> float:
        """How long ago it came online."""
        return time.monotonic() - self._online_at

    def serve(self) -> None:
        """Connect and receive until the connection ends or the link stops.

        Raises:
            MqttError: it ended; the text gives the reason.
        """
        link, client = self._link, self._client
        client.open()
        if link.receiver:
            wanted = [(f"{NODE}/{tail}", 1) for tail in DURABLE]
            wanted += [(f"{NODE}/{tail}", 0) for tail in FLEETING]
            client.subscribe(wanted)
        else:
            self._come_online()
        began = time.monotonic()
        while client.ended is None:
            if link.stopping.is_set():
                self._end()
                return
            if link.is_holding():  # a SUBACK is not read
                began = time.monotonic()
            if not self.was_online and time.monotonic() - began > CONNECT_S:
                raise ConnectionLost(self._login.where, f"it did not answer SUBSCRIBE within {CONNECT_S:g} s")
            client.turn()
            if self.was_online and client.ended is None:
                self._send()
                self._look_after()
        raise client.ended

    def _send(self) -> None:
        link, client = self._link, self._client
        link.take_back()
        settled = len(link.settled)  # their PUBACKs go after the acks: a broker handles packets in order
        while link.outgoing and client.unanswered < min(MAX_INFLIGHT, client.receive_maximum):
            topic, body = link.outgoing.popleft()
            try:
                kept = is_kept(topic)
                mid = client.publish(topic, body, qos=1, retain=kept, expiry_s=0 if kept else 60)
            except TooLarge as error:  # the node sends its messages again, and gets another ack
                if _LOG_LIMIT.since("too-large") is not None:
                    log.warning("%s; it is not sent", error)
                continue
            self._owed[mid] = (time.monotonic(), topic, body)
        for _ in range(settled):
            number, mid = link.settled.popleft()
            if number == self._number:
                self._open -= 1
                self._settled_at = time.monotonic()
                client.puback(mid)

    def _look_after(self) -> None:
        connection, now, full = self._client, time.monotonic(), self._link.is_holding()
        if self._link.receiver is None:
            if any(now - since > OWED_S for since, _, _ in itertools.islice(self._owed.values(), 1)):
                self._end_deaf(f"the broker acknowledges nothing for {OWED_S:g} s")
            return
        if full or (self._open and now - self._settled_at > HELD_S):
            self._heard_at = now  # the broker may be waiting for PUBACKs: silence proves nothing
            self._probe.excuse()
        if now - self._probed_at > PROBE_EVERY_S:
            self._probed_at = now
            # QoS 1 takes the way of the data; while nothing is read, no PUBACK would be
            for topic, body in self._probe.next():
                connection.publish(topic, body, qos=0 if full else 1)
            if self._probes is not None and not full:
                self._probes.asked(self._probe.number)
        if self._asked < len(ASK_AGAIN_S) and now - self._online_at > ASK_AGAIN_S[self._asked]:
            self._asked += 1
            connection.subscribe([(f"{NODE}/{tail}", 1) for tail in RETAINED])
        if now - self._heard_at > SILENCE_S:
            self._end_deaf(f"connected, but nothing arrived for {SILENCE_S:g} s, not even the own probe")
        elif dead := self._probe.dead(now, SILENCE_S):
            self._end_deaf(
                f"connected, but no {dead} arrived for {SILENCE_S:g} s, and neither did the own probe"
            )

    def _end_deaf(self, why: str) -> None:
        self._link.count_rebuilt()
        self._client.fail(why)

    def _on_suback(self, _mid: int, refused: SubscribeRefused | None) -> None:
        if refused is not None:
            self._client.end(refused)
            return
        self._heard_at = time.monotonic()
        if not self.was_online:
            self._come_online()

    def _come_online(self) -> None:
        self.was_online = True
        self._online_at = time.monotonic()
        if self._link.receiver:
            self._publish_claim(msgspec.json.encode(self._link.claim))
        self._link.came_online()

    def _publish_claim(self, body: bytes) -> None:
        self._client.publish(claim_topic(self._login.client_id), body, qos=1, retain=True)

    def _on_puback(self, mid: int, _code: int) -> None:
        self._owed.pop(mid, None)

    def _take(self, packet: PublishPacket) -> None:
        receiver, mid, now_s = self._link.receiver, packet.mid, time.monotonic()
        if mid:
            self._heard_at = now_s
        is_probe = packet.topic.startswith(_SYSTEM)
        if is_probe:
            number = self._probe.came(packet.topic_name, packet.body, now_s)
            if number and self._probes is not None:
                self._probes.answered(number)
        if receiver is None or is_probe or not receiver.admits(packet.topic, packet.body, now_s):
            if mid:  # for the broker alone: without an ack the node's outbox sends it again
                self._client.puback(mid)
            return
        if self._link.stopping.is_set():  # only PUBACKs are waited for
            return
        topic = packet.topic_name
        self._probe.flows(topic)
        self._open += mid > 0
        token = (self._number, mid) if mid else None
        recv_ms = self._link.clock.now_ms()
        receiver.on_message(Received(topic, packet.body, recv_ms, packet.retained, token, packet.dup))

    def _end(self) -> None:
        """Send what is settled and a DISCONNECT, within a second."""
        client, deadline = self._client, time.monotonic() + 1.0
        if self.was_online:
            if self._link.receiver:
                self._publish_claim(b"")
            self._send()
        while client.ended is None and client.unanswered and time.monotonic() < deadline:
            client.turn(0.1)
        client.close(max(0.1, deadline - time.monotonic()))

    def abort(self) -> None:
        """End the attempt to connect, from any thread."""
        self._client.abort()

    def close(self) -> None:
        """Drop the connection; queue again what the broker did not acknowledge."""
        self._link.outgoing.extendleft((topic, body) for _, topic, body in reversed(self._owed.values()))
        self._owed.clear()
        if self._probes is not None:
            self._probes.disconnected()
        self._client.close()


def is_kept(topic: str) -> bool:
    """Whether the broker keeps the newest message on a topic for nodes that are away: desired documents."""
    return topic.split("/")[5:6] == ["desired"]
