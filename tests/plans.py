"""The plan of a device for tests that make its adapter themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection

from adapters.base import Adapter, Options
from agent.pipeline.settings import DeviceConfig, DevicePlan
from wire.messages import Stream


def plan_of(
    build: Callable[[], Adapter],
    streams: dict[str, Stream] | None = None,
    *,
    stall_s: float = 10.0,
    may_be_null: Collection[str] = (),
) -> DevicePlan:
    """A plan whose adapters `build` makes; the streams are the adapter's own unless they are given."""
    config = DeviceConfig(adapter="test", may_be_null=tuple(may_be_null))
    adapter = build() if streams is None else None
    declared = adapter.streams() if adapter is not None else streams or {}
    waits = adapter is not None and adapter.waits
    return DevicePlan(config, lambda _options, _clock: build(), Options(), declared, stall_s, waits=waits)
