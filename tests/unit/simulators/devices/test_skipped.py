"""A simulated device counts the samples that it skips: its machine slept, or no client reads."""

from __future__ import annotations

import pytest

from edgebed.broker import BrokerProcess
from simulators.devices.ble import HeartStrap
from simulators.devices.mqtt.device import KerbSensors
from simulators.devices.serial import Hygrometer
from tests.polling import until
from wire.clock import NS_PER_S, Clock

RATE = 20.0
SLEPT_S = 400  # of the clock's time, 20 s of real time


class SleptClock(Clock):
    slept_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.slept_ns


@pytest.mark.parametrize("kind", [Hygrometer, HeartStrap, KerbSensors])
async def test_samples_that_a_sleeping_machine_missed(
    kind: type[Hygrometer | HeartStrap | KerbSensors], broker: BrokerProcess
) -> None:
    clock = SleptClock(RATE)
    more = {"broker_url": broker.url} if kind is KerbSensors else {}
    async with kind(clock=clock, **more) as device:  # type: ignore[arg-type]  # the broker is of one alone
        await until(lambda: clock.now_ns() > device.start_ns)
        assert device.skipped == 0
        clock.slept_ns = SLEPT_S * NS_PER_S
        await until(lambda: device.skipped > 0)
        assert device.skipped >= SLEPT_S - 1


async def test_lines_that_no_client_reads() -> None:
    async with Hygrometer(clock=Clock(50.0), rate_hz=100, terminal=True) as device:
        await until(lambda: device.lost > 10)
