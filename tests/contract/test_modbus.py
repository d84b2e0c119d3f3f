"""The Modbus adapter against the simulated sensor and cobot: TCP, RTU over TCP, RTU on a pseudo terminal."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import serial

from adapters.base import (
    AdapterError,
    DeviceStalled,
    DeviceUnreachable,
    OptionsError,
    ProtocolViolation,
    Reading,
)
from adapters.modbus.adapter import Modbus
from adapters.modbus.options import ModbusOptions
from adapters.testing import AdapterContract, Rig, read, until
from simulators.devices.modbus.device import ModbusCobot, ParticulateSensor
from simulators.devices.modbus.server import LineKind
from simulators.faults import FaultProxy
from simulators.plants.cobot import SIGNALS
from tests import polling
from wire.clock import NS_PER_S, Clock
from wire.messages import Quality
from wire.simulation_clock import SimulationClock

MAPS = Path(__file__).parents[2] / "configs/maps"
SENSOR, COBOT = MAPS / "particulate-modbus.yaml", MAPS / "cobot-modbus.yaml"
SEED = 7
START_S = 1_800_000_000
RATE = 20.0  # how many times faster than real time the devices run
PACE = 100.0  # the same, at most, on a clock that waits for every task


def options(url: str, map_file: Path = SENSOR, **more: Any) -> ModbusOptions:
    quick: dict[str, Any] = {"timeout_s": 1.0, "retries": 1}
    return ModbusOptions(url=url, map=map_file, **(quick | more))


class TestModbusTcp(AdapterContract):
    adapter = Modbus
    good_options: ClassVar = {"url": "tcp://sensor.example", "registers": {"a": {"register": 0}}}
    bad_options: ClassVar = [
        ({**good_options, "url": "http://x"}, "tcp://host:502"),
        ({**good_options, "url": "tcp://x:99999"}, "port"),
        ({**good_options, "url": "tcp://x:0"}, "port"),
        ({**good_options, "url": "tcp://x/behind"}, "after its port"),
        ({**good_options, "url": "rtu+tcp://x"}, "needs a port"),
        ({**good_options, "url": "rtu://dev/ttyS0"}, "three slashes"),
        ({**good_options, "url": "rtu:///dev/ttyS0?baud=fast"}, "baud"),
        ({**good_options, "url": "rtu:///dev/ttyS0?speed=1"}, "'speed'"),
        ({**good_options, "url": "rtu:///dev/ttyS0?parity=X"}, "parity"),
        ({**good_options, "url": "tcp://me:geheim@x"}, "Modbus has neither"),
        ({**good_options, "url": "rtu:///dev/ttyS0", "unit_id": 0}, "1 to 247"),
        ({**good_options, "period_s": 10, "data_age_s": 5}, "data_age_s"),
        ({"url": "tcp://x"}, "no registers"),
        ({**good_options, "map": SENSOR}, "`registers` belongs into the map"),
        ({"url": "tcp://x", "map": SENSOR, "gap": 2}, "`gap` belongs into the map"),
        ({"url": "tcp://x", "map": Path("no/such.yaml")}, "such.yaml"),
        ({"url": "tcp://x", "registers": {"Not A Field": {"register": 0}}}, "field name"),
        ({"url": "tcp://x", "registers": {"a": {"register": 65_535, "type": "f32"}}}, "outside"),
        ({"url": "tcp://x", "registers": {"a": {"register": 0, "kind": "coil", "type": "f32"}}}, "one bit"),
        ({"url": "tcp://x", "registers": {"a": {"register": 0, "scale": 0}}}, "scale of 0"),
    ]
    secrets = ("geheim",)

    @pytest.mark.parametrize("reset", [True, False], ids=["rst", "fin"])
    async def test_a_cut_is_reported(self, rig: Rig, reset: bool) -> None:
        """After a cut between two requests the next request opens a connection, and no row is lost."""
        link = rig.bad_line()
        adapter = rig.make()
        async with adapter:
            for _ in range(3):
                await read(adapter, 2)
                link.cut(reset=reset)
            await read(adapter, 2)
            assert adapter.counters["reconnects"] == 3
            link.cut(reset=reset)
            link.refuse()
            with pytest.raises(DeviceUnreachable, match="nothing listens there"):
                await read(adapter, 100)

    line: ClassVar[LineKind] = "tcp"

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        clock = Clock(RATE)
        async with (
            ParticulateSensor(seed=SEED, clock=clock, line=self.line) as device,
            FaultProxy(device.port) as link,
        ):
            url = f"{self.line}://127.0.0.1:{link.port}"
            patience = {} if self.line == "tcp" else {"timeout_s": 0.5, "retries": 2}
            yield Rig(lambda: Modbus(options(url, **patience), clock), link)


class TestModbusRtuOverTcp(TestModbusTcp):
    line: ClassVar[LineKind] = "rtu+tcp"


class TestModbusOnASerialPort(AdapterContract):
    """The contract suite on a serial port; tests of bad serial lines follow below."""

    adapter = Modbus
    good_options: ClassVar = {"url": "rtu:///dev/ttyUSB0?baud=19200&parity=E", "map": SENSOR}
    bad_options: ClassVar = [({"url": "rtu:///", "map": SENSOR}, "rtu:///dev/ttyUSB0")]

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        clock = Clock(RATE)
        async with ParticulateSensor(seed=SEED, clock=clock, line="rtu") as device:
            yield Rig(lambda: Modbus(options(device.url), clock))


@pytest.fixture
async def clock() -> AsyncIterator[SimulationClock]:
    """A clock that stops, then runs as fast as all tasks can follow: a busy machine misses nothing."""
    async with SimulationClock(START_S * NS_PER_S) as clock:
        yield clock


# --- what is read is what was there


@pytest.mark.parametrize("line", ["tcp", "rtu"])
async def test_every_sample_arrives_once_and_as_the_sensor_took_it(
    line: LineKind, clock: SimulationClock
) -> None:
    async with (
        ParticulateSensor(seed=SEED, clock=clock, line=line) as device,
        Modbus(options(device.url, timeout_s=1.0), clock) as adapter,
    ):
        clock.pace = PACE
        rows = await read(adapter, 60)
        assert adapter.counters == {}
        truths = [device.truth(row.at_ns) for row in rows]
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S}
    assert {row.quality for row in rows} == {Quality.GOOD}
    for name, step in [
        ("pm1", 0.0),
        ("pm2_5", 0.0),
        ("pm10", 0.0),
        ("temperature", 0.01),
        ("humidity", 0.01),
    ]:
        shown = np.array([row.values[name] for row in rows], dtype=float)
        taken = np.array([truth[name] for truth in truths], dtype=float)
        np.testing.assert_allclose(shown, taken, rtol=1e-7, atol=step / 2 + 1e-9)
    warm = [bool(row.values["warming_up"]) for row in rows]
    assert warm == sorted(warm, reverse=True)
    assert {True, False} == set(warm)


async def test_a_cobots_joints_in_tenths_of_a_degree(clock: SimulationClock) -> None:
    async with (
        ModbusCobot(seed=SEED, clock=clock, faults=["friction:3@2"]) as device,
        Modbus(options(device.url, COBOT, period_s=0.1, timeout_s=1.0), clock) as adapter,
    ):
        clock.pace = PACE
        rows = await read(adapter, 40)
        assert adapter.counters == {}
        truths = [device.truth(row.at_ns) for row in rows]
    assert len({b.at_ns - a.at_ns for a, b in pairwise(rows)}) == 1
    for row, truth in zip(rows, truths, strict=True):
        for signal in SIGNALS:
            shown, was = float(row.values[signal] or 0), float(truth[signal] or 0)
            assert abs(shown - was) <= (0.5 if signal.endswith("torque") else 0.05) + 1e-9, signal
        assert row.values["robot_state"] == 2
        assert row.values["servo_on"] is True
        assert row.values["emergency_stop"] is False
    assert {truth["faulty_joint"] for truth in truths} == {0, 3}


async def test_each_sample_is_one_row_however_often_the_sensor_is_polled(clock: SimulationClock) -> None:
    async with (
        ParticulateSensor(seed=SEED, clock=clock) as device,
        Modbus(options(device.url, polls=4), clock) as adapter,
    ):
        clock.pace = PACE
        rows = await read(adapter, 20)
        assert device.requests > 60
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S}


# --- another device, or another map


@pytest.mark.parametrize(
    ("map_file", "said"),
    [(SENSOR, "product 'Kettle'"), (COBOT, "holding 256 holds 1")],
    ids=["43/14", "register"],
)
async def test_another_device_is_refused(map_file: Path, said: str) -> None:
    kind = ParticulateSensor if map_file == SENSOR else ModbusCobot
    async with kind(faults=["other-device"]) as device:
        with pytest.raises(ProtocolViolation, match=said) as caught:
            await Modbus(options(device.url, map_file), Clock()).open()
        assert re.search(rf"{re.escape(str(map_file))}:\d+:1\b", str(caught.value))
        device.repair()
        async with Modbus(options(device.url, map_file), Clock()):
            pass


async def test_a_device_that_does_not_report_its_identity() -> None:
    async with ModbusCobot() as device:
        adapter = Modbus(inline(device.url, {"a": {"register": 270}}, identity={"vendor": "Doosan"}), Clock())
        with pytest.raises(ProtocolViolation, match=r"illegal function on function 43/14.*option identity"):
            await adapter.open()


async def test_registers_that_the_device_lacks_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "맵.yaml"
    path.write_text(
        "registers:\n  good: {register: 270}\n  gone:\n    register: 276\n  far: {register: 40271}\n", "utf-8"
    )
    async with ModbusCobot() as device:
        with pytest.raises(ProtocolViolation) as caught:
            await Modbus(options(device.url, path), Clock()).open()
        said = str(caught.value)
        assert f"gone (holding 276, {path}:3:3): exception 2, illegal data address" in said
        assert "good" not in said
        path.write_text("registers:\n  far: {register: 40271}\n", "utf-8")
        with pytest.raises(
            ProtocolViolation, match=r"far \(holding 40271.*means register 271 with `base: 1`"
        ):
            await Modbus(options(device.url, path), Clock()).open()


async def test_registers_that_are_refused_only_together() -> None:
    async with ModbusCobot() as device:
        registers = {"first": {"register": 275}, "second": {"register": 280}}
        with pytest.raises(ProtocolViolation, match=r"refuses holding 275 to 280 in one request.*`gap` to 0"):
            await Modbus(inline(device.url, registers, gap=10), Clock()).open()
        async with Modbus(inline(device.url, registers), Clock()):
            pass


def inline(url: str, registers: dict[str, Any], **more: Any) -> ModbusOptions:
    import msgspec

    raw = {"url": url, "registers": registers, "timeout_s": 0.25, "retries": 1, **more}
    return msgspec.convert(raw, ModbusOptions)


# --- what a device says against itself


async def test_odd_values_pass_with_their_quality(clock: SimulationClock) -> None:
    async with (
        ParticulateSensor(seed=SEED, clock=clock) as device,
        Modbus(options(device.url), clock) as adapter,
    ):
        clock.pace = PACE
        device.inject("nan")
        row = await until(adapter, lambda row: math.isnan(float(row.values["pm2_5"] or 0)))
        assert row.values["pm1"] is not None
        device.repair()
        device.inject("no-reading")
        row = await until(adapter, lambda row: row.quality is Quality.BAD)
        assert row.values["temperature"] is None
        assert row.values["humidity"] is not None
        device.repair()
        await until(adapter, lambda row: row.quality is Quality.GOOD)
        device.inject("clock-behind@0x3600")
        await until(adapter, lambda row: row.quality is Quality.TIME_BACKWARD)
        device.repair()
        device.inject("lost-samples@0x9")
        await until(adapter, lambda row: "missed_samples" in adapter.counters)
        assert adapter.counters["missed_samples"] == 9
        device.repair()
        await until(adapter, lambda row: "counter_went_back" in adapter.counters)


async def test_a_clock_that_is_years_off_is_not_believed(clock: SimulationClock) -> None:
    async with (
        ParticulateSensor(seed=SEED, clock=clock, faults=["clock-behind@0x700000000"]) as device,
        Modbus(options(device.url), clock) as adapter,
    ):
        clock.pace = PACE
        rows = await read(adapter, 5)
        assert adapter.counters == {"clock_not_believed": 1}
        assert abs(rows[-1].at_ns - clock.now_ns()) < 60 * NS_PER_S
        assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S}
        device.repair()  # its clock is set
        row = await until(adapter, lambda row: not (row.at_ns - device.start_ns) % NS_PER_S)
        assert device.truth(row.at_ns)


async def test_a_busy_device_is_asked_again_and_a_stuck_one_has_stalled() -> None:
    clock = Clock(RATE)
    async with ParticulateSensor(seed=SEED, clock=clock) as device:
        async with Modbus(options(device.url), clock) as adapter:
            await read(adapter, 2)
            device.inject("refuse@0x6")
            reading = asyncio.create_task(read(adapter, 2))
            await polling.until(lambda: "exception_6" in adapter.counters)
            device.repair()
            assert len(await reading) == 2
            device.inject("refuse@0x4")
            with pytest.raises(DeviceStalled, match="device failure: no new sample"):
                await read(adapter, 100_000)
            with pytest.raises(DeviceUnreachable, match="is not ready"):
                await Modbus(options(device.url), clock).open()
        device.repair()
        async with Modbus(options(device.url), clock) as adapter:
            await read(adapter, 2)
            device.inject("stuck-counter")
            with pytest.raises(DeviceStalled, match="its sample counter stays at"):
                await read(adapter, 100_000)


@pytest.mark.parametrize("line", ["tcp", "rtu+tcp"])
@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("silent", DeviceStalled, "no answer as unit 1 in 3 tries"),
        ("other-unit@0x7", ProtocolViolation, "answers as unit 7"),
        ("short@0x1", ProtocolViolation, "another function or number"),
        ("garbage", AdapterError, "not Modbus TCP|no answer"),
        ("refuse@0x11", DeviceUnreachable, "unit 1: exception 11"),
        ("refuse@0x99", ProtocolViolation, "not a code of Modbus"),
    ],
)
async def test_the_error_that_ends_a_connection_names_the_cause(
    line: LineKind, fault: str, error: type[AdapterError], said: str
) -> None:
    clock = Clock(RATE)
    async with ParticulateSensor(seed=SEED, clock=clock, line=line) as device:
        async with Modbus(options(device.url, timeout_s=0.5, retries=2), clock) as adapter:
            await read(adapter, 1)
            device.inject(fault)
            with pytest.raises(error, match=said):
                await read(adapter, 100_000)
            device.repair()
        async with Modbus(options(device.url, timeout_s=0.5, retries=2), clock) as adapter:
            assert await read(adapter, 1)


async def test_an_absent_unit_is_named() -> None:
    async with ParticulateSensor() as device:
        with pytest.raises(DeviceStalled, match="no answer as unit 9"):
            await Modbus(options(device.url, unit_id=9), Clock()).open()


# --- RTU knows no transaction: a late answer must not be taken for another one


@pytest.mark.parametrize("line", ["tcp", "rtu"])
async def test_a_late_answer_is_never_taken_for_the_next(line: LineKind) -> None:
    """The requests have answers of the same form: a late one would match the next request."""
    version = {"major": 256, "minor": 257, "patch": 258}
    registers = {name: {"register": at} for name, at in version.items()}
    for _ in range(3):  # of a machine that pauses for longer than an answer may take, one run may be wrong
        rows = await _rows_beside_late_answers(line, registers)
        if all(row.values == {"major": 2, "minor": 9, "patch": 1} for row in rows):
            return
    pytest.fail(f"late answers are taken for others: {[row.values for row in rows]}")


async def _rows_beside_late_answers(line: LineKind, registers: dict[str, Any]) -> list[Reading]:
    async with ModbusCobot(seed=SEED, line=line) as device:
        wide = {"max_registers": 1, "period_s": 0.1, "timeout_s": 0.6, "retries": 10, "data_age_s": 60}
        async with Modbus(inline(device.url, registers, **wide), Clock()) as adapter:
            await read(adapter, 2)
            device.inject("late@0x0.9")  # each first answer comes after the request was repeated
            rows = []
            while adapter.counters["retries"] < 3:  # a busy machine takes some late answers in time
                rows += await read(adapter, 1, within_s=60)
            device.repair()
            rows += await read(adapter, 3, within_s=60)
    return rows


# --- a serial port


async def test_a_pulled_plug_is_reported_and_a_new_port_read() -> None:
    clock = Clock(RATE)
    device = ParticulateSensor(seed=SEED, clock=clock, line="rtu")
    async with device, Modbus(options(device.url), clock) as adapter:
        url = device.url
        await read(adapter, 2)
        await device.unplug()
        with pytest.raises(DeviceUnreachable, match="ended the connection"):
            await read(adapter, 100_000)
        with pytest.raises(DeviceUnreachable, match=r"is it plugged in|not a serial port"):
            await Modbus(options(url), clock).open()
    async with (
        ParticulateSensor(seed=SEED, clock=clock, line="rtu") as device,
        Modbus(options(device.url), clock) as adapter,
    ):
        assert await read(adapter, 2)


async def test_noise_on_a_serial_line_only_costs_answers() -> None:
    clock = Clock(RATE)
    async with (
        ParticulateSensor(seed=SEED, clock=clock, line="rtu") as device,
        Modbus(options(device.url, retries=3), clock) as adapter,
    ):
        rng = np.random.default_rng(SEED)
        rows = []
        for _ in range(6):
            device.babble(rng.bytes(40))
            rows += await read(adapter, 1)
        rows += await read(adapter, 3)
        truths = [device.truth(row.at_ns) for row in rows]
    for row, truth in zip(rows, truths, strict=True):
        assert row.values["pm10"] == pytest.approx(truth["pm10"], rel=1e-6)


async def test_a_port_in_use_and_a_file_that_is_not_a_port(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no port")
    async with ParticulateSensor(line="rtu") as device:
        with (
            serial.Serial(device.url.removeprefix("rtu://").partition("?")[0], exclusive=True),
            pytest.raises(DeviceUnreachable, match="another program uses it"),
        ):
            await Modbus(options(device.url), Clock()).open()
        for path in (tmp_path / "file", tmp_path, tmp_path / "none"):
            with pytest.raises(
                DeviceUnreachable, match=r"not a serial port|none does not exist: is it plugged in"
            ):
                await Modbus(options(f"rtu://{path}"), Clock()).open()


async def test_a_map_with_mistakes_is_refused_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("registers:\n  a: {register: 1, typ: u16}\n  B: {register: 70000}\n")
    with pytest.raises(OptionsError) as caught:
        Modbus(options("tcp://x", path), Clock())
    assert f"{path}:2:20: registers.a.typ: unknown key; did you mean 'type'?" in str(caught.value)
    assert f"{path}:3:" in str(caught.value)


async def test_a_refused_connection_is_told_from_one_without_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(DeviceUnreachable, match="nothing listens there") as refused:
        await Modbus(options(url), Clock()).open()
    assert refused.value.reason.code == "connection-refused"
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # a listener with no room ignores who comes
            caller = opened.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        url = f"tcp://127.0.0.1:{full.getsockname()[1]}"
        with pytest.raises(DeviceUnreachable, match="accepts no connection within 1 s") as unanswered:
            await Modbus(options(url), Clock()).open()
    assert unanswered.value.reason.code == "no-answer"
