"""The client in a thread: back-pressure, waking, and peers that leave or are silent."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from edgebed.broker import BrokerProcess
from tests.polling import wait_until
from tests.unit.wire.mqtt.packets import framed
from tests.unit.wire.mqtt.peer import answers, hangs_up, playing
from wire.mqtt.blocking_client import BlockingClient
from wire.mqtt.connection import Handlers
from wire.mqtt.errors import ConnectionLost, MalformedPacket, MqttError, NoConnack
from wire.mqtt.options import ConnectOptions, Login
from wire.mqtt.packet_socket import PublishPacket

CONNACK = b"\x20\x02\x00\x00"


def client_of(
    port: int, handlers: Handlers | None = None, wake: socket.socket | None = None, **more: Any
) -> BlockingClient:
    options = ConnectOptions(login=Login("127.0.0.1", port, "me"), version="3.1.1", **more)
    return BlockingClient(options, handlers or Handlers(), wake)


def until_ended(client: BlockingClient) -> MqttError:
    wait_until(lambda: client.turn(0.05) or client.ended)
    client.close()
    assert client.ended is not None
    return client.ended


def test_messages_come_and_are_acknowledged_by_the_receiver(broker: BrokerProcess) -> None:
    got: list[PublishPacket] = []
    answered: list[tuple[int, int]] = []
    granted: list[object] = []
    handlers = Handlers(
        got.append, lambda *answer: answered.append(answer), lambda *answer: granted.append(answer)
    )
    client = client_of(broker.port, handlers)
    client.open()
    client.subscribe([("a", 1)])
    wait_until(lambda: client.turn(0.05) or granted)
    mid = client.publish("a", b"x" * 50_000, qos=1)
    wait_until(lambda: client.turn(0.05) or (got and answered))
    client.puback(got[0].mid)
    client.close(goodbye_s=5.0)
    assert (got[0].body, answered, client.unanswered) == (b"x" * 50_000, [(mid, 0)], 0)
    assert isinstance(client.ended, ConnectionLost)


def test_a_full_receiver_gets_one_message_at_a_time() -> None:
    got: list[bytes] = []
    room = [0]
    messages = b"".join(framed(0x30, b"\x00\x01a%d" % number) for number in range(50))
    with playing(answers(CONNACK + messages)) as port:
        client = client_of(
            port, Handlers(lambda packet: got.append(packet.body), is_full=lambda: len(got) >= room[0])
        )
        client.open()
        for room[0] in (1, 2, 7, 50):
            wait_until(lambda: client.turn(0.05) or len(got) >= room[0])
            client.turn(0.0)
            assert len(got) == room[0]
        client.close()
    assert got == [b"%d" % number for number in range(50)]


def test_a_broker_that_leaves_while_the_receiver_is_full_ends_the_connection() -> None:
    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(CONNACK + framed(0x30, b"\x00\x01ax"))
        peer.recv(4_096)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset

    got: list[PublishPacket] = []
    with playing(play) as port:
        client = client_of(port, Handlers(got.append, is_full=lambda: len(got) > 0))
        client.open()
        wait_until(lambda: client.turn(0.05) or got)
        client.publish("a", b"")
        assert until_ended(client).why == "it ended the connection"


def test_a_large_message_is_cut_where_it_must_be_acknowledged() -> None:
    got: list[PublishPacket] = []
    large = framed(0x32, b"\x00\x01a\x00\x07" + b"x" * 3_000_000)
    with playing(answers(CONNACK, large, framed(0x30, b"\x00\x01bx"))) as port:
        client = client_of(port, Handlers(got.append), cuts_large=True)
        client.open()
        wait_until(lambda: client.turn(0.05) or len(got) == 2)
        client.close()
    assert [(packet.topic, packet.mid) for packet in got] == [(b"a", 7), (b"b", 0)]
    assert 100_000 < len(got[0].body) < 200_000


def test_a_wake_ends_a_wait_and_an_abort_ends_an_open() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far, playing(answers(CONNACK), answers()) as port:
        client = client_of(port, wake=near)
        client.open()
        far.send(b"w")
        client.turn(600.0)
        client.close()
        client = client_of(port)
        timer = threading.Timer(0.2, client.abort)
        timer.start()
        with pytest.raises(NoConnack):
            client.open()
        client.close()
        timer.join()


@pytest.mark.parametrize(
    ("sent", "text"),
    [(b"\x30\x7f\x00", "it did not answer a ping within 1 s"), (b"", "it did not answer a ping within 1 s")],
)
def test_half_a_packet_and_silence_end_by_the_keepalive(sent: bytes, text: str) -> None:
    with playing(answers(CONNACK, sent)) as port:
        client = client_of(port, keepalive_s=1)
        client.open()
        assert until_ended(client).why == text


def test_a_violation_and_the_end_of_the_broker_have_a_sentence() -> None:
    with playing(answers(CONNACK, b"\x10\x00"), hangs_up(CONNACK)) as port:
        client = client_of(port)
        with suppress(MqttError):  # both packets may come at once
            client.open()
        assert isinstance(until_ended(client), MalformedPacket)
        client = client_of(port)
        with suppress(MqttError):
            client.open()
        assert until_ended(client).why == "it ended the connection"


def test_a_full_receiver_does_not_blame_the_broker_for_a_ping_it_did_not_read() -> None:
    """The answer to a ping waits behind a message for longer than the keepalive."""

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(CONNACK)
        assert peer.recv(2) == b"\xc0\x00"
        peer.sendall(framed(0x30, b"\x00\x01ax") * 2 + b"\xd0\x00")
        while peer.recv(4_096):
            pass

    got: list[PublishPacket] = []
    is_full = [False]

    def take(packet: PublishPacket) -> None:
        got.append(packet)
        is_full[0] = True

    handlers = Handlers(take, is_full=lambda: is_full[0])
    with playing(play) as port:
        client = client_of(port, handlers, keepalive_s=1)
        client.open()
        wait_until(lambda: client.turn(0.05) or got)
        full_s = time.monotonic()
        wait_until(lambda: client.turn(0.05) or time.monotonic() > full_s + 1.5)
        is_full[0] = False
        client.check_keepalive()
        assert client.ended is None
        wait_until(lambda: client.turn(0.05) or len(got) == 2)
        client.close()
