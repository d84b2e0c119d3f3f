"""The CAN adapter against the simulated car behind a serial CAN adapter, over a line that fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapters.base import (
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    Reading,
)
from adapters.can.adapter import Can
from adapters.can.options import CanOptions, Picking
from adapters.testing import AdapterContract, Rig, read, read_until, until
from agent.pipeline.validation import Validator
from simulators.devices.can.device import VehicleBus
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality
from wire.simulation_clock import SimulationClock

SEED = 5
START_NS = 1_800_000_000 * NS_PER_S
PERIOD_NS = NS_PER_S // 10
DBC = Path(__file__).parents[2] / "configs" / "dbc" / "edgebed-ev.dbc"
# field -> signal, and half a step of its raw value
SIGNALS = {
    "speed": ("Motion.Speed", 0.005),
    "acceleration": ("Motion.Acceleration", 0.0005),
    "yaw_rate": ("Motion.YawRate", 0.005),
    "pedal": ("Pedals.Accelerator", 0.005),
    "brake_pressure": ("Pedals.BrakePressure", 0.005),
    "pack_voltage": ("Pack.Voltage", 0.005),
    "pack_current": ("Pack.Current", 0.01),
    "slope": ("Road.Slope", 1e-6),
    "soc": ("Pack.StateOfCharge", 0.005),
    "cell_temperature": ("Cells.CellTemperature", 0.05),
    "cell_voltage": ("Cells.CellVoltage", 0.00005),
}


def fast(rate: float = 10.0) -> Clock:
    return Clock(rate, START_NS)


def options(channel: str | int, **more: Any) -> CanOptions:
    where = channel if isinstance(channel, str) else f"socket://127.0.0.1:{channel}"
    quick: dict[str, Any] = {
        "interface": "slcan",
        "channel": where,
        "dbc": DBC,
        "row_on": "Motion",
        "time": "Clock.UnixTime",
        "signals": {name: signal for name, (signal, _) in SIGNALS.items()},
        "timeout_s": 5.0,
        "data_age_s": 2.0,
    }
    return CanOptions(**(quick | more))


@contextlib.asynccontextmanager
async def driving(
    rate: float = 10.0, faults: Sequence[str] = (), **more: Any
) -> AsyncIterator[tuple[VehicleBus, Can]]:
    """A car and an adapter that listens to it; both use one clock."""
    clock = fast(rate)
    car = VehicleBus(seed=SEED, clock=clock, faults=faults)
    async with car, Can(options(car.url, **more), clock) as adapter:
        yield car, adapter


class TestCan(AdapterContract):
    adapter = Can
    good_options: ClassVar = {"interface": "slcan", "channel": "/dev/none", "dbc": DBC, "row_on": "Motion"}
    bad_options: ClassVar = [
        (good_options | {"interface": "smoke"}, "smoke"),
        (good_options | {"channel": "socket://x"}, "socket://host:port"),
        (good_options | {"channel": "socket://x:99999"}, "port"),
        (good_options | {"bitrate": 300_000}, "500000"),
        (good_options | {"bus": {"can_filters": "none"}}, "can_filters"),
        (good_options | {"dbc": Path("none.dbc")}, "none.dbc"),
        (good_options | {"row_on": "Nothing"}, "Motion"),
        (good_options | {"signals": {"a": "Motion"}}, "Message.Signal"),
        (good_options | {"signals": {"a": "Motion.Sped"}}, "edgebed-ev.dbc:38: message Motion has no"),
        (good_options | {"signals": {"Not A Field": "Motion.Speed"}}, "field name"),
        (good_options | {"signals": {"a": {"signal": "Motion.Speed", "unit": "V"}}}, "km/h"),
        (good_options | {"signals": {"a": {"signal": "Motion.Speed", "t": "str"}}}, "whole number"),
        (good_options | {"time": "Motion.Speed"}, "is not a time"),
    ]

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        clock = fast(20)
        async with VehicleBus(seed=SEED, clock=clock) as car, FaultProxy(car.port) as link:
            yield Rig(lambda: Can(options(link.port), clock), link)


async def test_rows_match_what_the_car_did() -> None:
    async with driving(rate=40) as (car, adapter):
        rows = await read(adapter, 400)
        assert adapter.counters == {}
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {PERIOD_NS}
    assert {row.quality for row in rows} == {Quality.GOOD}
    for row in rows:
        true = car.truth(row.at_ns)
        for name, (_, step) in SIGNALS.items():
            assert row.values[name] == pytest.approx(true[name], abs=step * 1.001), (name, row.at_ns)
    speeds = [float(row.values["speed"] or 0) for row in rows]
    assert max(speeds) > 20, "a car at rest proves nothing"


async def test_the_same_rows_at_any_rate_of_the_clock() -> None:
    async def recorded(pace: float) -> dict[int, Reading]:
        async with (
            SimulationClock(START_NS) as clock,
            VehicleBus(seed=SEED, clock=clock, faults=["not-available@3-4"]) as car,
        ):
            clock.pace = 1.0
            async with Can(options(car.url), clock) as adapter:
                clock.pace = pace
                rows = await read_until(adapter, lambda seen: seen[-1].at_ns > car.start_ns + 5 * NS_PER_S)
            assert car.start_ns == START_NS
        return {row.at_ns: row for row in rows}

    slow, quick = await recorded(2), await recorded(20)
    both = sorted(slow.keys() & quick.keys())
    assert len(both) > 15
    assert any(slow[at].quality for at in both), "no fault was in the interval"
    for at in both:
        assert slow[at].values == quick[at].values
        assert slow[at].quality == quick[at].quality


async def test_all_signals_units_and_limits_come_from_the_dbc() -> None:
    async with driving(signals={}) as (_, adapter):
        fields = adapter.streams()["signals"].fields
        row = (await read(adapter, 1))[0]
    assert row.values.keys() == fields.keys()
    assert fields["cell_temperature"].unit == "Cel"
    assert fields["acceleration"].unit == "m/s2"
    assert (fields["speed"].min, fields["speed"].max, fields["speed"].dec) == (0.0, 200.0, 2)
    assert adapter.streams()["signals"].rate_hz == 10.0  # GenMsgCycleTime of row_on
    assert "hydraulic" in fields["brake_pressure"].desc


async def test_units_of_the_config_and_names_of_values() -> None:
    signals: dict[str, str | Picking] = {
        "speed": Picking(signal="Motion.Speed", unit="m/s"),
        "kelvin": Picking(signal="Cells.CellTemperature", unit="K"),
        "gear": Picking(signal="Pedals.Gear", t="str"),
    }
    async with driving(rate=40, signals=signals) as (car, adapter):
        rows = await read_until(adapter, lambda seen: {"N", "D"} == {row.values["gear"] for row in seen})
        fields = adapter.streams()["signals"].fields
    assert fields["speed"].unit == "m/s"
    assert fields["speed"].max == pytest.approx(200 / 3.6)
    for row in rows:
        true = car.truth(row.at_ns)
        assert row.values["speed"] == pytest.approx(float(true["speed"] or 0) / 3.6, abs=0.002)
        assert row.values["kelvin"] == pytest.approx(float(true["cell_temperature"] or 0) + 273.15, abs=0.051)


async def test_missing_values_are_flagged_and_never_filled() -> None:
    async with driving() as (car, adapter):
        validator = Validator(adapter.streams(), adapter.clock, Counter())
        car.inject("not-available")
        row = await until(adapter, lambda row: row.values["pack_current"] is None)
        assert (row.values["soc"], row.quality) == (None, Quality.UNCERTAIN)
        assert isinstance(row.values["pack_voltage"], float)
        assert adapter.counters["not_available"] >= 2
        car.repair()
        car.inject("nan")
        row = await until(adapter, lambda row: row.values["slope"] is None)
        assert row.quality is Quality.NOT_FINITE
        car.repair()
        car.inject("out-of-range")
        row = await until(adapter, lambda row: row.values["speed"] == pytest.approx(300.0))
        flagged = validator.check(row)
        assert flagged is not None
        assert flagged.quality is Quality.OUT_OF_RANGE
        assert flagged.values["speed"] == pytest.approx(300.0)
        car.repair()
        car.inject("stuck:speed")
        await read(adapter, 3)
        stuck = {row.values["speed"] for row in await read(adapter, 20)}
        assert len(stuck) == 1
        car.repair()
        await until(adapter, lambda row: row.quality is Quality.GOOD)


async def test_a_stopped_clock_is_flagged_as_repeated_times() -> None:
    async with driving() as (car, adapter):
        validator = Validator(adapter.streams(), adapter.clock, Counter())
        car.inject("stuck-clock")
        flagged = [validator.check(row) for row in await read(adapter, 10)]
    assert flagged[-1] is not None
    assert flagged[-1].quality is Quality.TIME_REPEATED


async def test_a_clock_that_is_years_off_is_not_believed() -> None:
    device_time = Clock(10, 946_684_800 * NS_PER_S)  # 2000-01-01
    clock = fast()
    async with VehicleBus(seed=SEED, clock=device_time) as car, Can(options(car.url), clock) as adapter:
        rows = await read(adapter, 10)
        assert adapter.counters == {"clock_not_believed": 1}
    assert abs(rows[-1].at_ns - clock.now_ns()) < 60 * NS_PER_S
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {PERIOD_NS}


async def test_without_a_clock_on_the_bus_rows_are_stamped_on_receipt() -> None:
    async with driving(time="") as (_, adapter):
        rows = await read(adapter, 10)
    assert {row.quality for row in rows} == {Quality.GOOD}
    assert 0 <= (rows[0].at_ns - START_NS) < 10 * NS_PER_S
    assert all(b.at_ns > a.at_ns for a, b in pairwise(rows))


async def test_a_message_of_another_length_is_left_out_and_its_line_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with VehicleBus(seed=SEED, clock=(clock := fast(5)), faults=["wrong-dlc@1"]) as car:
        async with Can(options(car.url), clock) as adapter:
            row = await until(adapter, lambda row: row.values["soc"] is None)
            assert row.quality is Quality.UNCERTAIN
            assert isinstance(row.values["speed"], float)
            assert adapter.counters["wrong_length"] >= 10  # a second of them: max_age_s
            assert adapter.counters["stale"] >= 3
        assert caplog.text.count("edgebed-ev.dbc:28: Pack has 8 bytes") == 1
        with pytest.raises(ProtocolViolation, match=r"edgebed-ev\.dbc:28: Pack has 8 bytes, on .* it has 5"):
            async with Can(options(car.url, row_on="Pack", data_age_s=0.5), clock) as adapter:
                await read(adapter, 1)


async def test_the_error_for_another_bus_names_its_frames(tmp_path: Path) -> None:
    other = tmp_path / "other.dbc"
    other.write_text('VERSION ""\nBU_: A\nBO_ 801 Other: 8 A\n SG_ X : 0|8@1+ (1,0) [0|0] "" A\n')
    async with VehicleBus(seed=SEED, clock=(clock := fast())) as car:
        wrong = options(car.url, dbc=other, row_on="Other", time="", signals={}, timeout_s=0.6)
        with pytest.raises(
            ProtocolViolation, match=r"none that .*other\.dbc names: 0x100, 0x110, 0x120, 0x130"
        ):
            await Can(wrong, clock).open()
        car.inject("foreign")
        async with Can(options(car.url), clock) as adapter:
            assert await read(adapter, 10)
            assert adapter.counters == {}
        car.repair()
        car.inject("silent")
        with pytest.raises(DeviceStalled, match="is the vehicle on"):
            await Can(options(car.url, timeout_s=0.6), clock).open()


async def test_a_missing_message_that_makes_rows_is_named(tmp_path: Path) -> None:
    more = tmp_path / "more.dbc"
    text = DBC.read_text().replace('CM_ "The bus', 'BO_ 801 Never: 8 VCU\n\nCM_ "The bus', 1)
    more.write_text(text)
    async with VehicleBus(seed=SEED, clock=(clock := fast())) as car:
        adapter = Can(options(car.url, dbc=more, row_on="Never", data_age_s=0.5), clock)
        with pytest.raises(
            DeviceStalled, match="sends Cells, Clock, Motion, Pack, Pedals, Road, but no Never"
        ):
            async with adapter:
                await read(adapter, 1)


async def test_bytes_that_are_not_slcan_end_the_adapter_and_a_new_one_reads() -> None:
    async with VehicleBus(seed=SEED, clock=(clock := fast())) as car:
        for _ in range(3):
            async with Can(options(car.url), clock) as adapter:
                assert await read(adapter, 5)
                car.inject("garbage")
                with pytest.raises(ProtocolViolation, match="not a CAN frame"):
                    await read(adapter, 100_000)
            car.repair()


async def test_a_new_adapter_reads_after_every_kind_of_loss() -> None:
    clock = fast()
    async with VehicleBus(seed=SEED, clock=clock) as car, FaultProxy(car.port) as link:
        disturbances: list[Callable[[], None]] = [
            lambda: link.cut(reset=True),
            lambda: link.cut(reset=False),
            link.black_hole,
        ]
        for disturb in disturbances * 2:
            async with Can(options(link.port), clock) as adapter:
                assert await read(adapter, 5)
                disturb()
                with pytest.raises(AdapterError):
                    await read(adapter, 100_000)
            link.heal()


async def test_a_pseudo_terminal_and_its_cable() -> None:
    async with VehicleBus(seed=SEED, clock=(clock := fast()), terminal=True) as car:
        async with Can(options(car.url), clock) as adapter:
            rows = await read(adapter, 20)
            assert adapter.counters == {}
            assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {PERIOD_NS}
            car.unplug()
            with pytest.raises(DeviceUnreachable):
                await read(adapter, 100_000)
        with pytest.raises(DeviceUnreachable):
            await Can(options(car.url), clock).open()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20, b"t" * 4_000_000, bytes(range(256)) * 50, b""],
    ids=["http", "endless", "noise", "eof"],
)
async def test_any_other_server_is_one_error(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        with contextlib.suppress(OSError):  # the adapter has seen enough
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        adapter = Can(options(server.sockets[0].getsockname()[1]), Clock())
        async with asyncio.timeout(60):
            with pytest.raises(AdapterError) as caught:
                await adapter.open()
    assert not isinstance(caught.value, OptionsError)


async def test_when_the_driver_began_what_was_asked_for() -> None:
    second = NS_PER_S
    async with VehicleBus(seed=102, clock=fast(), faults=["brake@85-88"]) as car:
        start = car.start_ns
        began = car.began("brake", start + 85 * second, start + 250 * second)
        assert began is not None
        assert car.truth(began)["label"] == "brake"
        assert car.truth(began - second // 10)["label"] != "brake"
        assert began > start + 100 * second, "it waits at a light"
        assert car.began("brake", start + 85 * second, start + 100 * second) is None
        assert car.began("silent", start + 7 * second, start + 9 * second) == start + 7 * second
