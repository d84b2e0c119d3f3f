"""One connection: what is acknowledged, in which order, and which messages are passed on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from collector.mqtt.connection import Connection
from collector.mqtt.link import Link, LinkIdentity
from collector.mqtt.received import Received, Receiver
from tests.polling import wait_until
from tests.unit.wire.mqtt.packets import framed
from wire.broker import Broker
from wire.clock import Clock
from wire.mqtt.options import Login
from wire.mqtt.packet_socket import PublishPacket


def make_link(received: list[Received] | None = None, port: int = 1, **options: Any) -> Link:
    found = [] if received is None else received
    receiver = Receiver(found.append, lambda: False, **options)
    return Link(Broker(url=f"mqtt://127.0.0.1:{port}"), LinkIdentity("collector-1"), Clock(), receiver)


@contextmanager
def connected(link: Link, connack: bytes = b"\x20\x02\x00\x00") -> Iterator[tuple[Connection, socket.socket]]:
    """A connection to a peer that answered CONNECT, and the peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        version = "3.1.1" if len(connack) == 4 else "5"
        login = Login("127.0.0.1", server.getsockname()[1], "collector-1")
        connection = Connection(link, 1, login, version)
        dialled = connection._client._dialler.dial()
        peer, _ = server.accept()
        with peer:
            peer.sendall(connack)
            connection._client._dialler.dial = lambda: dialled  # type: ignore[method-assign]
            connection._client.open()
            peer.recv(4_096)  # the CONNECT
            connection.was_online = True
            yield connection, peer
            connection.close()
    link.stop()


def sent_by(connection: Connection, peer: socket.socket) -> bytes:
    connection._client.write()
    return peer.recv(4_096)


def test_a_number_of_an_earlier_connection_acknowledges_nothing() -> None:
    link = make_link()
    with connected(link) as (connection, peer):
        link.settle([(connection._number - 1, 5), (connection._number, 6)])
        connection._send()
        assert sent_by(connection, peer) == b"\x40\x02\x00\x06"


def test_acks_go_before_what_they_settle() -> None:
    link = make_link()
    with connected(link) as (connection, peer):
        link.settle([(connection._number, 6)], [("a/ack", b"{}")])
        connection._send()
        expected = framed(0x32, b"\x00\x05a/ack\x00\x01{}") + b"\x40\x02\x00\x06"
        assert sent_by(connection, peer) == expected
        connection.close()
        assert list(link.outgoing) == [("a/ack", b"{}")], "without a PUBACK it is sent again"


def test_a_topic_that_is_not_text_is_passed_on() -> None:
    received: list[Received] = []
    with connected(make_link(received)) as (connection, _):
        connection._take(PublishPacket(b"tb1/\xff\xfe", b"", 7, False, False))
    assert received[0].topic == "tb1/\\xff\\xfe"


def test_probes_of_other_collectors_are_ignored() -> None:
    received: list[Received] = []
    with connected(make_link(received)) as (connection, _):
        connection._take(PublishPacket(b"tb1/_sys/collector-2/probe/_/data/_/probe", b"", 7, False, False))
    assert received == []


def test_a_publication_that_is_not_admitted_is_settled_unread() -> None:
    received: list[Received] = []
    with connected(make_link(received, admits=lambda _topic, _body, _now_s: False)) as (connection, peer):
        connection._take(PublishPacket(b"tb1/a/b/c/d/data/x/y", b"", 7, False, False))
        assert (received, sent_by(connection, peer)) == ([], b"\x40\x02\x00\x07")


def test_a_takeover_is_reported_in_words() -> None:
    with connected(make_link(), b"\x20\x03\x00\x00\x00") as (connection, peer):
        peer.sendall(b"\xe0\x02\x8e\x00")  # DISCONNECT, session taken over
        wait_until(lambda: connection._client.turn(0.1) or connection._client.ended)
        assert connection._client.ended is not None
        assert connection._client.ended.why == (
            "another client connected as 'collector-1' (0x8E, session taken over)"
        )
