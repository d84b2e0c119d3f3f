"""Connected but silent: the agent detects it, a new connection repairs it, and commands arrive again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from agent.uplink import connecting, liveness, uplink
from collector.app import Collector
from collector.config import CollectorConfig, Http
from edgebed.broker import BrokerProcess
from simulators.faults import FaultProxy
from tests.polling import until
from wire.broker import Broker
from wire.clock import Clock
from wire.codec import decode, encode
from wire.messages import Cmd, Res
from wire.mqtt.async_client import AsyncClient


@asynccontextmanager
async def site(folder: Path, broker: BrokerProcess, start_box: Any) -> AsyncIterator[tuple[Any, FaultProxy]]:
    """A box behind a faulty link, and a collector beside the broker."""
    config = CollectorConfig(broker=Broker(url=broker.url), store=folder / "store", http=Http(port=0))
    collector = Collector(config, Clock())
    running = asyncio.create_task(collector.run(), name="collector")
    try:
        async with FaultProxy(broker.port) as proxy:
            box = await start_box("n1", proxy.port)
            await until(lambda: box.uplink.connected, "it connects")
            box.take(10)
            await until(lambda: box.depth == 0, "the collector acknowledges")
            yield box, proxy
    finally:
        collector.stop()
        await running


async def obeys(box: Any, port: int, number: int = 1) -> None:
    """A command is published and its answer comes."""
    wanted = f"{number:026}"
    body = encode(Cmd(id=wanted, ts=Clock().now_ms(), ttl_ms=60_000))
    async with asyncio.timeout(40), aiomqtt.Client("127.0.0.1", port) as operator:
        await operator.subscribe(box.address.topic("res", "_", "ping"), qos=1)
        await operator.publish(box.address.topic("cmd", "_", "ping"), body, qos=1)
        async for message in operator.messages:
            assert isinstance(message.payload, bytes)
            answer = decode(message.payload, Res)
            if answer.id == wanted:
                assert answer.state == "done"
                return


async def unsubscribed(box: Any, *tail: str) -> None:
    """Unsubscribe one topic; the product never does, so the answer is kept from its client."""
    gone = asyncio.Event()
    connection = box.uplink._link._connection
    control = connection._control
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            connection,
            "_control",
            lambda first, body: gone.set() if first >> 4 == 11 else control(first, body),
        )
        connection._paho.unsubscribe(box.address.topic(*tail))
        connection._paho.loop_write()
        connection.write()
        async with asyncio.timeout(60):
            await gone.wait()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "KEEPALIVE_S", 2)
    monkeypatch.setattr(uplink, "PUBACK_S", 3.0)
    monkeypatch.setattr(uplink, "_FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(uplink, "_MAX_PAUSE_S", 0.3)


@pytest.mark.parametrize(
    ("fault", "busy"), [("both", True), ("up", False), ("down", True), ("down", False), ("frozen", True)]
)
async def test_a_line_that_swallows_and_a_broker_that_stands_still(
    tmp_path: Path, broker: BrokerProcess, hurried: None, start_box: Any, fault: Any, busy: bool
) -> None:
    async with site(tmp_path, broker, start_box) as (box, proxy):
        before = box.uplink.counters.get("lost_connections", 0)
        if fault == "frozen":
            os.kill(broker.pid, signal.SIGSTOP)
        else:
            proxy.black_hole(way=fault)
        try:
            if busy:
                box.take(50)
            await until(lambda: box.uplink.counters.get("lost_connections", 0) > before, "it is detected")
            assert not busy or box.depth == 50
        finally:
            if fault == "frozen":
                os.kill(broker.pid, signal.SIGCONT)
        proxy.heal()
        await until(lambda: box.uplink.connected, "it is back")
        await until(lambda: box.depth == 0, "everything is stored")
        await obeys(box, broker.port)


async def test_a_short_stall_costs_nothing(tmp_path: Path, broker: BrokerProcess, start_box: Any) -> None:
    async with site(tmp_path, broker, start_box) as (box, _):
        os.kill(broker.pid, signal.SIGSTOP)
        box.take(50)
        await asyncio.sleep(1.0)
        os.kill(broker.pid, signal.SIGCONT)
        await until(lambda: box.depth == 0, "everything is stored")
        await obeys(box, broker.port)
        assert box.uplink.counters["connects"] == 1


async def test_subscriptions_that_died_on_a_living_connection(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, start_box: Any
) -> None:
    """The broker accepts and PUBACKs everything but delivers neither acks nor commands."""
    monkeypatch.setattr(liveness, "ASK_S", 0.3)
    answers: list[float] = []
    returned = liveness.SubscriptionLiveness.returned
    monkeypatch.setattr(
        liveness.SubscriptionLiveness, "returned", lambda self, at: (answers.append(at), returned(self, at))
    )
    async with site(tmp_path, broker, start_box) as (box, _):
        await until(lambda: answers, "its own status comes back")
        for tail in (("ack",), ("status",), ("cmd", "+", "+")):
            await unsubscribed(box, *tail)
        monkeypatch.setattr(liveness, "ANSWER_S", 1.0)
        await until(
            lambda: box.uplink.counters["connects"] > 1 or box.take(), "it detects this and connects again"
        )
        monkeypatch.setattr(
            liveness, "ANSWER_S", 45.0
        )  # from here on a slow machine must not look like a dead subscription
        await until(lambda: box.depth == 0, "acks arrive")
        await obeys(box, broker.port)
        connects, before = box.uplink.counters["connects"], len(answers)
        await until(lambda: len(answers) >= before + 5 or box.take(), "it asks and its status comes back")
        assert box.uplink.counters["connects"] == connects, "with its status coming back, it stays connected"


@pytest.mark.parametrize("tail", [("cmd", "+", "+"), ("ack",)])
async def test_a_subscription_that_died_alone_is_made_again(
    tmp_path: Path, broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch, start_box: Any, tail: Any
) -> None:
    """The node's status comes back, so missing commands or acks are not detected: it subscribes again."""
    may_subscribe = asyncio.Event()
    may_subscribe.set()
    subscribe = AsyncClient.subscribe

    async def subscribe_when_it_may(self: AsyncClient, filters: Any) -> None:
        await may_subscribe.wait()
        await subscribe(self, filters)

    monkeypatch.setattr(connecting, "AGAIN_S", 0.2)
    monkeypatch.setattr(AsyncClient, "subscribe", subscribe_when_it_may)
    async with site(tmp_path, broker, start_box) as (box, _):
        may_subscribe.clear()
        await asyncio.sleep(0.5)  # for an acknowledgement in flight
        await unsubscribed(box, *tail)
        may_subscribe.set()
        before = box.uplink.counters["acked"]
        await until(lambda: box.uplink.counters["acked"] > before or box.take(), "acks arrive")
        await obeys(box, broker.port)
        assert box.uplink.counters["connects"] == 1
