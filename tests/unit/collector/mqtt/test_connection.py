"""One connection: what is acknowledged, in which order, and which messages are passed on."""

from __future__ import annotations

from typing import Any

from paho.mqtt.enums import MQTTProtocolVersion

from collector.mqtt.connection import Connection
from collector.mqtt.link import Link
from collector.mqtt.packet_socket import PublishPacket
from collector.mqtt.received import Received
from tests.unit.collector.mqtt.packets import Pair, framed
from wire.broker import Broker
from wire.clock import Clock


def make_link(received: list[Received] | None = None, port: int = 1, **options: Any) -> Link:
    found = [] if received is None else received
    return Link(
        Broker(url=f"mqtt://127.0.0.1:{port}"), "collector-1", Clock(),
        on_message=found.append, is_full=lambda: False, **options,
    )  # fmt: skip


def connected(link: Link, pair: Pair) -> Connection:
    connection = Connection(link, MQTTProtocolVersion.MQTTv311)
    connection.client._sock = pair[0]
    connection.was_online = True
    return connection


def test_a_number_of_an_earlier_connection_acknowledges_nothing(pair: Pair) -> None:
    link = make_link()
    connection = connected(link, pair)
    link.settle([(connection._number - 1, 5), (connection._number, 6)])
    connection._send()
    pair[0].flush()
    assert pair[1].recv(100) == b"\x40\x02\x00\x06"
    link.stop()


def test_acks_go_before_what_they_settle(pair: Pair) -> None:
    link = make_link()
    connection = connected(link, pair)
    link.settle([(connection._number, 6)], [("a/ack", b"{}")])
    connection._send()
    pair[0].flush()
    assert pair[1].recv(100) == framed(0x32, b"\x00\x05a/ack\x00\x01{}") + b"\x40\x02\x00\x06"
    connection.close()
    assert list(link.outgoing) == [("a/ack", b"{}")], "without a PUBACK it is sent again"
    link.stop()


def test_a_topic_that_is_not_text_is_passed_on(pair: Pair) -> None:
    received: list[Received] = []
    link = make_link(received)
    connected(link, pair)._take(pair[0], PublishPacket(b"tb1/\xff\xfe", b"", 7, False, False), 0.0)
    assert received[0].topic == "tb1/\\xff\\xfe"
    link.stop()


def test_probes_of_other_collectors_are_ignored(pair: Pair) -> None:
    received: list[Received] = []
    link = make_link(received)
    topic = b"tb1/_sys/collector-2/probe/_/data/_/probe"
    connected(link, pair)._take(pair[0], PublishPacket(topic, b"", 7, False, False), 0.0)
    assert received == []
    link.stop()


def test_a_publication_that_is_not_admitted_is_settled_unread(pair: Pair) -> None:
    received: list[Received] = []
    link = make_link(received, admits=lambda _topic, _body: False)
    connected(link, pair)._take(pair[0], PublishPacket(b"tb1/a/b/c/d/data/x/y", b"", 7, False, False), 0.0)
    pair[0].flush()
    assert (received, pair[1].recv(100)) == ([], b"\x40\x02\x00\x07")
    link.stop()


def test_a_takeover_is_reported_in_words(pair: Pair) -> None:
    link = make_link()
    connection = Connection(link, MQTTProtocolVersion.MQTTv5)
    connection.client._sock = pair[0]
    connection.was_online = True
    pair[1].sendall(b"\xe0\x02\x8e\x00")  # DISCONNECT, session taken over
    pair[1].close()
    connection._read(pair[0])
    assert connection._why == "another client connected as 'collector-1' (0x8E, session taken over)"
    link.stop()
