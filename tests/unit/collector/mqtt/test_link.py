"""The MQTT link's own parts: the buffered socket, what belongs to which connection, reasons told."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTProtocolVersion

from collector.mqtt.connection import Connection, Incoming
from collector.mqtt.link import AckLink, Link
from collector.mqtt.packet_socket import LARGEST, Malformed, PacketSocket, PublishPacket
from wire.broker import Broker
from wire.clock import Clock

Pair = tuple[PacketSocket, socket.socket]


def make_pair() -> Pair:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    return PacketSocket(ours), peer


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, peer = make_pair()
    yield ours, peer
    ours.close()
    peer.close()


def encoded(packet: PublishPacket, qos: int, v5: bool) -> bytes:
    """MQTT 3.1.1, section 3.3; MQTT 5 has properties after the packet id."""
    rest = len(packet.topic).to_bytes(2) + packet.topic + (packet.mid.to_bytes(2) if qos else b"")
    rest += (b"\x05\x02\x00\x00\x00\x3c" if v5 else b"") + packet.body  # the expiry interval
    return framed(0x30 | packet.dup << 3 | qos << 1 | packet.retained, rest)


def framed(kind: int, rest: bytes) -> bytes:
    size, length = len(rest), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([kind, *length, size]) + rest


publishes = st.builds(
    PublishPacket, st.binary(min_size=1, max_size=40), st.binary(max_size=400), st.integers(0, 65_535),
    st.booleans(), st.booleans(),
)  # fmt: skip
others = st.builds(framed, st.sampled_from([0x20, 0x40, 0x90, 0xD0]), st.binary(max_size=200))


@given(st.lists(publishes | others, max_size=12), st.lists(st.integers(1, 90), min_size=1), st.booleans())
def test_packets_come_out_as_they_went_in_whatever_the_pieces(
    sent: list[PublishPacket | bytes], sizes: list[int], v5: bool
) -> None:
    """PUBLISH packets to us, every other one to paho, in their order."""
    ours, peer = make_pair()
    raw = b"".join(one if isinstance(one, bytes) else encoded(one, int(one.mid > 0), v5) for one in sent)
    found: list[PublishPacket | bytes] = []
    try:
        for size in itertools.cycle(sizes):
            if not raw:
                break
            peer.sendall(raw[:size])
            raw = raw[size:]
            ours.fill()
            found += ours.publishes(v5=v5)
            while ours.release():
                found.append(all_of(ours))
                found += ours.publishes(v5=v5)
            assert not ours.pending()
        assert found == sent
        peer.close()
        ours.fill()
        assert ours.release()
        assert ours.recv(1) == b""
    finally:
        ours.close()
        peer.close()


def all_of(ours: PacketSocket) -> bytes:
    found = b""
    with contextlib.suppress(BlockingIOError):
        while piece := ours.recv(7):
            found += piece
    return found


def test_of_a_packet_beyond_measure_the_beginning_is_kept_and_the_next_one_is_whole(pair: Pair) -> None:
    ours, peer = pair
    after = PublishPacket(b"after", b"b", 8, False, False)
    peer.setblocking(False)
    huge = PublishPacket(b"huge", b"x" * 3_000_000, 7, False, False)
    raw = encoded(huge, 1, False) + encoded(after, 1, False)
    found: list[PublishPacket] = []
    while raw or len(found) < 2:
        with contextlib.suppress(BlockingIOError):
            raw = raw[peer.send(raw) :]
        ours.fill()
        found += ours.publishes(v5=False)
        assert len(ours._held) <= LARGEST + 65_536
    assert [(one.topic, one.mid) for one in found] == [(b"huge", 7), (b"after", 8)]
    assert LARGEST - 20 <= len(found[0].body) < LARGEST + 65_536
    assert found[1] == after


@pytest.mark.parametrize(
    "raw",
    [
        b"\x32\x03\x00\x09a",  # a topic that ends behind its packet
        b"\x34\x06\x00\x01a\x00\x01x",  # QoS 2, which nobody subscribed to
        b"\x32\x05\x00\x01a\x00\x00",  # packet id 0
        b"\x30\x00",
        b"\x30\xff\xff\xff\xff\x01",
        b"\xd0\xff\xff\xff\xff\x01",
        b"\x20\xff\xff\xff\x7f",  # 268 MB of CONNACK
    ],
)
def test_what_is_no_mqtt_ends_the_connection(pair: Pair, raw: bytes) -> None:
    ours, peer = pair
    peer.sendall(raw)
    ours.fill()
    with pytest.raises(Malformed):
        list(ours.publishes(v5=False)), ours.release()


def test_the_end_is_an_empty_read(pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(b"\xd0\x00\x40")
    peer.close()
    ours.fill()
    assert (ours.release(), ours.recv(1), ours.recv(1), ours.release()) == (True, b"\xd0", b"\x00", False)
    ours.fill()
    assert (ours.release(), ours.recv(9), ours.recv(9)) == (True, b"\x40", b"")


def test_sends_are_gathered_until_flushed(pair: Pair) -> None:
    ours, peer = pair
    peer.settimeout(1)
    assert [ours.send(b"one"), ours.send(b"two")] == [3, 3]
    assert ours.unsent == 6
    ours.flush()
    assert (peer.recv(100), ours.unsent) == (b"onetwo", 0)


def test_a_peer_that_does_not_read_stops_us_and_loses_nothing(pair: Pair) -> None:
    ours, peer = pair
    sent = 0
    try:
        for _ in range(100_000):
            sent += ours.send(b"x" * 10_000)
        pytest.fail("it takes a gigabyte for a peer that reads nothing")
    except BlockingIOError:
        pass
    peer.settimeout(5)
    got = 0
    while got < sent:
        got += len(peer.recv(65_536))
        ours.flush()
    assert ours.unsent == 0


def test_closing_sends_the_goodbye(pair: Pair) -> None:
    ours, peer = pair
    ours.send(b"bye")
    ours.close()
    assert peer.recv(10) == b"bye"


def make_link(received: list[Incoming] | None = None, port: int = 1, **options: Any) -> Link:
    found = [] if received is None else received
    return Link(
        Broker(url=f"mqtt://127.0.0.1:{port}"), "collector-1", Clock(),
        on_message=found.append, is_full=lambda: False, **options,
    )  # fmt: skip


def make_ack_link() -> AckLink:
    return AckLink(Broker(url="mqtt://127.0.0.1:1"), "collector-1", Clock())


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


def test_a_topic_that_is_no_text_is_handed_on_all_the_same(pair: Pair) -> None:
    received: list[Incoming] = []
    link = make_link(received)
    connected(link, pair)._take(pair[0], PublishPacket(b"tb1/\xff\xfe", b"", 7, False, False), 0.0)
    assert received[0].topic == "tb1/\\xff\\xfe"
    link.stop()


def test_probes_are_not_for_others(pair: Pair) -> None:
    received: list[Incoming] = []
    link = make_link(received)
    topic = b"tb1/_sys/collector-2/probe/_/data/_/probe"
    connected(link, pair)._take(pair[0], PublishPacket(topic, b"", 7, False, False), 0.0)
    assert received == []
    link.stop()


def test_what_is_not_admitted_is_settled_unread(pair: Pair) -> None:
    received: list[Incoming] = []
    link = make_link(received, admits=lambda _topic: False)
    connected(link, pair)._take(pair[0], PublishPacket(b"tb1/a/b/c/d/data/x/y", b"", 7, False, False), 0.0)
    pair[0].flush()
    assert (received, pair[1].recv(100)) == ([], b"\x40\x02\x00\x07")
    link.stop()


def test_acks_go_over_their_own_link_while_it_is_online() -> None:
    acks = make_ack_link()
    link = make_link(acks=acks)
    link.settle((), [("t", b"1")])
    assert list(link.outgoing) == [("t", b"1")]
    acks.link.came_online()
    link.settle((), [("t", b"2")])
    assert list(acks.link.outgoing) == [("t", b"2")]
    acks.link.note("offline", "it ended")
    link.take_back()
    assert (list(link.outgoing), list(acks.link.outgoing)) == ([("t", b"1"), ("t", b"2")], [])
    link.stop()


def test_the_link_for_acks_ends_where_a_broker_gives_both_links_one_client_id(caplog: Any) -> None:
    """mosquitto does with use_username_as_clientid: each connection would end the other without end."""
    acks = make_ack_link()
    link = make_link(acks=acks)
    for _ in range(2):
        acks.link.came_online()
        link._lost("taken over")
    assert acks.link.stopping.is_set()
    assert not acks.is_free
    assert "one client id" in caplog.text
    link.stop()


def test_acks_wait_for_a_connection_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    link = make_link()
    link.settle((), [(f"t/{number}", b"") for number in range(30_000)])
    assert len(link.outgoing) == 20_000
    link.stop()


def test_no_broker_is_told_once_and_tried_on(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    from collector.mqtt import link as module

    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        link = make_link(port=port)
        link.start()
        deadline = time.monotonic() + 20
        while link.connections < 5:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        state = link.state
        link.stop()
    assert (state.state, state.why) == ("offline", "Connection refused")
    assert len([line for line in caplog.messages if "no broker at" in line]) == 1
    assert link.state.state == "stopped"


def test_falling_back_to_an_older_protocol_is_no_trouble(
    caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    from collector.mqtt import link as module

    monkeypatch.setattr(module, "BACKOFF_S", (5.0,))  # the fallback does not wait for it
    caplog.set_level("INFO")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(20)
        link = make_link(port=server.getsockname()[1])
        link.start()
        levels = []
        for answer in (b"\x20\x03\x00\x84\x00", b""):  # CONNACK: unsupported protocol version
            peer, _ = server.accept()
            with peer:
                levels.append(peer.recv(4096)[8])
                peer.sendall(answer)
        link.stop()
    assert levels == [5, 4]
    told = next((record.levelname, record.message) for record in caplog.records)
    assert told[0] == "INFO"
    assert "does not take MQTT 5" in told[1]


def test_a_peer_that_is_no_broker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from collector.mqtt import connection as module

    monkeypatch.setattr(module, "CONNECT_S", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        link = make_link(port=mute.getsockname()[1])
        link.start()
        deadline = time.monotonic() + 20
        while "did not answer" not in link.state.why:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        link.stop()


def test_a_peer_that_talks_nonsense_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from collector.mqtt import link as module

    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        link = make_link(port=other.getsockname()[1])
        link.start()
        for nonsense in (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x20\xff\xff\xff\xff\xff",
            b"\x20\x00",
            b"\x00" * 50,
        ):
            other.settimeout(20)
            peer, _ = other.accept()
            peer.sendall(nonsense)
            peer.close()
        assert link._thread.is_alive()
        link.stop()
    assert link.state.state == "stopped"
