"""The MQTT link's own parts: the buffered socket, what belongs to which connection, reasons told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import MQTTProtocolVersion

from collector.buffered import Buffered
from collector.connection import Connection
from collector.link import Incoming, Link
from wire.broker import Broker
from wire.clock import Clock

Pair = tuple[Buffered, socket.socket]


def make_pair() -> Pair:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    return Buffered(ours), peer


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, peer = make_pair()
    yield ours, peer
    ours.close()
    peer.close()


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.lists(st.integers(1, 30), min_size=1))
def test_bytes_come_out_as_they_went_in_whatever_the_pieces(sent: list[bytes], sizes: list[int]) -> None:
    ours, peer = make_pair()
    try:
        peer.sendall(b"".join(sent))
        found = b""
        for size in sizes * 1000:
            try:
                piece = ours.recv(size)
            except BlockingIOError:
                break
            assert 0 < len(piece) <= size
            found += piece
        assert found == b"".join(sent)
        assert ours.pending() == 0
    finally:
        ours.close()
        peer.close()


def test_the_end_is_an_empty_read(pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(b"ab")
    peer.close()
    assert (ours.recv(1), ours.pending(), ours.recv(9), ours.recv(9)) == (b"a", 1, b"b", b"")


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


def make_link(received: list[Incoming] | None = None, port: int = 1) -> Link:
    found = [] if received is None else received
    return Link(
        Broker(url=f"mqtt://127.0.0.1:{port}"), "collector-1", Clock(),
        on_message=found.append, is_full=lambda: False,
    )  # fmt: skip


def test_a_number_of_an_earlier_connection_acknowledges_nothing() -> None:
    link = make_link()
    connection = Connection(link, MQTTProtocolVersion.MQTTv311)
    connection.was_online = True
    link.settle([(connection._number - 1, 5), (connection._number, 6)])
    connection._send()
    assert [packet["mid"] for packet in connection.client._out_packet] == [6]
    link.stop()


def test_a_topic_that_is_no_text_is_handed_on_all_the_same() -> None:
    received: list[Incoming] = []
    link = make_link(received)
    connection = Connection(link, MQTTProtocolVersion.MQTTv311)
    connection._on_message(connection.client, None, MQTTMessage(7, b"tb1/\xff\xfe"))
    assert received[0].topic == "tb1/\\xff\\xfe"
    link.stop()


def test_probes_are_not_for_others() -> None:
    received: list[Incoming] = []
    link = make_link(received)
    connection = Connection(link, MQTTProtocolVersion.MQTTv311)
    connection._on_message(
        connection.client, None, MQTTMessage(7, b"tb1/_sys/collector-2/probe/_/data/_/probe")
    )
    assert received == []
    link.stop()


def test_acks_wait_for_a_connection_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    link = make_link()
    link.settle((), [(f"t/{number}", b"") for number in range(30_000)])
    assert len(link.outgoing) == 20_000
    link.stop()


def test_no_broker_is_told_once_and_tried_on(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    from collector import link as module

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
    from collector import link as module

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
    from collector import connection as module

    monkeypatch.setattr(module, "CONNECT_S", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        link = make_link(port=mute.getsockname()[1])
        link.start()
        deadline = time.monotonic() + 20
        while "answered nothing" not in link.state.why:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        link.stop()


def test_a_peer_that_talks_nonsense_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from collector import link as module

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
