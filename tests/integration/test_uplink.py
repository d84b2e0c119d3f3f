"""The uplink on real brokers: no fault of the link makes it delete an unacknowledged message."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import aiomqtt
import pytest

from agent.commands import Action, Commands
from agent.outbox import Message, Outbox, OutboxSettings, keep_committing
from agent.uplink import connecting, in_flight, uplink
from agent.uplink.uplink import NodeHooks, NodeIdentity, Uplink, UplinkSettings
from edgebed.broker import BrokerProcess
from simulators.faults import FaultProxy
from tests.polling import until
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import decode, decode_live, encode
from wire.errors import Unreachable
from wire.messages import (
    Ack,
    AgentInfo,
    Batch,
    Birth,
    ClockState,
    Cmd,
    Event,
    Res,
    Snapshot,
    Status,
)
from wire.ranges import Ranges
from wire.task_cancellation import end
from wire.topics import Address, parse

ADDRESS = Address("acme", "junction", "street-1", "cam-01")
DEADLINE_S = 60.0
BOOT = "ab" * 8


class Listener:
    """Collects everything of the node, and acknowledges as a collector does if asked to."""

    def __init__(self, port: int, *, acks: bool = True) -> None:
        self.acks = acks
        self.rows: list[tuple[str, int]] = []  # class, seq in order of arrival
        self.bodies: dict[int, Batch | Event] = {}
        self.fresh: dict[str, set[int]] = {}  # not acknowledged yet
        self.statuses: list[Status] = []
        self.births: list[Birth] = []
        self.answers: list[Res] = []
        self.latest: dict[str, bytes] = {}
        self.client = aiomqtt.Client(
            "127.0.0.1", port, identifier="listener", timeout=30, max_inflight_messages=0
        )

    @property
    def seqs(self) -> set[int]:
        return {seq for _, seq in self.rows}

    async def __aenter__(self) -> Listener:
        await self.client.__aenter__()
        await self.client.subscribe(f"{ADDRESS.base}/#", qos=1)
        self.tasks = {
            asyncio.create_task(self._listen(), name="listener"),
            asyncio.create_task(self._acknowledge(), name="acknowledger"),
        }
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self.tasks)
        with contextlib.suppress(aiomqtt.MqttError):
            await self.client.__aexit__(None, None, None)
        self.client._disconnected.exception()  # aiomqtt does not read it, and asyncio complains

    async def publish(self, tail: str, body: bytes, *, retain: bool = False) -> None:
        await self.client.publish(f"{ADDRESS.base}/{tail}", body, qos=1, retain=retain)

    async def _acknowledge(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            while True:
                await asyncio.sleep(0.05)
                while self.acks and self.fresh:
                    ep, seqs = self.fresh.popitem()
                    ranges = list(Ranges((seq, seq) for seq in sorted(seqs)))
                    await self.publish("ack", encode(Ack(ep=ep, ok=ranges, by="listener", ts=0)))

    async def _listen(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self.client.messages:
                topic = parse(message.topic.value)
                assert isinstance(message.payload, bytes)
                if topic.cls in ("data", "event"):
                    body = decode(message.payload, Batch if topic.cls == "data" else Event)
                    self.rows.append((topic.cls, body.seq))
                    self.bodies[body.seq] = body
                    self.fresh.setdefault(body.ep, set()).add(body.seq)
                elif topic.cls == "status":
                    with contextlib.suppress(Exception):
                        self.statuses.append(decode(message.payload, Status))
                elif topic.cls == "birth":
                    self.births.append(decode(message.payload, Birth))
                elif topic.cls == "res":
                    self.answers.append(decode(message.payload, Res))
                else:
                    self.latest[message.topic.value.removeprefix(ADDRESS.base + "/")] = message.payload


class Node:
    """Outbox, committer, commands and uplink as the agent wires them."""

    def __init__(self, state: Path, port: int, **settings: Any) -> None:
        self.state = state
        self.clock: ClockState = settings.pop("clock", ClockState.NTP)
        actions: dict[str, Action] = settings.pop("actions", {})
        protocol = settings.pop("protocol", "auto")
        self.outbox = Outbox.open(state / "outbox", OutboxSettings(max_mb=4, group_commit_ms=5), Clock())
        self.uplink = Uplink(
            NodeIdentity(ADDRESS, BOOT, "1.2.3"),
            Broker(url=f"mqtt://127.0.0.1:{port}", protocol=protocol),
            self.outbox,
            Clock(),
            NodeHooks(
                describe=lambda: Birth(
                    ts=0, boot=BOOT, sess=0, ep=self.outbox.ep, agent=AgentInfo(ver="1.2.3")
                ),
                status=lambda: Status(state="online", ts=0, boot=BOOT, sess=0),
                clock_state=lambda: self.clock,
                on_command=Commands(state, Clock(), actions).handle,
            ),
            UplinkSettings(state, **settings),
        )
        self.tasks: list[asyncio.Task[None]] = []
        self.stopped = False

    def start(self) -> None:
        self.tasks = [
            asyncio.create_task(keep_committing(self.outbox, 5), name="committer"),
            asyncio.create_task(self.uplink.run(), name="uplink"),
        ]

    async def stop(self) -> None:
        ended = [task for task in self.tasks if task.done() and not self.stopped]
        self.stopped = True
        await end(self.tasks)
        for task in self.tasks:
            if not task.cancelled():
                task.result()
        self.outbox.close()
        assert not ended, f"ended by themselves: {ended}"

    async def send(self, count: int, size: int = 100, *, clk: int | None = None) -> None:
        for number in range(count):
            event = number % 5 == 0
            body: Batch | Event = (
                Event(ts=1_000, type="alarm", detail={"x": "v" * size})
                if event
                else Batch(t0=1_000, per=10, n=2, f={"x": ["v" * size, None]})
            )
            if clk is not None:
                body.clk = clk  # type: ignore[assignment]
            name = "alarm" if event else "joints"
            self.outbox.append(Message("event" if event else "data", "arm", name, body))
            if number % 20 == 0:
                await asyncio.sleep(0.001)

    @property
    def drained(self) -> bool:
        stats = self.outbox.stats()
        return stats.depth == 0 and stats.head == self.outbox.head


Start = Callable[..., Awaitable[Node]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    before = asyncio.all_tasks()
    nodes: list[Node] = []

    async def start(port: int, **settings: Any) -> Node:
        node = Node(tmp_path / "state", port, **settings)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        await node.stop()
    left = {task.get_name() for task in asyncio.all_tasks() - before - {asyncio.current_task()}}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(uplink, "_MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(connecting, "WILL_DELAY_S", 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "RESEND_S", 1.0)
    monkeypatch.setattr(uplink, "PUBACK_S", 4.0)  # a slow broker is not gone


async def test_everything_arrives_in_order_and_once(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port) as listener:
        node = await start(broker.port)
        await until(lambda: node.uplink.connected, "the uplink connects")
        await node.send(200)  # less than a backlog: new messages would overtake one
        await until(lambda: node.drained, "the outbox drains")
        for cls in ("data", "event"):
            seqs = [seq for kind, seq in listener.rows if kind == cls]
            assert seqs == sorted(seqs)
        assert sorted(seq for _, seq in listener.rows) == list(range(1, 201))
        assert node.uplink.counters["sent"] == 200


async def test_large_bodies_are_compressed_and_read_back(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port) as listener:
        node = await start(broker.port)
        for number in range(1, 11):
            await node.send(1 + number % 2, size=20_000)
            await until(lambda: node.outbox.stats().head == node.outbox.head, "committed")
        await until(lambda: node.drained, "the outbox drains")
        body = listener.bodies[2]
        assert node.outbox.stats().dropped == {"data": 0, "event": 0}
        assert isinstance(body, Batch)
        assert body.f["x"] == ["v" * 20_000, None]


async def test_birth_and_status(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port) as listener:
        node = await start(broker.port)
        await until(lambda: bool(listener.births and listener.statuses), "birth and status")
        status, birth = listener.statuses[-1], listener.births[-1]
        assert (status.state, status.boot, status.agent) == ("online", BOOT, "1.2.3")
        assert (birth.sess, birth.boot, birth.ep) == (status.sess, BOOT, node.outbox.ep)
        node.uplink.renew_birth()
        await until(lambda: len(listener.births) > 1, "a renewed birth")
        await node.stop()
        await until(lambda: listener.statuses[-1].state == "offline", "offline is published")
    async with Listener(broker.port) as late:
        await until(lambda: bool(late.births and late.statuses), "both are retained")
        assert (late.statuses[0].state, late.statuses[0].code) == ("offline", "agent-stopped")


async def test_without_an_acknowledgement_nothing_is_deleted(
    broker: BrokerProcess, start: Start, impatient: None
) -> None:
    async with Listener(broker.port, acks=False) as listener:
        node = await start(broker.port)
        await node.send(20)
        await until(lambda: len(listener.rows) >= 60, "each is sent again and again")
        assert node.outbox.stats().depth == 20
        assert node.uplink.counters["resent"] >= 40
        listener.acks = True
        await until(lambda: node.drained, "acknowledged in the end")


async def test_puback_mode_believes_the_broker(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port, acks=False) as listener:
        node = await start(broker.port, ack="puback")
        await node.send(20)
        await until(lambda: node.drained, "PUBACKs are enough")
        await until(lambda: len(listener.seqs) == 20, "they arrive")


async def test_offline_first(broker: BrokerProcess, start: Start) -> None:
    broker.kill()
    node = await start(broker.port)
    await node.send(100)
    await until(lambda: node.outbox.stats().depth == 100, "the outbox takes it")
    assert not node.uplink.connected
    broker.start()
    async with Listener(broker.port) as listener:
        await until(lambda: node.drained, "the outbox drains")
        assert listener.seqs == set(range(1, 101))


async def test_broker_killed_in_mid_stream(broker: BrokerProcess, start: Start, impatient: None) -> None:
    seen: set[int] = set()
    node = await start(broker.port)
    for _ in range(3):
        async with Listener(broker.port) as listener:
            await until(lambda: node.uplink.connected, "the uplink connects")
            sending = asyncio.create_task(node.send(300))
            await until(lambda listener=listener: len(listener.rows) > 50, "some arrive")
            broker.kill()
            await sending
            seen |= listener.seqs
        broker.start()
    async with Listener(broker.port) as listener:
        await until(lambda: node.drained, "the outbox drains")
        assert seen | listener.seqs == set(range(1, 901))


async def test_cuts_in_mid_stream(broker: BrokerProcess, start: Start) -> None:
    async with FaultProxy(broker.port) as proxy, Listener(broker.port) as listener:
        node = await start(proxy.port)
        for turn in range(4):
            await until(lambda: node.uplink.connected, "the uplink connects")
            sending = asyncio.create_task(node.send(150))
            have = len(listener.rows)
            await until(lambda have=have: len(listener.rows) > have + 20, "some arrive")
            proxy.cut(reset=turn % 2 == 0)
            await until(
                lambda turn=turn: node.uplink.counters.get("lost_connections", 0) > turn, "the cut is noticed"
            )
            await sending
        await until(lambda: node.drained, "the outbox drains")
        assert listener.seqs == set(range(1, 601))


async def test_a_link_that_swallows_everything(broker: BrokerProcess, start: Start, impatient: None) -> None:
    async with FaultProxy(broker.port) as proxy, Listener(broker.port) as listener:
        node = await start(proxy.port)
        await until(lambda: node.uplink.connected, "the uplink connects")
        proxy.black_hole()
        await node.send(50)
        await until(lambda: not node.uplink.connected, "silence is noticed")
        assert node.outbox.stats().depth == 50
        proxy.heal()
        await until(lambda: node.drained, "the outbox drains")
        assert listener.seqs == set(range(1, 51))


async def test_a_slow_and_shaky_link(broker: BrokerProcess, start: Start) -> None:
    async with FaultProxy(broker.port, seed=3) as proxy, Listener(broker.port) as listener:
        proxy.set("both", latency_s=0.02, jitter_s=0.03, slice=700)
        node = await start(proxy.port)
        await node.send(200, size=1_000)
        await until(lambda: node.drained, "the outbox drains")
        assert listener.seqs == set(range(1, 201))


async def test_the_will_reports_lost_and_a_return_replaces_it(broker: BrokerProcess, start: Start) -> None:
    async with FaultProxy(broker.port) as proxy, Listener(broker.port) as listener:
        node = await start(proxy.port)
        await until(lambda: bool(listener.statuses), "online")
        sess = listener.statuses[-1].sess
        proxy.refuse()
        proxy.cut()
        await until(lambda: listener.statuses[-1].state == "lost", "the broker publishes the Will")
        assert listener.statuses[-1].code == "connection-lost"
        assert listener.statuses[-1].sess == sess
        proxy.heal()
        await until(lambda: listener.statuses[-1].state == "online", "back online")
        assert listener.statuses[-1].sess > sess
        assert node.uplink.sess == listener.statuses[-1].sess


async def test_a_loss_that_is_retained_is_contradicted(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port) as listener:
        node = await start(broker.port)
        await until(lambda: bool(listener.statuses), "online")
        late_will = Status(state="lost", ts=0, boot=BOOT, sess=max(0, node.uplink.sess - 1))
        await listener.publish("status", encode(late_will), retain=True)
        states = lambda: [status.state for status in listener.statuses]  # noqa: E731
        await until(lambda: "lost" in states() and states()[-1] == "online", "online is published again")


async def test_a_second_agent_of_the_same_name_is_logged(
    broker: BrokerProcess, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    before = Status(state="online", ts=Clock().now_ms() - 1, boot="0" * 8, sess=1)
    twin = Status(state="online", ts=Clock().now_ms() + 60_000, boot="f" * 8, sess=70)
    async with Listener(broker.port) as listener:
        await listener.publish("status", encode(before), retain=True)  # this node's status of yesterday
        node = await start(broker.port)
        await until(lambda: BOOT in [status.boot for status in listener.statuses], "online")
        await node.send(5)
        await until(lambda: node.drained, "the outbox drains")
        logged = lambda: caplog.text.count(f"another agent is connected as {ADDRESS}")  # noqa: E731
        assert logged() == 0
        for _ in range(2):
            await listener.publish("status", encode(twin), retain=True)
        await until(lambda: logged() > 0, "it is logged")
        await node.send(5)
        await until(lambda: node.drained, "the outbox drains")
        assert logged() == 1


async def test_a_state_folder_younger_than_the_broker(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port) as listener:
        await listener.publish("status", encode(Status(state="lost", ts=0, boot=BOOT, sess=70)), retain=True)
        node = await start(broker.port)
        await until(lambda: node.uplink.sess > 70 and node.uplink.connected, "it continues from there")
        await until(
            lambda: listener.statuses[-1].state == "online" and listener.statuses[-1].sess > 70,
            "readers believe it",
        )


async def test_protocol_versions(
    broker: BrokerProcess, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "agent.uplink.uplink")
    node = await start(broker.port)
    await until(lambda: node.uplink.connected, "the uplink connects")
    spoken = "MQTT 5" if broker.kind == "mosquitto" else "MQTT 3.1.1"
    assert f"online, {spoken}" in caplog.text
    assert "lost_connections" not in node.uplink.counters


async def test_a_version_the_broker_does_not_speak(start: Start, tmp_path: Path) -> None:
    with BrokerProcess("nats", tmp_path / "broker") as running:
        node = await start(running.port, protocol="5")
        await until(lambda: node.uplink.counters.get("lost_connections", 0) >= 1, "it is refused")
        assert not node.uplink.connected


async def test_newest_values_and_pictures(broker: BrokerProcess, start: Start) -> None:
    picture = Snapshot(ts=5, w=4, h=3, sha256="00", jpeg=b"\xff\xd8")
    async with Listener(broker.port) as listener:
        node = await start(broker.port)
        node.uplink.live("arm", "joints", {"ts": 1, "x": 1.0})  # no connection yet
        node.uplink.snap("arm", "frames", picture)
        await until(lambda: node.uplink.connected, "the uplink connects")
        node.uplink.live("arm", "joints", {"ts": 2, "x": float("nan")})
        node.uplink.snap("arm", "frames", picture)
        node.uplink.snap("arm", "huge", Snapshot(ts=5, w=4, h=3, sha256="00", jpeg=bytes(60_000)))
        node.uplink.live("arm", "odd", {"ts": 2, "x": object()})  # type: ignore[dict-item]
        await until(lambda: len(listener.latest) == 2, "both arrive")
        assert decode_live(listener.latest["live/arm/joints"]) == {"ts": 2, "x": None}
        assert decode(listener.latest["snap/arm/frames"], Snapshot).jpeg == b"\xff\xd8"
        assert node.uplink.counters["live_dropped"] == 1
        assert node.uplink.counters["snap_dropped"] == 1
        assert node.uplink.counters["snap_refused"] == 1
        assert node.uplink.counters["live_refused"] == 1
    async with Listener(broker.port) as late:
        await until(lambda: "live/arm/joints" in late.latest, "newest values are retained")
        assert "snap/arm/frames" not in late.latest


def cmd(number: int) -> bytes:
    return encode(Cmd(id=f"{number:026}", ts=Clock().now_ms(), ttl_ms=60_000))


async def test_commands(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port) as listener:
        node = await start(broker.port)
        await until(lambda: bool(listener.births), "the uplink connects")
        await listener.publish("cmd/_/ping", cmd(1))
        await until(lambda: len(listener.answers) == 1, "the first answer")
        await listener.publish("cmd/_/ping", cmd(1))
        await listener.publish("cmd/arm/fly", cmd(2))
        await until(lambda: len(listener.answers) == 3, "three answers")
        states = sorted((answer.id[-1], answer.state) for answer in listener.answers)
        assert states == [("1", "done"), ("1", "done"), ("2", "rejected")]
        first, again = (answer for answer in listener.answers if answer.id == f"{1:026}")
        assert first == again
        assert node.uplink.counters["commands"] == 3


async def test_a_command_waits_for_a_node_that_is_away(broker: BrokerProcess, start: Start) -> None:
    node = await start(broker.port)
    await until(lambda: node.uplink.connected, "the uplink connects")
    await until(lambda: node.uplink.counters["connects"] == 1, "subscribed")
    await asyncio.sleep(0.3)
    await node.stop()
    async with Listener(broker.port) as listener:
        await listener.publish("cmd/_/ping", cmd(1))
        node.__init__(node.state, broker.port)  # type: ignore[misc]
        node.start()
        await until(lambda: len(listener.answers) == 1, "it is executed after the return")


async def test_more_commands_than_can_run(broker: BrokerProcess, start: Start) -> None:
    go_on = asyncio.Event()

    async def wait(device: str, args: dict[str, Any]) -> dict[str, Any]:
        await go_on.wait()
        return {}

    async with Listener(broker.port) as listener:
        await start(broker.port, actions={"wait": wait})
        await until(lambda: bool(listener.births), "the uplink connects")
        for number in range(12):
            await listener.publish("cmd/_/wait", cmd(number))
        await until(lambda: len(listener.answers) == 4, "those beyond the limit are rejected")
        assert {(answer.code, answer.err_code) for answer in listener.answers} == {(429, "commands-too-many")}
        go_on.set()
        await until(lambda: len(listener.answers) == 12, "the others are done")


async def test_answers_without_a_puback_do_not_pile_up(
    broker: BrokerProcess, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "_MAX_UNANSWERED", 5)
    async with FaultProxy(broker.port) as line, Listener(broker.port) as listener:
        node = await start(line.port)
        await until(lambda: bool(listener.births), "the uplink connects")
        line.black_hole(way="up")
        for number in range(15):
            await listener.publish("cmd/_/ping", cmd(number))
        await until(lambda: node.uplink.counters.get("commands", 0) > 10, "they arrive")
        assert node.uplink._link is not None
        assert node.uplink._link.unanswered <= 5
        line.heal()


HOSTILE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"v":1}',
    b"\x1f\x8b junk",
    b'{"v":1,"ep":"zz","ok":[[5,1]]}',
    b"9" * 59_000,
]


async def test_hostile_bodies_change_nothing(broker: BrokerProcess, start: Start) -> None:
    async with Listener(broker.port, acks=False) as listener:
        node = await start(broker.port)
        await until(lambda: bool(listener.births), "the uplink connects")
        await node.send(10)
        await until(lambda: len(listener.seqs) == 10, "messages arrive")
        for body in HOSTILE:
            for tail in ("ack", "cmd/_/ping", "status"):
                await listener.publish(tail, body)
        foreign = Ack(ep="00" * 8, ok=[(1, 100)], by="x", ts=0)
        await listener.publish("ack", encode(foreign))
        await listener.publish("ack", encode(Ack(ep=node.outbox.ep, ok=[(50, 2**60)], by="x", ts=0)))
        await listener.publish("cmd/_/ping", cmd(7))
        await until(lambda: len(listener.answers) == 1, "it still answers")
        assert node.outbox.stats().depth == 10
        assert node.uplink.counters["ignored"] >= len(HOSTILE) * 3 - 1  # an empty retained status deletes
        assert node.uplink.counters["connects"] == 1


class LimitedBroker(BrokerProcess):
    """A mosquitto with limits of its own: by default messages of any size, a thousand at once."""

    limits: ClassVar[dict[str, str]] = {"max_packet_size 70000\n": ""}

    def command(self) -> list[str]:
        program, flag, path = super().command()
        conf = Path(path)
        text = conf.read_text()
        for before, after in self.limits.items():
            assert before in text
            text = text.replace(before, after)
        conf.write_text(text)
        return [program, flag, path]


class NarrowBroker(LimitedBroker):
    limits: ClassVar[dict[str, str]] = {
        "max_packet_size 70000\n": "max_packet_size 3000\n",
        "max_inflight_messages 1000\n": "max_inflight_messages 1\n",
    }


@contextlib.contextmanager
def running(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    try:
        broker.start()
    except Unreachable as error:
        pytest.skip(str(error))
    try:
        yield broker
    finally:
        broker.stop()


async def test_a_message_that_is_too_large_for_the_broker_stops_no_other(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(NarrowBroker("mosquitto", tmp_path / "broker")) as broker:
        async with Listener(broker.port) as listener:
            node = await start(broker.port)
            await node.send(3)
            detail = {"x": secrets.token_hex(6_000)}
            large = node.outbox.append(
                Message("event", "arm", "alarm", Event(ts=1_000, type="a", detail=detail))
            )
            await node.send(30)
            await until(lambda: node.outbox.stats().depth == 1, "the others are acknowledged")
            await until(lambda: node.uplink.counters["refused"], "the turn of the large one comes")
            assert node.uplink.counters["connects"] == 1
            assert node.uplink.counters["refused"] == 1
            assert large not in listener.seqs
            assert "it takes packets of at most 3000 bytes, a message on" in caplog.text


async def test_a_command_that_is_far_too_large_comes_once(start: Start, tmp_path: Path) -> None:
    """It is acknowledged: otherwise the broker would send it again on each connection."""
    with running(LimitedBroker("mosquitto", tmp_path / "broker")) as broker:
        async with Listener(broker.port) as listener:
            node = await start(broker.port)
            await until(lambda: bool(listener.births), "the uplink connects")
            await listener.publish("cmd/_/ping", b"x" * 1_000_000)
            await listener.publish("cmd/_/ping", cmd(7))
            await until(lambda: len(listener.answers) == 1, "it still answers")
            assert node.uplink.counters["connects"] == 1
            assert node.uplink.counters["ignored"] == 1


async def test_times_from_before_the_clock_was_set(broker: BrokerProcess, start: Start) -> None:
    broker.kill()
    node = await start(broker.port, clock=ClockState.UNSYNCED)
    await node.send(2, clk=0)
    await until(lambda: node.outbox.stats().depth == 2, "the outbox takes it")
    node.clock = ClockState.NTP
    broker.start()
    async with Listener(broker.port) as listener:
        await until(lambda: node.drained, "the outbox drains")
        assert [listener.bodies[seq].clk for seq in (1, 2)] == [1, 1]


async def test_a_broker_that_does_not_answer_connect(
    broker: BrokerProcess, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_S", 3_600.0)
    async with FaultProxy(broker.port) as proxy:
        proxy.black_hole()
        node = await start(proxy.port)
        await until(lambda: proxy.accepted > 0, "it tries")
        async with asyncio.timeout(DEADLINE_S):  # it does not wait for an answer
            await node.stop()


async def test_stopping_without_a_broker(start: Start, tmp_path: Path) -> None:
    node = await start(1)
    await until(lambda: node.uplink.counters.get("lost_connections", 0) >= 2, "it tries again")
    await node.stop()
