"""The client in an event loop, with real brokers and with peers that break the protocol."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from edgebed.broker import BrokerProcess
from tests.polling import until
from tests.unit.wire.mqtt.packets import framed
from tests.unit.wire.mqtt.peer import answers, hangs_up, playing
from wire.mqtt.async_client import AsyncClient
from wire.mqtt.connection import ignore
from wire.mqtt.errors import (
    ConnectionLost,
    ConnectRefused,
    MalformedPacket,
    MqttError,
    NoConnack,
    NotConnected,
    SubscribeRefused,
    TooLarge,
    UnsupportedVersion,
)
from wire.mqtt.options import ConnectOptions, Login, Version, Will
from wire.mqtt.packet_socket import PublishPacket

FILES = Path("/proc/self/fd")
CONNACK5, CONNACK3 = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"


def options(port: int, version: Version = "3.1.1", name: str = "", **more: Any) -> ConnectOptions:
    login = Login("127.0.0.1", port, name or secrets.token_hex(8))
    return ConnectOptions(login=login, version=version, **more)


@asynccontextmanager
async def opened(
    wanted: ConnectOptions, on_message: Any = ignore, goodbye_s: float = 5.0, on_puback: Any = ignore
) -> AsyncIterator[AsyncClient]:
    client = AsyncClient(wanted, on_message, on_puback=on_puback)
    try:
        await client.open()
        yield client
    finally:
        await client.close(goodbye_s)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_messages_go_both_ways_and_are_acknowledged(broker: BrokerProcess, version: Version) -> None:
    got: list[PublishPacket] = []
    acknowledged: dict[int, int] = {}
    if broker.kind == "nats" and version == "5":
        pytest.skip("it does not speak MQTT 5")
    note = acknowledged.__setitem__
    async with opened(options(broker.port, version), got.append, on_puback=note) as client:
        await client.subscribe([("a/#", 1), ("b", 0)])
        mids = [client.publish(f"a/{number}", b"x" * 1_000, qos=1, expiry_s=60) for number in range(200)]
        client.publish("b", b"last")
        await until(lambda: len(got) == 201 and len(acknowledged) == 200)
    assert sorted(acknowledged) == sorted(mids)
    assert [packet.topic_name for packet in got if packet.mid] == [f"a/{number}" for number in range(200)]
    assert isinstance(client.failure(), ConnectionLost)


async def test_a_goodbye_keeps_the_will_and_an_abort_does_not(broker: BrokerProcess) -> None:
    got: list[PublishPacket] = []
    async with opened(options(broker.port), got.append) as watcher:
        await watcher.subscribe([("will/#", 1)])
        for goodbye_s, topic in ((5.0, "will/kept"), (0.0, "will/sent")):
            async with opened(
                options(broker.port, will=Will(topic, b"w", retain=False)), goodbye_s=goodbye_s
            ):
                pass
        await until(lambda: got)
    assert [packet.topic_name for packet in got] == ["will/sent"]


REFUSALS: list[tuple[bytes, Version, type[MqttError], str]] = [
    (b"\x20\x02\x00\x01", "3.1.1", UnsupportedVersion, "it does not support MQTT 3.1.1"),
    (b"\x20\x02\x00\x01", "5", UnsupportedVersion, "it does not support MQTT 5"),
    (b"\x20\x03\x00\x84\x00", "5", UnsupportedVersion, "it does not support MQTT 5"),
    (b"\x20\x02\x00\x04", "3.1.1", ConnectRefused, "the user name or the password is wrong"),
    (
        b"\x20\x03\x00\x9a\x00",
        "5",
        ConnectRefused,
        "retained messages, which edgebed needs: allow them there",
    ),
    (b"\x20\x03\x00\x9b\x00", "5", ConnectRefused, "QoS 1, which edgebed needs: allow it there"),
    (b"\x20\x03\x00\x87\x00", "5", ConnectRefused, "see username, password_file and its access rules"),
    (
        b"\x20\x03\x00\x77\x00",
        "5",
        ConnectRefused,
        "MQTT does not define this reason code (reason code 0x77)",
    ),
    (
        b"\x20\x02\x00\x77",
        "3.1.1",
        ConnectRefused,
        "MQTT does not define this reason code (reason code 0x77)",
    ),
    (b"\x20\x03\x00\x00\x09", "5", MalformedPacket, "a CONNACK packet (20 00 00 09) that cannot be read"),
    (b"\x20\x00", "5", MalformedPacket, "it broke the MQTT protocol"),
    (b"\x20\xff\xff\xff\x7f", "5", MalformedPacket, "a packet of 268435460 bytes"),
    (b"\xff\xff\xff\xff\xff", "5", MalformedPacket, "a length of more than four bytes"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "5", MalformedPacket, "b'HTTP/1.1' instead of a CONNACK packet"),
    (b"\x30\x04\x00\x01ab", "3.1.1", MalformedPacket, "a message instead of a CONNACK packet"),
    (b"\xe0\x01\x88", "5", ConnectionLost, "it is not available (reason code 0x88)"),
]


@pytest.mark.parametrize(("answer", "version", "kind", "text"), REFUSALS)
async def test_an_answer_to_connect_becomes_one_sentence(
    answer: bytes, version: Version, kind: type[MqttError], text: str
) -> None:
    with playing(answers(answer)) as port:
        client = AsyncClient(options(port, version))
        with pytest.raises(kind) as caught:
            await client.open()
        await client.close()
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"broker 127.0.0.1:{port}: ")
    assert text in caught.value.why


async def test_a_hang_up_and_silence_have_a_sentence() -> None:
    with playing(hangs_up(), hangs_up(), answers(b"\x20")) as port:
        client = AsyncClient(options(port))
        with pytest.raises(NoConnack, match=r"closed the connection before it answered CONNECT: .*mqtts://"):
            await client.open()
        client = AsyncClient(options(port, "5"))  # it may be the version
        with pytest.raises(NoConnack, match=r"closed the connection before it answered CONNECT$"):
            await client.open()
        client = AsyncClient(options(port, connect_s=0.3))
        with pytest.raises(NoConnack, match=r"it did not answer CONNECT within 0\.3 s"):
            await client.open()


BROKEN: list[tuple[bytes, str]] = [
    (b"\xe0\x01\x8e", "another client connected as 'me' (0x8E, session taken over)"),
    (b"\xe0\x01\x8b", "it ended the connection: it shuts down (reason code 0x8B)"),
    (b"\xe0\x00", "it ended the connection"),
    (b"\xe0\x01\x77", "it ended the connection: MQTT does not define this reason code (reason code 0x77)"),
    (b"\x40\x03\x00\x01\x77", "a PUBACK packet (40 00 01 77) that cannot be read"),
    (b"\x40\x00", "a PUBACK packet (40) that cannot be read"),
    (b"\xd0\x01\x00", "a PINGRESP packet (d0 00) that cannot be read"),
    (b"\x34\x07\x00\x01a\x00\x01\x00x", "a PUBLISH packet that cannot be read"),
    (b"\x30\x02\x00\x00", "a PUBLISH packet that cannot be read"),
    (b"\x10\x00", "which a broker must not send now"),
    (CONNACK5, "which a broker must not send now"),
    (b"\xf0\x00", "which a broker must not send now"),
    (framed(0x30, b"\x00\x01a\x00" + b"x" * 140_000), "a message of 140008 bytes; more than 131072"),
    (b"\x00\x00", "which a broker must not send now"),
]


@pytest.mark.parametrize(("sent", "text"), BROKEN)
async def test_what_ends_a_connection_becomes_one_sentence(sent: bytes, text: str) -> None:
    ends: list[int] = []
    with playing(answers(CONNACK5, sent)) as port:
        client = AsyncClient(options(port, "5", "me"), on_end=lambda: ends.append(1))
        with suppress(MqttError):
            await client.open()
            await client.ended()
        failure = client.failure()
        await client.close()
    assert isinstance(failure, ConnectionLost | MalformedPacket)
    assert text in failure.why
    assert ends == [1]


async def test_a_publish_on_a_dead_connection_raises_its_reason() -> None:
    with playing(hangs_up(CONNACK3)) as port:
        client = AsyncClient(options(port))
        await client.open()
        with pytest.raises(ConnectionLost, match="it ended the connection"):
            await client.ended()
        with pytest.raises(ConnectionLost, match="it ended the connection"):
            client.publish("a", b"")
        await client.close()


@pytest.mark.parametrize(
    ("suback", "kind", "text"),
    [
        (
            b"\x90\x05\x00\x01\x00\x01\x87",
            SubscribeRefused,
            "it refuses the subscription to b: it does not allow",
        ),
        (b"\x90\x05\x00\x01\x00\x01\x77", MalformedPacket, "that does not answer 2 topic filters"),
        (b"\x90\x04\x00\x01\x00\x01", MalformedPacket, "that does not answer 2 topic filters"),
        (b"\x90\x02\x00\x01", MalformedPacket, "that does not answer 2 topic filters"),
        (b"", ConnectionLost, "it did not answer SUBSCRIBE within 0.5 s"),
    ],
)
async def test_a_suback_becomes_one_sentence(suback: bytes, kind: type[MqttError], text: str) -> None:
    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(CONNACK5)
        peer.recv(4_096)
        peer.sendall(suback)
        while peer.recv(4_096):
            pass

    with playing(play) as port:
        async with opened(options(port, "5", connect_s=0.5), goodbye_s=0.0) as client:
            with pytest.raises(kind) as caught:
                await client.subscribe([("a", 1), ("b", 1)])
    assert text in caught.value.why


async def test_half_a_packet_and_silence_end_by_the_keepalive() -> None:
    with playing(answers(CONNACK5, b"\x30\x7f\x00\x01a")) as port:
        client = AsyncClient(options(port, "5", keepalive_s=1))
        await client.open()
        with pytest.raises(ConnectionLost, match="it did not answer a ping within 1 s"):
            await client.ended()


async def test_the_loop_wakes_for_the_keepalive_alone(
    monkeypatch: pytest.MonkeyPatch, broker: BrokerProcess
) -> None:
    if broker.kind == "nats":
        pytest.skip("it ends connections with so short a keepalive although pings arrive")
    checks: list[float] = []
    original: Callable[[AsyncClient], None] = AsyncClient._check_keepalive

    def check(client: AsyncClient) -> None:
        checks.append(time.monotonic())
        original(client)

    monkeypatch.setattr(AsyncClient, "_check_keepalive", check)
    async with opened(options(broker.port, keepalive_s=1)) as client:
        await asyncio.sleep(4)
        assert client.failure() is None, "the pings are answered"
    assert 1 <= len(checks) <= 12


async def test_cancelling_ends_a_dial_and_a_greeting() -> None:
    with playing(answers()) as port:
        task = asyncio.create_task(AsyncClient(options(port)).open())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        task = asyncio.create_task(AsyncClient(options(full.getsockname()[1])).open())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for one in waiting:
            one.close()


async def test_cancelling_just_after_a_dial_closes_its_socket() -> None:
    accepted, closed = threading.Event(), threading.Event()

    def play(peer: socket.socket) -> None:
        accepted.set()
        if not peer.recv(4_096):
            closed.set()

    with playing(play) as port:
        task = asyncio.create_task(AsyncClient(options(port)).open())
        await asyncio.sleep(0)  # the dial has a thread of its own
        assert accepted.wait(10)
        time.sleep(0.1)  # noqa: ASYNC251 - the loop must not see that the dial is done
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(closed.wait, 10)
    assert closed.is_set()


async def test_nothing_listens_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(NotConnected, match="nothing listens there") as caught:
            await AsyncClient(options(free.getsockname()[1])).open()
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    login = Login("a..b", 1883, "x")
    with pytest.raises(NotConnected):
        await AsyncClient(ConnectOptions(login=login)).open()


async def test_a_hanging_resolver_takes_no_thread_of_the_loops_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it does not delay the end of the process: its threads are daemons."""
    free = threading.Event()

    def hang(*_: object, **__: object) -> None:
        free.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(socket, "getaddrinfo", hang)
        asyncio.get_running_loop().set_default_executor(pool)
        with pytest.raises(NotConnected, match="no answer"):
            await AsyncClient(options(1, connect_s=0.1)).open()
        async with asyncio.timeout(30):
            assert await asyncio.to_thread(lambda: 1) == 1
        diallers = [thread for thread in threading.enumerate() if thread.name == "mqtt-dial"]
        assert [thread.daemon for thread in diallers] == [True]
        free.set()
        for thread in diallers:
            await asyncio.to_thread(thread.join, 30)


def open_files() -> int:
    return len(list(FILES.iterdir()))


async def test_a_cancellation_at_any_moment_leaves_nothing_behind(broker: BrokerProcess) -> None:
    files = open_files()
    for wait_ms in range(25):
        client = AsyncClient(options(broker.port))
        task = asyncio.create_task(client.open())
        await asyncio.sleep(wait_ms / 4_000)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await client.close()
    await until(lambda: not any(thread.name == "mqtt-dial" for thread in threading.enumerate()))
    await until(lambda: open_files() <= files, "the sockets are closed")


LIMITS = b"\x20\x0b\x00\x00\x08\x21\x00\x02\x27\x00\x00\x00\x40"  # Receive Maximum 2, Maximum Packet Size 64


async def test_no_more_messages_are_sent_than_the_broker_takes_at_once() -> None:
    unanswered: list[int] = []

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(LIMITS)
        stream = bytearray()
        owed: deque[bytes] = deque()
        peer.settimeout(0.2)
        for _ in range(200):
            with suppress(TimeoutError):
                if not (more := peer.recv(4_096)):
                    return
                stream += more
            while len(stream) > 1 and len(stream) >= stream[1] + 2:
                if stream[0] & 0xF0 == 0x30:
                    owed.append(bytes(stream[5:7]))  # behind a topic of one byte
                del stream[: stream[1] + 2]
            unanswered.append(len(owed))
            if owed:
                peer.sendall(b"\x40\x02" + owed.popleft())

    acknowledged: list[int] = []
    with playing(play) as port:
        client = AsyncClient(options(port, "5"), on_puback=lambda mid, _: acknowledged.append(mid))
        await client.open()
        sent = [client.publish("a", b"%d" % number, qos=1) for number in range(6)]
        assert client.unanswered == 6
        await until(lambda: acknowledged == sent)
        await client.close()
    assert max(unanswered) == 2


async def test_what_waits_for_a_puback_is_sent_before_the_goodbye() -> None:
    """It may be the status `offline`: after a DISCONNECT no will is published."""
    got = bytearray()

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(LIMITS)
        while not got.endswith((b"\xe0\x00", b"\xe0\x02\x00\x00")) and (more := peer.recv(4_096)):
            got.extend(more)

    with playing(play) as port:
        async with opened(options(port, "5")) as client:
            for number in range(4):
                client.publish("a", b"body-%d" % number, qos=1)
    assert [got.count(b"body-%d" % number) for number in range(4)] == [1, 1, 1, 1]
    assert got.rindex(b"body-3") < got.rindex(b"\xe0")


async def test_a_message_that_is_too_large_for_the_broker_is_not_sent() -> None:
    got = bytearray()

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(LIMITS)
        while more := peer.recv(4_096):
            got.extend(more)

    with playing(play) as port:
        async with opened(options(port, "5"), goodbye_s=0.0) as client:
            for body, expiry_s, qos in ((55, 0, 1), (50, 5, 1), (57, 0, 0), (52, 9, 0)):
                size = len(got) + 64
                client.publish("ab", b"x" * body, qos=qos, expiry_s=expiry_s)
                await until(lambda size=size: len(got) == size)
                with pytest.raises(TooLarge, match="at most 64 bytes, a message on ab needs 65"):
                    client.publish("ab", b"x" * (body + 1), qos=qos, expiry_s=expiry_s)
            assert client.failure() is None


KEEPALIVE_OFF = b"\x20\x06\x00\x00\x03\x13\x00\x00"  # Server Keep Alive 0


async def test_a_dead_connection_is_found_although_the_broker_turned_the_keepalive_off() -> None:
    with playing(answers(KEEPALIVE_OFF)) as port:
        client = AsyncClient(options(port, "5", keepalive_s=1))
        await client.open()
        with pytest.raises(ConnectionLost, match="it did not answer a ping within 1 s"):
            async with asyncio.timeout(30):
                await client.ended()


async def test_a_ping_may_be_answered_behind_messages_that_arrive_slowly() -> None:
    answered: list[bool] = []

    def play(peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(CONNACK5)
        peer.settimeout(0.1)
        for _ in range(70):  # seven seconds, the keepalive is two
            peer.sendall(b"\x30\x05\x00\x01a\x00x")
            with suppress(TimeoutError):
                peer.recv(4_096)
        answered.append(True)
        while peer.recv(4_096):
            pass

    with playing(play) as port:
        async with opened(options(port, "5", keepalive_s=2), goodbye_s=0.0) as client:
            await until(lambda: answered or client.failure())
            assert client.failure() is None
