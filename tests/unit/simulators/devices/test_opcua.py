"""The cobot cell as another client sees it: names, units, times, faults, right answers, a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from asyncua import Client, ua

from simulators.devices.opcua import DI_URI, ROBOTICS_URI, VENDOR_URI, CobotCell
from simulators.faults.fault import Fault
from simulators.plants.cobot import RATE_HZ, Cobot
from tests.polling import until
from wire.clock import NS_PER_S, Clock
from wire.errors import TryAgain

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


pytestmark = pytest.mark.asyncio(loop_scope="module")  # one cell for all: it takes a second to start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cell() -> AsyncIterator[CobotCell]:
    async with CobotCell(seed=5) as running:
        yield running


async def test_names_units_and_times_are_those_of_opc_40010(cell: CobotCell) -> None:
    async with Client(cell.url) as client:
        di, robotics, vendor = [
            await client.get_namespace_index(uri) for uri in (DI_URI, ROBOTICS_URI, VENDOR_URI)
        ]
        path = [
            f"{di}:DeviceSet",
            f"{vendor}:Cell1",
            f"{robotics}:MotionDevices",
            f"{vendor}:Arm1",
            f"{robotics}:Axes",
        ]
        axes = await client.nodes.objects.get_child(path)
        assert len(await axes.get_children()) == 6
        found = {}
        for variable in (f"{robotics}:ActualPosition", f"{robotics}:ActualSpeed", f"{vendor}:ActualTorque"):
            node = await axes.get_child([f"{vendor}:Axis_4", f"{di}:ParameterSet", variable])
            unit = await (await node.get_child("0:EngineeringUnits")).read_value()
            found[unit.Description.Text] = unit.UnitId.to_bytes(3).lstrip(b"\0").decode()
        assert found == {"deg": "DD", "deg/s": "E96", "N.m": "NU"}  # UNECE recommendation 20
        value = await node.read_data_value()
        at_ns = (value.SourceTimestamp - EPOCH) // timedelta(microseconds=1) * 1000
        index, off = divmod(at_ns - cell.start_ns, NS_PER_S // RATE_HZ)
        assert off == 0
        assert value.Value.Value == Cobot(5).sample(index)["j4_torque"]


async def test_a_fault_can_be_injected_and_repaired_while_it_runs(cell: CobotCell) -> None:
    async with Client(cell.url) as client:
        vendor = await client.get_namespace_index(VENDOR_URI)
        node = client.get_node(f"ns={vendor};s=Axis_2.ActualPosition")
        cell.inject(Fault("stuck-sensor", "2"))
        assert cell.cobot.faults[0].start_s <= cell.elapsed_s + 0.1
        await until(lambda: _still(node))
        cell.repair()
        await until(lambda: _moves(node))


async def test_truth_is_the_plants_at_the_times_of_samples(cell: CobotCell) -> None:
    at_ns = cell.start_ns + 500 * NS_PER_S // RATE_HZ
    assert cell.truth(at_ns) == {**Cobot(5).sample(500), "faulty_joint": 0}
    assert cell.truth(at_ns + 1) == {}
    assert cell.truth(cell.start_ns - NS_PER_S // RATE_HZ) == {}
    cell.inject("friction:3@5-30x2")
    cell.inject("stuck-sensor:2@5-30")
    truth = cell.truth(at_ns)
    assert truth["faulty_joint"] in (2, 3)
    assert truth["j3_torque"] == Cobot(5, [Fault("friction", "3", 5, 30, 2)]).sample(500)["j3_torque"]
    assert truth["j2_position"] == Cobot(5).sample(500)["j2_position"]  # it moves; its sensor does not
    with pytest.raises(ValueError, match="rust"):
        cell.inject("rust:1")


async def _still(node: object) -> bool:
    return len(await _positions(node)) == 1


async def _moves(node: object) -> bool:
    return len(await _positions(node)) > 1


async def _positions(node: object) -> set[float]:
    found = set()
    for _ in range(4):
        found.add(await node.read_value())  # type: ignore[attr-defined]
        await asyncio.sleep(0.03)
    return found


async def test_an_unknown_message_is_not_available_again(cell: CobotCell) -> None:
    async with Client(cell.url) as client:
        subscription = await client.create_subscription(50)
        session = client.uaclient.session
        with pytest.raises(ua.uaerrors.BadMessageNotAvailable):
            await session.republish(subscription.subscription_id, 4_000)
        with pytest.raises(ua.uaerrors.BadSubscriptionIdInvalid):
            await session.republish(999_999, 1)


async def test_it_ends_cleanly_under_a_client_that_went_without_a_word() -> None:
    before = asyncio.all_tasks()
    async with CobotCell(seed=5, clock=Clock(rate=4)) as cell:
        client = Client(cell.url)
        await client.connect()
        subscription = await client.create_subscription(50)
        vendor = await client.get_namespace_index(VENDOR_URI)
        node = client.get_node(f"ns={vendor};s=Axis_1.ActualSpeed")
        await subscription.subscribe_data_change(node, queuesize=10)
        client.uaclient.protocol.transport.abort()
        await until(lambda: _written(cell, 30))
        assert cell.skipped == 0
        assert cell.elapsed_s >= 29 / RATE_HZ  # four times real time, and never ahead of it
    await client.disconnect()
    async with asyncio.timeout(60):
        while left := {task for task in asyncio.all_tasks() - before if not task.done()}:
            await asyncio.wait(left, timeout=0.1)


async def _written(cell: CobotCell, samples: int) -> bool:
    await asyncio.sleep(0.02)
    return cell.written >= samples


async def test_a_port_in_use_is_one_clear_sentence(cell: CobotCell) -> None:
    with pytest.raises(TryAgain, match=f"127.0.0.1:{cell.port}.*in use"):
        async with CobotCell(port=cell.port):
            pass
