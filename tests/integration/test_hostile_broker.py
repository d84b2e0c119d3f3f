"""Every MQTT client against a broker that breaks the protocol: a sentence, a new connection, nothing lost.

tests/unit/wire/mqtt/test_hostile_broker.py has all attacks, against the client alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import re
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import aiomqtt
import pytest

from adapters.mqtt import session
from adapters.mqtt.adapter import Mqtt
from adapters.mqtt.options import MqttTopicOptions
from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from agent.pipeline.source import Source
from agent.uplink import connecting, uplink
from agent.uplink.uplink import NodeHooks, NodeIdentity, Uplink, UplinkSettings
from collector.app import Collector
from collector.config import CollectorConfig, Http
from collector.mqtt import connection, rival
from edgebed.broker import BrokerProcess, free_port
from simulators.devices.mqtt import publisher
from simulators.devices.mqtt.publisher import Publisher
from tests.hostile_broker import (
    GREETING,
    ONLINE,
    PUBLISHING,
    SUBSCRIBING,
    TLS,
    Attack,
    HostileBroker,
    Request,
    publish,
)
from tests.plans import plan_of
from tests.polling import until
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import decode, encode
from wire.errors import Unreachable
from wire.messages import Ack, AgentInfo, Batch, Birth, ClockState, Cmd, Res, Status
from wire.task_cancellation import end
from wire.topics import Address

BOOT = "ab" * 8
EP = "00112233aabbccdd"
MESSAGES = 20
WITHIN_S = 60.0
READING = {
    "garbage",
    "connack-undefined-77",
    "connack-reason-hostile",
    "connack-of-268-mb",
    "half-connack-then-silence",
    "close-at-connect",
    "slow-connack",
    "suback-wrong-count",
    "suback-undefined-77",
    "suback-refused",
    "half-suback-then-silence",
    "publish-mid-0",
    "publish-topic-not-utf8",
    "publish-of-268-mb",
    "half-publish-then-silence",
    "second-connack",
    "auth-later",
    "disconnect-undefined-77",
    "disconnect-reason-hostile",
    "close-online",
}
PUBLISHING_TOO = READING | {"puback-undefined-77", "puback-unknown-mid", "puback-refused", "no-puback"}
_numbers = itertools.count(1)


class Client(ABC):
    """One of the product's MQTT clients, with what it reports and what it delivers."""

    protocol: ClassVar[Any] = "5"
    attacks: ClassVar = PUBLISHING_TOO
    connections: ClassVar = 1  # that are attacked

    def __init__(self, folder: Path, broker: Broker, healthy: int) -> None:
        self.folder, self.broker, self.healthy = folder, broker, healthy
        folder.mkdir()
        self.name = f"n{next(_numbers)}"
        self.said: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []

    @abstractmethod
    async def start(self) -> None:
        """Start to connect."""

    @abstractmethod
    async def delivers(self) -> None:
        """Wait until everything has passed the healthy broker."""

    async def stop(self) -> None:
        """End it; raises what ended it earlier."""
        await end(self.tasks)
        for task in self.tasks:
            if not task.cancelled():
                task.result()


class UplinkClient(Client):
    """The agent's uplink with an outbox of 20 messages."""

    async def start(self) -> None:
        self.address = Address("acme", "hall", "hostile", self.name)
        settings = OutboxSettings(max_mb=4, group_commit_ms=5)
        self.outbox = Outbox.open(self.folder / "outbox", settings, Clock())
        for _ in range(MESSAGES):
            self.outbox.append(Message("data", "arm", "joints", Batch(t0=1_000, per=10, n=1, f={"x": [1.0]})))
        self.uplink = Uplink(
            NodeIdentity(self.address, BOOT, "1"),
            self.broker,
            self.outbox,
            Clock(),
            NodeHooks(
                describe=lambda: Birth(ts=0, boot=BOOT, sess=0, ep=self.outbox.ep, agent=AgentInfo(ver="1")),
                status=lambda: Status(state="online", ts=0, boot=BOOT, sess=0),
                clock_state=lambda: ClockState.NTP,
                on_command=self._refuse,
            ),
            UplinkSettings(self.folder),
        )
        self.tasks = [
            asyncio.create_task(keep_committing(self.outbox, 5), name="committer"),
            asyncio.create_task(self.uplink.run(), name="uplink"),
        ]

    async def _refuse(self, _device: str, _name: str, command: Any, _tell: Any) -> Res:
        return Res(id=command.id, state="rejected", code=404, err="none", ts=0)

    async def delivers(self) -> None:
        await until(lambda: self.outbox.stats().head == self.outbox.head, "committed", WITHIN_S)
        assert self.outbox.stats().depth == MESSAGES, "the attack deleted messages"
        seen: set[int] = set()
        async with aiomqtt.Client("127.0.0.1", self.healthy, identifier=f"{self.name}-reader") as reader:
            await reader.subscribe(f"{self.address.base}/data/#", qos=1)
            async with asyncio.timeout(WITHIN_S):
                async for message in reader.messages:
                    assert isinstance(message.payload, bytes)
                    body = decode(message.payload, Batch)
                    seen.add(body.seq)
                    ack = Ack(ep=body.ep, ok=[(body.seq, body.seq)], by="reader", ts=0)
                    await reader.publish(self.address.topic("ack"), encode(ack), qos=1)
                    if len(seen) == MESSAGES:
                        break
            await until(lambda: self.outbox.stats().depth == 0, "acknowledged", WITHIN_S)

    async def stop(self) -> None:
        await super().stop()
        self.outbox.close()


class AdapterClient(Client):
    """The agent's source of a device that publishes on MQTT."""

    attacks = READING

    async def start(self) -> None:
        self.topic = f"hall/{self.name}"
        given = MqttTopicOptions(
            url=self.broker.url,
            protocol=self.broker.protocol,
            ca_file=self.broker.ca_file,
            topics=[self.topic, "tb/#"],
            fields={"t": "t"},
            silence_s=3.0,
            timeout_s=2.0,
        )
        self.source = Source(
            "dev",
            plan_of(lambda: Mqtt(given, Clock()), stall_s=3.0),
            lambda _: None,
            clock=Clock(),
            changed=lambda: self.said.append(self.source.state.why),
            backoff_s=(0.05, 0.2),
        )
        self.tasks = [asyncio.create_task(self.source.run(), name="source")]

    async def delivers(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self.healthy) as device:

            async def reads() -> bool:
                await device.publish(self.topic, b'{"t": 1}', qos=1)
                return self.source.readings > 0

            await until(reads, "readings come", WITHIN_S)


class CollectorClient(Client):
    """The collector, which acknowledges a message of a node once it is stored."""

    connections = 2  # it first looks for another collector with its id
    attacks = PUBLISHING_TOO - {"slow-connack"}

    async def start(self) -> None:
        self.node = Address("acme", "hall", "hostile", self.name)
        config = CollectorConfig(
            broker=self.broker, id=f"c-{self.name}", store=self.folder / "store", http=Http(port=0)
        )
        self.collector = Collector(config, Clock())
        self.tasks = [asyncio.create_task(self.collector.run(), name="collector")]

    async def delivers(self) -> None:
        topic = self.node.topic("data", "arm", "joints")
        body = encode(Batch(t0=1_000, per=10, n=1, f={"x": [1.0]}, seq=1, ep=EP))
        acked = asyncio.Event()

        async def listen(node: aiomqtt.Client) -> None:
            async for message in node.messages:
                if (
                    decode(bytes(message.payload), Ack).by == f"c-{self.name}"
                ):  # the others hear this node too
                    acked.set()

        async with aiomqtt.Client("127.0.0.1", self.healthy) as node:
            await node.subscribe(self.node.topic("ack"), qos=1)
            listening = asyncio.create_task(listen(node), name="listening")

            async def stored() -> bool:
                await node.publish(topic, body, qos=1)
                await asyncio.sleep(0.1)
                return acked.is_set()

            try:
                await until(stored, "the collector acknowledges", WITHIN_S)
            finally:
                await end([listening])

    async def stop(self) -> None:
        self.collector.stop()
        await asyncio.wait(self.tasks)
        self.tasks[0].result()


class PublisherClient(Client):
    """The publisher of the simulated devices."""

    protocol = "3.1.1"

    async def start(self) -> None:
        self.heard: list[bytes] = []
        self.topic, self.orders = f"sim/{self.name}/out", f"sim/{self.name}/in"
        self.device = Publisher(
            self.broker, self.name, topic=self.orders, on_message=lambda _, body: self.heard.append(body)
        )
        self.tasks = [asyncio.create_task(self._run(), name="device")]

    async def _run(self) -> None:
        while True:
            try:
                await self.device.open()
                break
            except Unreachable as error:
                self.said.append(str(error))
                await asyncio.sleep(0.05)
        while True:
            self.device.publish(self.topic, b"out", qos=1)
            await asyncio.sleep(0.05)

    async def delivers(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self.healthy) as reader:
            await reader.subscribe(self.topic, qos=1)
            async with asyncio.timeout(WITHIN_S):
                await anext(aiter(reader.messages))

            async def hears() -> bool:
                await reader.publish(self.orders, b"in", qos=1)
                return b"in" in self.heard

            await until(hears, "it subscribes again", WITHIN_S)

    async def stop(self) -> None:
        await super().stop()
        await self.device.close()


class TwoListeners(BrokerProcess):
    """A mosquitto that also listens with TLS."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        super().__init__("mosquitto", folder)
        self.certificate, self.tls_port = certificate, free_port()

    def command(self) -> list[str]:
        """The command of edgebed's broker, with a second listener."""
        command = super().command()
        with Path(command[-1]).open("a") as conf:
            conf.write(f"listener {self.tls_port} 127.0.0.1\ncertfile {self.certificate}\n")
            conf.write(f"keyfile {self.certificate.with_name('key.pem')}\n")
        return command


@pytest.fixture(scope="module")
def healthy(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], str]
) -> Iterator[TwoListeners]:
    folder = tmp_path_factory.mktemp("healthy")
    subprocess.run(
        [
            *(require("openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=broker"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    require("mosquitto")
    with TwoListeners(folder / "broker", folder / "cert.pem") as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connecting, session, connection):
        monkeypatch.setattr(module, "KEEPALIVE_S", 1)
    for module in (connecting, connection, rival):
        monkeypatch.setattr(module, "CONNECT_S", 2.0)
    monkeypatch.setattr(uplink, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(uplink, "_MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(uplink, "PUBACK_S", 2.0)
    monkeypatch.setattr(connection, "SILENCE_S", 3.0)
    monkeypatch.setattr(connection, "PROBE_EVERY_S", 0.5)
    monkeypatch.setattr(connection, "OWED_S", 2.0)
    monkeypatch.setattr(rival, "ANSWER_S", 1.0)
    monkeypatch.setattr(publisher, "_CONNECT_S", 2.0)
    monkeypatch.setattr(publisher, "_KEEPALIVE_S", 1)
    monkeypatch.setattr(publisher, "_RETRY_S", 0.05)


@pytest.fixture
async def leaves_no_task_or_socket() -> AsyncIterator[None]:
    tasks, sockets = asyncio.all_tasks(), _sockets()
    yield

    def left() -> str:
        gc.collect()
        names = {task.get_name() for task in asyncio.all_tasks() - tasks - {asyncio.current_task()}}
        more = _sockets() - sockets
        return f"tasks {names}, sockets {more}" if names or more else ""

    with contextlib.suppress(AssertionError):
        await until(lambda: not left(), within_s=20.0)
    assert not left()


def _sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not files
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115 - not a file
    return {each for each in found if each.startswith("socket:")}


async def fault_of(
    kind: type[Client], attack: Attack, folder: Path, healthy: TwoListeners, caplog: pytest.LogCaptureFixture
) -> str:
    """What is wrong with the reaction of one client to an attack; "" if nothing is."""
    tls = attack in TLS
    port = healthy.tls_port if tls else healthy.port
    async with HostileBroker(attack, port, times=kind.connections) as hostile:
        broker = Broker(
            url=f"{'mqtts' if tls else 'mqtt'}://127.0.0.1:{hostile.port}",
            protocol=kind.protocol,
            ca_file=healthy.certificate if tls else None,
        )
        client = kind(folder / attack.name, broker, healthy.port)
        await client.start()
        try:
            await until(lambda: hostile.attacked, f"the attack {attack}", WITHIN_S)
            await client.delivers()
        except (TimeoutError, AssertionError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            await client.stop()
    if hostile.held:
        return "the client did not end the connection"
    logged = [record.getMessage() for record in caplog.records if f":{hostile.port}" in record.getMessage()]
    said = [each for each in client.said + logged if each]
    if not said:
        return "nothing was reported"
    unclear = [each for each in said if not _is_clear(each, hostile.port)]
    return f"not one clear sentence: {unclear}" if unclear else ""


def _is_clear(sentence: str, port: int) -> bool:
    wrong = re.search(r"(Error|Exception)\b|Traceback|\[code:|<\w|None|errno", sentence)
    return sentence.isprintable() and len(sentence) < 300 and not wrong and f":{port}" in sentence


@pytest.mark.parametrize("kind", [UplinkClient, AdapterClient, CollectorClient, PublisherClient])
async def test_an_attack_costs_one_connection(
    kind: type[Client],
    tmp_path: Path,
    healthy: TwoListeners,
    caplog: pytest.LogCaptureFixture,
    leaves_no_task_or_socket: None,
) -> None:
    caplog.set_level(logging.WARNING)
    every = [*GREETING, *SUBSCRIBING, *ONLINE, *PUBLISHING]
    attacks = [each for each in every if each.name in kind.attacks and each.only in ("", kind.protocol)]
    await _all_survived(kind, attacks, tmp_path, healthy, caplog)


async def test_messages_for_another_node_change_nothing(tmp_path: Path, healthy: TwoListeners) -> None:
    base = b"tb1/acme/hall/hostile/another/"
    late = encode(Status(state="lost", ts=0, boot=BOOT, sess=70))
    command = encode(Cmd(id="1" * 26, ts=Clock().now_ms(), ttl_ms=60_000))

    def mixed_up(request: Request) -> bytes:
        acks = encode(Ack(ep=client.outbox.ep, ok=[(1, MESSAGES)], by="x", ts=0))
        bodies = [(b"ack", acks), (b"status", late), (b"cmd/_/ping", command)]
        return b"".join(publish(request, base + tail, body) for tail, body in bodies)

    async with HostileBroker(Attack("mixed-up", "online", mixed_up), healthy.port) as hostile:
        broker = Broker(url=f"mqtt://127.0.0.1:{hostile.port}", protocol="5")
        client = UplinkClient(tmp_path / "node", broker, healthy.port)
        await client.start()
        try:
            await until(lambda: client.uplink.counters.get("ignored") == 3, "they arrive", WITHIN_S)
            await until(lambda: client.outbox.stats().depth == MESSAGES, "committed", WITHIN_S)
            await until(lambda: client.uplink.connected, "the connection is known", WITHIN_S)
            assert {"commands", "lost_connections"}.isdisjoint(client.uplink.counters)
        finally:
            await client.stop()


@pytest.mark.parametrize("kind", [UplinkClient, AdapterClient, CollectorClient])
async def test_an_attack_in_the_tls_handshake(
    kind: type[Client],
    tmp_path: Path,
    healthy: TwoListeners,
    caplog: pytest.LogCaptureFixture,
    leaves_no_task_or_socket: None,
) -> None:
    caplog.set_level(logging.WARNING)
    await _all_survived(kind, TLS, tmp_path, healthy, caplog)


async def _all_survived(
    kind: type[Client],
    attacks: list[Attack],
    folder: Path,
    healthy: TwoListeners,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attack one client with each, all at the same time."""
    faults = await asyncio.gather(*(fault_of(kind, each, folder, healthy, caplog) for each in attacks))
    found = {each.name: fault for each, fault in zip(attacks, faults, strict=True) if fault}
    assert not found
    gc.collect()
    bugs = [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING]
    assert not bugs
