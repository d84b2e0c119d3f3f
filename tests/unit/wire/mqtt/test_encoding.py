"""The client's own packets: byte by byte as in the standard, at the borders of their length; their ids."""

from __future__ import annotations

import socket

import pytest

from tests.unit.wire.mqtt.packets import framed, make_pair
from wire.mqtt import encoding
from wire.mqtt.connection import Connection, Handlers
from wire.mqtt.errors import ConnectionLost, MalformedPacket
from wire.mqtt.options import ConnectOptions, Login, Version
from wire.mqtt.packet_socket import PublishPacket

CONNACKS: dict[Version, bytes] = {"5": b"\x20\x03\x00\x00\x00", "3.1.1": b"\x20\x02\x00\x00"}


def connected(version: Version, pubacks: list[tuple[int, int]]) -> tuple[Connection, socket.socket]:
    near, peer = socket.socketpair()
    near.setblocking(False)
    handlers = Handlers(on_puback=lambda mid, code: pubacks.append((mid, code)))
    connection = Connection(
        ConnectOptions(login=Login("nowhere.invalid", 1, "me"), version=version), handlers
    )
    connection.start(near)
    connection.write()
    peer.recv(4_096)
    peer.sendall(CONNACKS[version])
    connection.read()
    assert connection.is_connected
    return connection, peer


def test_a_message_is_encoded_as_the_standard_shows() -> None:
    found = encoding.publish("a/b", b"hi", 10, qos=1, retain=False, v5=False)
    assert found == b"\x32\x09\x00\x03a/b\x00\x0ahi"
    found = encoding.publish("a/b", b"hi", 10, qos=1, retain=True, v5=True, expiry_s=60)
    assert found == b"\x33\x0f\x00\x03a/b\x00\x0a\x05\x02\x00\x00\x00\x3chi"
    assert encoding.publish("a/b", b"", 0, qos=0, retain=True, v5=True) == b"\x31\x06\x00\x03a/b\x00"
    found = encoding.subscribe([("a/b", 1), ("c/#", 0)], 258, v5=True)
    assert found == b"\x82\x0f\x01\x02\x00\x00\x03a/b\x01\x00\x03c/#\x00"
    assert encoding.subscribe([("a/b", 1)], 10, v5=False) == b"\x82\x08\x00\x0a\x00\x03a/b\x01"


@pytest.mark.parametrize("size", [0, 119, 120, 16_375, 16_376, 100_000])
@pytest.mark.parametrize("v5", [True, False])
@pytest.mark.parametrize("qos", [0, 1])
def test_any_length_is_read_back(size: int, v5: bool, qos: int) -> None:
    sock, peer = make_pair()
    topic = "tb1/acme/시험/hall/n1/ack"
    body = b"x" * size
    packet = encoding.publish(topic, body, 0xFFFF, qos=qos, retain=False, v5=v5, expiry_s=60)
    assert packet == framed(packet[0], packet[-_rest(packet) :])
    peer.setblocking(False)
    with peer:
        found: list[PublishPacket] = []
        while packet or not found:
            packet = packet[peer.send(packet) :] if packet else packet
            sock.fill()
            found += sock.publishes(v5=v5)
        assert found == [PublishPacket(topic.encode(), body, 0xFFFF if qos else 0, False, False)]
    sock.shut()


def _rest(packet: bytes) -> int:
    """The remaining length, as section 2.1.4 decodes it."""
    length, shift = 0, 1
    for byte in packet[1:5]:
        length += (byte & 127) * shift
        shift *= 128
        if byte < 128:
            break
    return length


@pytest.mark.parametrize("topic", ["", "a/+", "a/#", "x" * 65_536])
def test_a_topic_that_no_message_may_have_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        encoding.publish(topic, b"", 1, qos=1, retain=False, v5=True)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_packet_id_in_use_is_not_given_again(version: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    pubacks: list[tuple[int, int]] = []
    connection, peer = connected(version, pubacks)
    monkeypatch.setattr("wire.mqtt.connection._ANY_NUMBER", 5)
    with peer:
        first = connection.publish("a", b"", qos=1)
        subscribed = connection.subscribe([("b", 1)])
        others = [connection.publish("a", b"", qos=1) for _ in range(3)]
        assert sorted([first, subscribed, *others]) == [1, 2, 3, 4, 5]
        with pytest.raises(ConnectionLost, match="owes 5 answers"):
            connection.publish("a", b"", qos=1)
        assert connection.publish("a", b"", qos=0) == 0
        peer.sendall(framed(0x40, others[1].to_bytes(2)))
        connection.read()
        assert pubacks == [(others[1], 0)]
        assert connection.publish("a", b"", qos=1) == others[1], "the only one that waits for no answer"
        connection.fail("the test ends")


@pytest.mark.parametrize(
    ("version", "body", "code"),
    [
        ("5", b"", 0),
        ("5", b"\x10", 16),
        ("5", b"\x87\x00", 0x87),
        ("5", b"\x97\x06\x1f\x00\x03why", 0x97),
        ("3.1.1", b"", 0),
        ("5", b"\x01", None),
        ("5", b"\x91\x05\x1f", None),
        ("5", b"\x00\x00\x00", None),
        ("5", b"\x00\xff\xff\xff\xff\xff", None),
        ("3.1.1", b"\x00", None),
    ],
)
def test_a_puback_is_read_or_ends_the_connection(version: Version, body: bytes, code: int | None) -> None:
    pubacks: list[tuple[int, int]] = []
    connection, peer = connected(version, pubacks)
    with peer:
        mid = connection.publish("a", b"x", qos=1)
        peer.sendall(framed(0x40, mid.to_bytes(2) + body))
        connection.read()
        if code is None:
            assert isinstance(connection.ended, MalformedPacket)
            assert pubacks == []
        else:
            assert pubacks == [(mid, code)]
            assert connection.unanswered == 0
            connection.fail("the test ends")
