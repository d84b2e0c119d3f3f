"""The set-point of a real device follows the plan, and is safe at the start, between, and at the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.modbus.adapter import Modbus
from adapters.modbus.options import ModbusOptions
from agent.pilots import set_point
from agent.pilots.exposure import Applied
from agent.pilots.set_point import FILE, SetPointSwitch, why_not
from agent.pipeline.settings import DeviceConfig, DevicePlan
from simulators.devices.modbus.device import ParticulateSensor
from tests.polling import until
from tests.unit.agent.pilots.test_pilots import THRESHOLD
from tests.unit.wire.pilot.plans import changed
from wire.clock import Clock
from wire.pilot.plan import Plan, parse

WHAT = (
    "kind: set-point\n  what: {en: a, ko: b}\n  device: air\n  register: fan\n"
    "  min: 5\n  max: 80\n  safe: 20\n  on: 40\n  off: 50"
)
RAW: dict[str, Any] = {
    "registers": {"fan": {"register": 0, "scale": 0.1}, "heater": {"register": 0, "kind": "coil"}},
    "timeout_s": 0.5,
    "retries": 0,
    "allow_write": True,
    "write": {"register": "fan", "min": 10, "max": 60, "safe": 20},
}


def plan(*pairs: tuple[str, str]) -> Plan:
    text = WHAT
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return parse(changed((THRESHOLD, text)), "pilot.yaml")


def devices(url: str, **more: Any) -> dict[str, DevicePlan]:
    raw = {**RAW, "url": url, **more}
    options = msgspec.convert(raw, ModbusOptions)
    made = Modbus(options, Clock())
    config = DeviceConfig(adapter="modbus", options=raw)
    return {"air": DevicePlan(config, Modbus, options, made.streams(), set_point=made.set_point)}


class Site:
    """A device, and the switch of an agent."""

    def __init__(self, device: ParticulateSensor, state: Path) -> None:
        self.device = device
        self.devices = devices(device.url)
        self.state = state
        self.written: list[int] = []
        self.changes = 0
        self.switch = self.agent()
        write = device.write

        def noted(table: str, address: int, numbers: Any) -> None:
            write(table, address, numbers)
            self.written += numbers

        device.write = noted  # type: ignore[method-assign]  # the device itself stays as it is

    def agent(self) -> SetPointSwitch:
        return SetPointSwitch(lambda: self.devices, Clock(), self.state, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def set(
        self, arm: Any, *pairs: tuple[str, str], wanted: Callable[[Applied], Any] = bool
    ) -> Applied:
        """What is reported first for an arm and meets `wanted`."""
        asked = plan(*pairs)
        while True:
            found = self.switch.set(asked, arm)
            if found is not None and wanted(found):
                return found
            await asyncio.sleep(0.01)

    @property
    def marked(self) -> bool:
        return (self.state / FILE).exists()

    async def ends(self) -> None:
        await until(lambda: not self.marked)


@asynccontextmanager
async def site(state: Path) -> AsyncIterator[Site]:
    async with ParticulateSensor(seed=1) as device:
        made = Site(device, state)
        try:
            yield made
        finally:
            await made.switch.close(2.0)


async def test_the_safe_number_comes_first_and_last(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        assert not here.marked
        assert await here.set("on") == Applied("on", value=40.0)
        assert here.marked
        assert here.changes > 0
        assert await here.set("off") == Applied("off", value=50.0)
        assert await here.set(None) == Applied("other", value=20.0), "outside of all periods"
        assert await here.set("on") == Applied("on", value=40.0)
        here.switch.release()  # withdrawn, or over
        await here.ends()
        assert here.written == [200, 400, 500, 200, 400, 200]
        assert await here.set("off") == Applied("off", value=50.0)
        await here.switch.close(2.0)  # the agent ends
        assert here.switch.stopped() == Applied("other", value=20.0)
        assert here.written[6:] == [200, 500, 200]
        assert not here.marked


async def test_an_agent_that_was_killed_makes_its_device_safe_first(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"device": "air"}))
    async with site(tmp_path) as here:
        here.device.settings["holding", 0] = 400
        here.switch.start()
        await here.ends()
        assert here.written == [200]
        (tmp_path / FILE).write_text(json.dumps({"device": "air"}))
        here.switch = here.agent()
        here.switch.start()
        await here.set("on")
        assert here.written == [200, 200, 400]


@pytest.mark.parametrize("left", ["gone", "air", "{"])
async def test_what_cannot_be_made_safe_is_kept_for_the_next_start(tmp_path: Path, left: str) -> None:
    (tmp_path / FILE).write_text(left if left == "{" else json.dumps({"device": left}))
    async with site(tmp_path) as here:
        here.devices = devices(here.device.url, allow_write=False)
        here.switch.start()
        assert here.marked
        assert here.written == []


async def test_another_master_is_reported_and_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_point, "LOOK_S", 0.02)
    async with site(tmp_path) as here:
        await here.set("on")
        here.device.settings["holding", 0] = 333
        found = await here.set("on", wanted=lambda found: found.reason.why)
        assert (found.actual, found.value, found.reason.code) == ("other", 33.3, "pilot-set-point-other")
        assert found.reason.args == {"device": "air", "value": "33.3", "planned": "40"}
        here.device.settings["holding", 0] = 500
        found = await here.set("on", wanted=lambda found: found.value == 50.0)
        assert found.actual == "off"
        assert here.written == [200, 400]
        assert await here.set("off") == Applied("off", value=50.0)
        here.device.settings["holding", 0] = 333
    assert here.written == [200, 400, 500, 200], "it is safe at the end, also after another master"


async def test_a_device_that_refuses_is_reported_with_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_point, "_PAUSE_S", (0.02, 0.05))
    async with site(tmp_path) as here:
        await here.set("off")
        here.device.inject("refuse@0x3")
        found = await here.set("on", wanted=lambda found: found.reason.why)
        assert (found.actual, found.value, found.reason.code) == ("other", None, "pilot-write-failed")
        assert "exception 3, illegal data value" in found.reason.why
        here.device.repair()
        assert await here.set("on", wanted=lambda found: not found.reason.why) == Applied("on", value=40.0)
        assert here.written == [200, 500, 200, 400], "safe when the device takes numbers again"


async def test_the_safe_number_comes_first_when_the_connection_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_point, "_PAUSE_S", (0.02, 0.05))
    monkeypatch.setattr(set_point, "LOOK_S", 0.02)
    async with site(tmp_path) as here:
        await here.set("on")
        await here.device.unplug()
        found = await here.set("on", wanted=lambda found: found.reason.why)
        assert (found.actual, found.reason.code) == ("other", "pilot-write-failed")
        await here.switch.close(0.05)
        assert here.marked, "the next start makes it safe"
        async with here.device:
            here.switch = here.agent()
            here.switch.start()
            assert await here.set("on", wanted=lambda found: not found.reason.why) == Applied(
                "on", value=40.0
            )
            assert here.written == [200, 400, 200, 400]
            await here.switch.close(2.0)


async def test_a_config_that_changes_ends_the_writes_to_the_old_device(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await here.set("on")
        here.devices = devices(here.device.url, write={**RAW["write"], "max": 45})
        found = await here.set("on")
        assert found.reason.code == "pilot-write-not-allowed"
        await here.ends()
        assert here.written == [200, 400, 200]
        here.devices = devices(here.device.url, timeout_s=0.7)
        await here.set("off")
        here.devices = devices(here.device.url)
        assert await here.set("off") == Applied("off", value=50.0)
        assert here.written[3:] == [200, 500, 200, 200, 500]


@pytest.mark.parametrize(
    ("pairs", "more", "why"),
    [
        ([("device: air", "device: pump")], {}, "no such device"),
        ([], {"allow_write": False}, "allow_write: true"),
        ([("register: fan", "register: heater")], {}, "names the register fan, and the plan heater"),
        ([("register: fan", "topic: fan")], {}, "names the register fan"),
        ([("safe: 20", "safe: 30")], {}, "safe number of the config is 20"),
        ([("on: 40", "on: 70")], {}, "70 is not within the limits of the config, 10 to 60"),
        ([("off: 50", "off: 5")], {}, "5 is not within the limits of the config"),
        ([("on: 40", "on: 40.03")], {}, "its steps are 0.1"),
    ],
)
def test_a_plan_beyond_the_config_is_refused(
    pairs: list[tuple[str, str]], more: dict[str, Any], why: str
) -> None:
    found = why_not(plan(*pairs).intervention, devices("tcp://127.0.0.1:1", **more))
    assert found.code == "pilot-write-not-allowed"
    assert why in found.why
    assert not why_not(plan().intervention, devices("tcp://127.0.0.1:1")).why


@pytest.mark.parametrize("key", ["on", "off", "safe"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), None, 4.0, 81.0])
def test_a_hostile_plan_is_refused_by_the_node_itself(key: str, number: float | None) -> None:
    what = msgspec.structs.replace(plan().intervention, **{key: number})
    assert why_not(what, devices("tcp://127.0.0.1:1")).code == "pilot-write-not-allowed"
    for limit in ("min", "max"):
        nan = msgspec.structs.replace(plan().intervention, **{limit: float("nan")})
        assert why_not(nan, devices("tcp://127.0.0.1:1")).code == "pilot-write-not-allowed"
