"""Settings of devices and models: defaults, limits, and what a device's plan builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import adapters
from adapters.replay.options import ReplayOptions
from agent.pipeline.settings import DeviceConfig, DevicePlan, PublishConfig, SlotConfig
from wire.clock import Clock


def test_a_slot_names_device_and_stream() -> None:
    slot = SlotConfig(package=Path("p"), input="camera/frames")
    assert (slot.device, slot.stream) == ("camera", "frames")
    assert slot.asked == ["cpu"]


def test_pictures_are_hidden_unless_the_config_allows_them() -> None:
    assert PublishConfig().blur == ("faces", "plates")
    assert PublishConfig().snapshot_every_s == 0, "and none is sent by itself"


@pytest.mark.parametrize(
    "wrong",
    [
        {"adapter": "replay", "stall_s": 0},
        {"adapter": "replay", "publish": {"live_hz": 11}},
        {"adapter": "replay", "publish": {"blur": ["people"]}},
        {"adapter": "replay", "stal_s": 3},
    ],
)
def test_a_device_with_wrong_settings_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, DeviceConfig)


def test_a_plan_builds_a_new_adapter_each_time(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("t,a\n0,1\n")
    options = ReplayOptions(file=tmp_path / "rows.csv", time="t", fields={"a": "a"})
    kind = adapters.load("replay")
    plan = DevicePlan(DeviceConfig(adapter="replay"), kind, options, kind(options, Clock()).streams())
    first, second = plan.build(Clock()), plan.build(Clock())
    assert isinstance(first, kind)
    assert first is not second
    assert first.streams().keys() == plan.streams.keys()
