"""The adapter `serial` reads the tank: the contract of adapters, and every value against the truth."""

from typing import ClassVar

import pytest
from tank import TankSensor

from adapters.base import DeviceStalled
from adapters.serial import SerialLines, SerialOptions, TextField
from adapters.testing import AdapterContract, Rig, read
from simulators.faults import FaultProxy
from simulators.simulator import Simulator
from wire.clock import Clock


def adapter_for(url, clock):
    fields = {"level": TextField(at=2, unit="mm")}
    options = SerialOptions(url=url, format="csv", fields=fields, time_at=1, time_unit="ms", silence_s=1)
    return SerialLines(options, clock)


class TestTank(AdapterContract):
    adapter = SerialLines
    good_options: ClassVar = {"url": "tcp://x:1", "format": "csv", "fields": {"level": {"at": 2}}}
    bad_options: ClassVar = [({"url": "http://x", "format": "csv", "fields": {"level": {"at": 2}}}, "tcp://")]

    @pytest.fixture
    async def rig(self):
        async with TankSensor(seed=3, clock=Clock(20)) as sensor, FaultProxy(sensor.port) as link:
            yield Rig(lambda: adapter_for(f"tcp://127.0.0.1:{link.port}", sensor.clock), link)


@pytest.mark.asyncio
async def test_every_value_is_the_level_of_the_tank():
    async with (
        TankSensor(seed=3, clock=Clock(20), faults=["leak@5-15x3"]) as sensor,
        adapter_for(sensor.url, sensor.clock) as adapter,
    ):
        for reading in await read(adapter, 20):
            assert reading.values["level"] == pytest.approx(sensor.truth(reading.at_ns)["level"], abs=1.1)


@pytest.mark.asyncio
async def test_silence_is_detected_and_ends_with_the_repair():
    async with TankSensor(seed=3, clock=Clock(20)) as sensor:
        async with adapter_for(sensor.url, sensor.clock) as adapter:
            sensor.inject("silent")
            with pytest.raises(DeviceStalled):
                await read(adapter, 1000)
        sensor.repair()
        async with adapter_for(sensor.url, sensor.clock) as adapter:
            assert await read(adapter, 3)


def test_the_same_seed_sends_the_same_lines_in_any_order():
    one, two = TankSensor(seed=3), TankSensor(seed=3, faults=["leak@50"])
    backwards = [one.output(index) for index in reversed(range(100))]
    assert backwards[::-1][:51] == [two.output(index) for index in range(51)]
    assert one.output(60) != two.output(60)
    assert isinstance(one, Simulator)
