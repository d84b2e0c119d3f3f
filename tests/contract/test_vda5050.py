"""The VDA 5050 adapter against the simulated vehicle, through a line with all faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from adapters.base import AdapterError, DeviceStalled, ProtocolViolation, Reading
from adapters.testing import AdapterContract, Rig, read_until
from adapters.vda5050.adapter import Vda5050
from adapters.vda5050.options import Vda5050Options
from edgebed.broker import BrokerProcess
from simulators.devices.mqtt.publisher import Publisher, broker_of
from simulators.devices.vda5050.device import AmrVehicle
from simulators.faults import FaultProxy
from tests.polling import until as polled
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.messages import Quality

BASE = "uagv/v2/acme/amr-01"


def options(port: int, **more: Any) -> Vda5050Options:
    quick = {"manufacturer": "acme", "serial": "amr-01", "silence_s": 2.0, "timeout_s": 5.0}
    return Vda5050Options(url=f"mqtt://127.0.0.1:{port}", **(quick | more))


async def until(adapter: Vda5050, found: Callable[[Reading], bool]) -> list[Reading]:
    """All readings up to the first for which `found` is true."""
    return await read_until(adapter, lambda seen: found(seen[-1]))


async def fails(adapter: Vda5050) -> AdapterError:
    with pytest.raises(AdapterError) as caught:
        await until(adapter, lambda _: False)
    return caught.value


class TestVda5050(AdapterContract):
    adapter = Vda5050
    good_options: ClassVar = {"url": "mqtt://hub.example", "manufacturer": "acme", "serial": "amr-01"}
    bad_options: ClassVar = [
        ({**good_options, "url": "mqtt://me:geheim@hub.example"}, "password_file"),
        ({**good_options, "serial": "#"}, "topic level"),
        ({**good_options, "manufacturer": "a/b"}, "topic level"),
        ({**good_options, "manufacturer": ""}, "manufacturer"),
        ({**good_options, "interface": "tb1"}, "loop"),
    ]
    secrets = ("geheim",)

    @pytest.fixture
    async def rig(self, mosquitto: BrokerProcess) -> AsyncIterator[Rig]:
        clock = Clock(10.0)
        async with (
            AmrVehicle(seed=1, clock=clock, broker_url=mosquitto.url),
            FaultProxy(mosquitto.port) as link,
        ):
            yield Rig(lambda: Vda5050(options(link.port), clock), link)


async def test_the_rows_are_what_the_vehicle_did(broker: BrokerProcess) -> None:
    clock = Clock(20.0)
    async with AmrVehicle(seed=4, clock=clock, broker_url=broker.url, visualization=True) as vehicle:
        async with Vda5050(options(broker.port, visualization=True), clock) as adapter:
            arrived = lambda row: bool(row.values.get("order_id")) and row.values.get("nodes_left") == 0  # noqa: E731
            rows = await until(adapter, arrived)
            assert adapter.counters == {}
        states = [row for row in rows if row.stream == "state"]
        assert len(states) > 20
        for row in states:
            truth = vehicle.truth(row.at_ns)
            for name in ("order_id", "last_node_id", "nodes_left", "driving", "charging"):
                assert row.values[name] == truth[name]
            for name in ("x", "y", "theta", "vx", "omega", "battery_charge", "battery_voltage"):
                assert row.values[name] == pytest.approx(truth[name], abs=0.02), name
        assert {row.quality for row in rows} == {Quality.GOOD}
        assert max(b.at_ns - a.at_ns for a, b in pairwise(states)) == 500 * NS_PER_MS
        fine = [row for row in rows if row.stream == "visualization"]
        assert {b.at_ns - a.at_ns for a, b in pairwise(fine)} == {100 * NS_PER_MS}
        order = next(row for row in rows if row.stream == "orders")
        assert order.values["order_id"] == states[-1].values["order_id"]
        assert (
            order.values["nodes"] == order.values["released_nodes"] == len(str(order.values["route"]).split())
        )
        assert str(order.values["route"]).split()[-1] == states[-1].values["last_node_id"]


async def test_an_order_is_read_and_done_and_the_adapter_sends_nothing(mosquitto: BrokerProcess) -> None:
    clock, heard = Clock(20.0), []
    order = {
        "headerId": 1, "timestamp": "2026-01-01T00:00:00.000Z", "version": "2.1.0",
        "manufacturer": "acme", "serialNumber": "amr-01", "orderId": "주문-7", "orderUpdateId": 0,
        "nodes": [
            {"nodeId": "dock", "sequenceId": 0, "released": True, "actions": []},
            {"nodeId": "gate", "sequenceId": 2, "released": True, "actions": [],
             "nodePosition": {"x": -1.0, "y": 2.0, "mapId": "hall-1"}},
            {"nodeId": "n10", "sequenceId": 4, "released": False, "actions": []},
        ],
        "edges": [{"edgeId": "e", "sequenceId": 1, "released": True, "actions": []}],
    }  # fmt: skip
    master = Publisher(
        broker_of("fleet", mosquitto.url, 0), "master", topic="#", on_message=lambda *a: heard.append(a)
    )
    await master.open()
    try:
        async with AmrVehicle(seed=4, clock=clock, broker_url=mosquitto.url, fleet=False) as vehicle:
            async with Vda5050(options(mosquitto.port), clock) as adapter:
                parked = await until(adapter, lambda row: row.stream == "state")
                assert parked[-1].values["order_id"] == ""
                master.publish(f"{BASE}/order", json.dumps(order).encode(), qos=1)
                rows = await until(adapter, lambda row: row.values.get("last_node_id") == "gate")
                master.publish(f"{BASE}/order", json.dumps({**order, "orderId": "far"}).encode(), qos=1)
                master.publish(f"{BASE}/order", b"{", qos=1)
                rows += await until(adapter, lambda row: bool(row.values.get("errors")))
                foreign = json.dumps({**order, "serialNumber": "amr-02"}).encode()
                master.publish(f"{BASE}/order", foreign, qos=1)
                await until(adapter, lambda _: bool(adapter.counters.get("foreign_order")))
            end = vehicle.truth(rows[-1].at_ns)
    finally:
        await master.close()
    echoed = next(row for row in rows if row.stream == "orders")
    assert echoed.values | {"x": 0} == {
        "order_id": "주문-7", "order_update_id": 0, "nodes": 3, "released_nodes": 2, "edges": 1,
        "route": "dock gate n10", "x": 0,
    }  # fmt: skip
    assert {row.values["order_id"] for row in rows if row.stream == "state"} >= {"주문-7"}
    assert (end["x"], end["y"]) == pytest.approx((-1.0, 2.0))
    assert rows[-1].values["error_level"] == "WARNING"
    assert {topic for topic, _ in heard} == {f"{BASE}/{kind}" for kind in ("state", "connection", "order")}
    assert sum(topic.endswith("order") for topic, _ in heard) == 4, "every order came from this test"


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("wrong-serial", ProtocolViolation, "amr-01-other"),
        ("version", ProtocolViolation, "VDA 5050 3.0.0"),
        ("silent", DeviceStalled, "nothing usable"),
        ("malformed", DeviceStalled, "not JSON"),
        ("broken", DeviceStalled, "the vehicle reported CONNECTIONBROKEN"),
    ],
)
async def test_a_faulty_vehicle_is_an_error(
    mosquitto: BrokerProcess, fault: str, error: type[AdapterError], message: str
) -> None:
    clock = Clock(10.0)
    async with AmrVehicle(seed=1, clock=clock, broker_url=mosquitto.url) as vehicle:
        async with Vda5050(options(mosquitto.port), clock) as adapter:
            await until(adapter, lambda row: row.stream == "state")
            vehicle.inject(fault)
            caught = await fails(adapter)
            assert isinstance(caught, error)
            assert message in str(caught)
        vehicle.repair()
        states = 0
        async with asyncio.timeout(60):
            while not states:  # retries as the agent does: older messages still arrive
                with contextlib.suppress(ProtocolViolation):
                    async with Vda5050(options(mosquitto.port, silence_s=10.0), clock) as adapter:
                        states = len(await until(adapter, lambda row: row.stream == "state"))


async def test_a_broken_connection_is_a_row_and_so_is_its_return(mosquitto: BrokerProcess) -> None:
    clock = Clock(10.0)
    async with (
        AmrVehicle(seed=1, clock=clock, broker_url=mosquitto.url) as vehicle,
        Vda5050(options(mosquitto.port, silence_s=20.0), clock) as adapter,
    ):
        await until(adapter, lambda row: row.stream == "state")
        vehicle.inject("broken")
        rows = await until(adapter, lambda row: row.values.get("online") is False)
        vehicle.repair()
        rows += await until(adapter, lambda row: row.values.get("online") is True)
        await until(adapter, lambda row: row.stream == "state")
    async with Vda5050(options(mosquitto.port), clock) as adapter:
        assert "at the broker is OFFLINE" in str(await fails(adapter))
    words = [row.values["connection_state"] for row in rows if row.stream == "connection"]
    assert words[-2:] == ["CONNECTIONBROKEN", "ONLINE"]


async def test_odd_messages_are_flagged_or_counted(mosquitto: BrokerProcess) -> None:
    clock = Clock(10.0)
    async with (
        AmrVehicle(seed=1, clock=clock, broker_url=mosquitto.url) as vehicle,
        Vda5050(options(mosquitto.port, silence_s=20.0), clock) as adapter,
    ):
        rows = await until(adapter, lambda row: row.stream == "state")
        vehicle.inject("nan")
        rows += await until(adapter, lambda row: row.values.get("vx") != row.values.get("vx"))
        vehicle.repair()
        vehicle.inject("backward")
        rows += await until(adapter, lambda row: row.at_ns < rows[-1].at_ns - 8 * NS_PER_S)
        vehicle.repair()
        rows += await until(adapter, lambda row: row.at_ns > rows[-2].at_ns and row.stream == "state")
        assert adapter.counters == {}
        vehicle.inject("lostx0.5")
        await until(adapter, lambda _: adapter.counters.get("missed", 0) >= 3)
        vehicle.repair()
        vehicle.inject("e-stop")
        stopped = (await until(adapter, lambda row: row.values.get("e_stop") == "MANUAL"))[-1]
        assert stopped.values["error_level"] == "FATAL"
        assert (stopped.values["driving"], stopped.values["errors"]) == (False, 1)
    assert {row.quality for row in rows} == {Quality.GOOD}, "the agent flags times and NaN, not the adapter"


async def test_a_state_of_two_megabytes_ends_only_the_vehicles_connection(
    mosquitto: BrokerProcess,
) -> None:
    clock = Clock(10.0)
    async with (
        AmrVehicle(seed=1, clock=clock, broker_url=mosquitto.url) as vehicle,
        Vda5050(options(mosquitto.port, silence_s=20.0), clock) as adapter,
    ):
        await until(adapter, lambda row: row.stream == "state")
        vehicle.inject("huge")  # more than this broker accepts
        await until(adapter, lambda row: row.values.get("connection_state") == "CONNECTIONBROKEN")
        vehicle.repair()
        await until(adapter, lambda row: row.stream == "state")


@pytest.mark.parametrize("version", ["v1", "v3"])
async def test_a_vehicle_on_the_topics_of_another_version_is_named(
    broker: BrokerProcess, version: str
) -> None:
    topic = f"uagv/{version}/acme/amr-01/state"
    sender = Publisher(broker_of("test", broker.url, 0), "vehicle")
    await sender.open()
    try:
        async with Vda5050(options(broker.port, silence_s=20.0), Clock()) as adapter:
            reading = asyncio.create_task(until(adapter, lambda _: False))
            await polled(lambda: sender.publish(topic, b"{}", qos=1) or adapter.unread)
            await cancelled(reading)
        assert adapter.unread[""].what.startswith(f"topic of VDA 5050 {version}: not read ({topic}); set ")
        state = json.dumps({"version": "2.0", "orderId": "o-1"}).encode()
        async with Vda5050(options(broker.port, topic_version=version), Clock()) as adapter:
            reading = asyncio.create_task(until(adapter, lambda row: row.values["order_id"] == "o-1"))
            await polled(lambda: sender.publish(topic, state, qos=1) or reading.done())
            await reading
    finally:
        await sender.close()


async def test_a_vehicle_on_its_own_topics_leaves_the_others_alone(broker: BrokerProcess) -> None:
    """Each topic that is subscribed beside would need a right at the broker."""
    sender = Publisher(broker_of("test", broker.url, 0), "vehicle")
    await sender.open()
    try:
        async with Vda5050(options(broker.port, silence_s=2.0), Clock()) as adapter:
            reading = asyncio.create_task(until(adapter, lambda _: True))
            await polled(lambda: sender.publish(f"{BASE}/state", b"{}", qos=1) or reading.done())
            sender.publish("uagv/v3/acme/amr-01/state", b"{}", qos=1)
            assert isinstance(await fails(adapter), DeviceStalled)
            assert "" not in adapter.unread
    finally:
        await sender.close()


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
