"""The thermometer adapter passes edgebed's contract suite."""

from typing import ClassVar

import pytest
from edgebed_thermometer.thermometer import Thermometer, ThermometerOptions

from adapters.testing import AdapterContract, Rig
from simulators.faults import FaultProxy
from wire.clock import Clock


class TestThermometer(AdapterContract):
    adapter = Thermometer
    good_options: ClassVar = {"host": "127.0.0.1", "port": 4001}
    bad_options: ClassVar = [
        ({"host": "tcp://x", "port": 1}, "leave out the scheme"),
        ({"host": "x", "port": 0}, "port"),
    ]

    @pytest.fixture
    async def rig(self, device):
        async with FaultProxy(device) as link:
            options = ThermometerOptions(host="127.0.0.1", port=link.port, silence_s=1)
            yield Rig(lambda: Thermometer(options, Clock()), link)
