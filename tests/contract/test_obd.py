"""The OBD-II adapter against the control unit of the simulated car, over a line that fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from adapters.base import AdapterError, DeviceStalled, ProtocolViolation
from adapters.obd.adapter import Obd
from adapters.obd.options import ObdOptions
from adapters.testing import AdapterContract, Rig, read
from simulators.devices.can import ecu
from simulators.devices.can.device import VehicleBus
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality

SEED = 5
VIN = "EDGEBED0V00000005"
START_NS = 1_800_000_000 * NS_PER_S
# name -> half of what its raw value steps by, and what truncation takes
PIDS = {
    "vehicle_speed": 0.5,
    "engine_speed": 0.125,
    "accelerator_d": 0.2,
    "hybrid_battery": 0.2,
    "odometer": 0.1,
    "control_voltage": 0.001,
    "coolant_temperature": 0.5,
}


def options(channel: str | int, **more: Any) -> ObdOptions:
    where = channel if isinstance(channel, str) else f"socket://127.0.0.1:{channel}"
    quick: dict[str, Any] = {
        "interface": "slcan",
        "channel": where,
        "pids": list(PIDS),
        "timeout_s": 5.0,
        "data_age_s": 2.0,
        "answer_s": 1.5,
    }
    return ObdOptions(**(quick | more))


@contextlib.asynccontextmanager
async def asking(
    rate: float = 20.0, faults: Sequence[str] = (), **more: Any
) -> AsyncIterator[tuple[VehicleBus, Obd]]:
    """A car and an adapter that asks it, both by one clock."""
    clock = Clock(rate, START_NS)
    car = VehicleBus(seed=SEED, clock=clock, faults=faults)
    async with car, Obd(options(car.url, **more), clock) as adapter:
        yield car, adapter


class TestObd(AdapterContract):
    adapter = Obd
    good_options: ClassVar = {"interface": "slcan", "channel": "/dev/none", "pids": ["vehicle_speed"]}
    bad_options: ClassVar = [
        (good_options | {"interface": "smoke"}, "smoke"),
        (good_options | {"channel": "tcp://x:1"}, "socket://host:port"),
        (good_options | {"pids": []}, "pids"),
        (good_options | {"pids": ["warp_speed"]}, "vehicle_speed"),
        (good_options | {"pids": ["odometer", "odometer"]}, "once"),
        (good_options | {"vin": VIN[:16]}, "vin is neither"),
        (good_options | {"vin": "sha256:12"}, "vin is neither"),
        (good_options | {"answer_id": 0x7DF}, "0x7E8"),
        (good_options | {"extended": True}, "0x18DAF1"),
        (good_options | {"period_s": 0}, "period_s"),
    ]
    secrets = (VIN, VIN[:16])

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        clock = Clock(20, START_NS)
        async with VehicleBus(seed=SEED, clock=clock) as car, FaultProxy(car.port) as link:
            yield Rig(lambda: Obd(options(link.port, vin=VIN), clock), link)


async def test_rows_match_what_the_car_measured() -> None:
    async with asking(rate=10) as (car, adapter):
        seen = [row for row in await read(adapter, 25) if row.at_ns > car.start_ns]
        assert set(adapter.counters) <= {"missed_polls", "slow_polls"}  # a busy machine at 10 times its speed
    assert all(b.at_ns > a.at_ns for a, b in pairwise(seen))
    # rows that were answered within their second; on a fast machine all are
    rows = [row for row in seen if row.at_ns % NS_PER_S == NS_PER_S // 2]
    assert len(rows) >= len(seen) - adapter.counters.get("slow_polls", 0) > 0
    for row in rows:
        assert row.quality is Quality.GOOD
        true = car.truth(row.at_ns)
        for name, step in PIDS.items():
            assert row.values[name] == pytest.approx(true[name], abs=step * 1.001), (name, row.at_ns)
    assert max(float(row.values["vehicle_speed"] or 0) for row in seen) > 10


class SetClock(Clock):
    """A clock that a time service sets."""

    set_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.set_ns


@pytest.mark.parametrize("hours", [-1, 1, 400_000])
async def test_a_clock_that_is_set_delays_no_poll(hours: int) -> None:
    clock = SetClock(1, START_NS)
    car = VehicleBus(seed=SEED, clock=Clock(1, START_NS))
    async with car, Obd(options(car.url, period_s=0.2), clock) as adapter:
        rows = adapter.readings()
        async with asyncio.timeout(60):
            for _ in range(3):
                await anext(rows)
            clock.set_ns = hours * 3_600 * NS_PER_S
            for _ in range(3):
                row = await anext(rows)
        await rows.aclose()
        assert abs(row.at_ns - clock.now_ns()) < 600 * NS_PER_S
        assert adapter.counters["missed_polls"] < 300  # a busy machine


async def test_the_vin_is_checked_and_not_sent_by_default() -> None:
    hashed = hashlib.sha256(VIN.encode()).hexdigest()
    async with asking(vin=f"sha256:{hashed.upper()}") as (car, adapter):
        assert "vin" not in adapter.streams()["obd"].fields
        assert "vin" not in (await read(adapter, 1))[0].values
        async with Obd(options(car.url, vin=VIN, send_vin="hash"), car.clock) as other:
            assert (await read(other, 1))[0].values["vin"] == hashed[:16]
        async with Obd(options(car.url, send_vin="plain"), car.clock) as other:
            assert (await read(other, 1))[0].values["vin"] == VIN
        for wrong in (VIN.replace("5", "6"), "sha256:" + "0" * 64):
            with pytest.raises(ProtocolViolation, match="another vehicle") as caught:
                await Obd(options(car.url, vin=wrong), car.clock).open()
            assert VIN not in str(caught.value)
            assert wrong not in str(caught.value)


async def test_measurements_that_the_unit_lacks_are_named() -> None:
    async with asking() as (car, _):
        with pytest.raises(ProtocolViolation, match=r"does not offer fuel_level; it offers .*odometer"):
            await Obd(options(car.url, pids=["fuel_level"]), car.clock).open()
        other = options(car.url, answer_id=0x7E9)
        with pytest.raises(DeviceStalled, match=r"0x7E9 does not report which.*answers come from 0x7E8: set"):
            await Obd(other, car.clock).open()


async def test_a_measurement_that_the_unit_lacks_costs_only_itself() -> None:
    async with asking(pids=["fuel_level", "vehicle_speed"]) as (_, adapter):
        row = (await read(adapter, 1))[0]
        assert row.values["fuel_level"] is None
        assert row.values["vehicle_speed"] is not None
        assert row.quality is Quality.UNCERTAIN
        assert list(adapter.unread) == ["fuel_level"]
        assert "does not offer fuel_level; it offers" in adapter.unread["fuel_level"].what
        assert adapter.counters["no_answer"] == 0, "it is not asked for"


async def test_physical_requests_go_to_one_unit() -> None:
    async with asking(request_id=0x7E0, pids=["vehicle_speed"], vin=VIN) as (_, adapter):
        assert await read(adapter, 2)


async def test_refusals_are_named_and_pending_answers_awaited(caplog: pytest.LogCaptureFixture) -> None:
    async with asking(rate=5, pids=["vehicle_speed", "odometer"]) as (car, adapter):
        assert await read(adapter, 1)
        car.inject("ecu-refuses")
        with pytest.raises(TimeoutError):  # no row without a value
            await read(adapter, 1, within_s=3.0)
        assert adapter.counters["refused_conditionsNotCorrect"] >= 2
        assert "odometer refused: conditionsNotCorrect" in adapter.unread["odometer"].what
        car.repair()
        assert (await read(adapter, 1))[0].quality is Quality.GOOD
        assert caplog.text.count("odometer refused: conditionsNotCorrect") == 1
        assert not adapter.unread
        car.inject("ecu-pending")
        assert (await read(adapter, 2))[-1].quality is Quality.GOOD
    with pytest.raises(
        ProtocolViolation, match="refuses to report which measurements it offers: conditionsNotCorrect"
    ):
        async with asking(faults=["ecu-refuses"]):
            pass


async def test_a_silent_unit_on_a_busy_bus_is_a_stall() -> None:
    async with asking() as (car, adapter):
        assert await read(adapter, 1)
        car.inject("ecu-silent")
        with pytest.raises(DeviceStalled, match=r"has not answered for 2 s"):
            await read(adapter, 100_000)
        assert adapter.counters["no_answer"] >= 1


async def test_a_long_answer_that_breaks_off_is_asked_again_and_reported() -> None:
    async with asking(pids=["vehicle_speed"], vin=VIN) as (car, adapter):
        car.inject("ecu-garbled")
        assert await read(adapter, 1)  # answers of one frame are intact
        with pytest.raises(DeviceStalled, match="consecutive frame 1 should be"):
            await Obd(options(car.url, vin=VIN), car.clock).open()


async def test_a_new_adapter_reads_after_every_kind_of_loss() -> None:
    clock = Clock(20, START_NS)
    async with VehicleBus(seed=SEED, clock=clock) as car, FaultProxy(car.port) as link:
        disturbances: list[Callable[[], None]] = [
            lambda: link.cut(reset=True),
            lambda: link.cut(reset=False),
            link.black_hole,
        ]
        for disturb in disturbances * 2:
            async with Obd(options(link.port, pids=["odometer"]), clock) as adapter:
                assert await read(adapter, 2)
                disturb()
                with pytest.raises(AdapterError):
                    await read(adapter, 100_000)
            link.heal()


async def test_two_testers_on_one_bus_do_not_mix_up_their_answers() -> None:
    async with (
        asking(pids=["vehicle_speed"]) as (car, adapter),
        Obd(options(car.url, pids=["odometer"]), car.clock) as other,
        asyncio.TaskGroup() as group,
    ):
        speeds = group.create_task(read(adapter, 10))
        ways = group.create_task(read(other, 10))
    for row in speeds.result():
        assert float(row.values["vehicle_speed"] or 0) < 130
    for row in ways.result():
        assert row.values["odometer"] is None or 12_000 < float(row.values["odometer"]) < 13_100  # type: ignore[arg-type]


async def test_a_unit_that_does_not_list_all_its_measurements_is_asked_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says that there are more than the first 32, but does not list them."""
    listed = ecu._data
    monkeypatch.setattr(ecu, "_data", lambda pid, values: None if pid == 0x20 else listed(pid, values))
    async with asking(pids=["vehicle_speed", "odometer", "fuel_level"]) as (_, adapter):
        row = (await read(adapter, 1))[0]
        assert row.values["vehicle_speed"] is not None
        assert row.values["odometer"] is not None
        assert row.values["fuel_level"] is None
        assert "fuel_level" in adapter.unread["fuel_level"].what
