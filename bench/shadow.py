"""A slot with a second model beside it, and without: CPU of each picture, and the time until its result.

Rounds of both alternate in one process; `peer` is the slot without it. CPU is that of the agent and its
workers.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET

from adapters import base
from adapters.base import Adapter, Reading
from agent import process_children
from agent.inference.model_cache import ModelCache
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.settings import DeviceConfig, DevicePlan, PublishConfig, ShadowConfig, SlotConfig
from agent.pipeline.sinks import Sinks
from wire.clock import Clock
from wire.messages import ClockState, Stream
from wire.shipped import folder

_ROUNDS, _RUNS = 10, 20
_STREAMS = {"frames": Stream(kind="frame")}


class _Given(Adapter):
    """A device whose pictures the benchmark gives."""

    class Options(base.Options, frozen=True):
        """None."""

    def streams(self) -> dict[str, Stream]:
        return _STREAMS

    async def readings(self) -> AsyncIterator[Reading]:
        return
        yield


def run() -> list[dict[str, Any]]:
    """Return the rows."""
    return asyncio.run(_run())


async def _run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        both = [_pipeline(Path(name), shadow=True), _pipeline(Path(name), shadow=False)]
        tasks = []
        for each in both:
            await each.open_models()
            tasks.append(asyncio.create_task(each.run()))
        try:
            return await _compared(both)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for each in both:
                each.close()


def _pipeline(state: Path, *, shadow: bool) -> Pipeline:
    package = folder("models") / "street-detector"
    slot = SlotConfig(
        package=package,
        input="dev/frames",
        isolation="process",
        shadow=ShadowConfig(package=package) if shadow else UNSET,
    )
    device = DeviceConfig(adapter="given", publish=PublishConfig(live_hz=0))
    return Pipeline(
        {"dev": DevicePlan(device, _Given, _Given.Options(), _STREAMS)},
        {"slot": slot},
        Clock(),
        cache=ModelCache(state / "gate"),
        clock_state=lambda: ClockState.NTP,
        sinks=Sinks(state=state),
    )


async def _compared(both: list[Pipeline]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(_RUNS)]
    wall: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for number in range(_ROUNDS + 1):  # the first one warms up
        for at, each in enumerate(both):
            begin_s = process_children.cpu_s()
            spent = [await _one(each, picture, number * _RUNS + i) for i, picture in enumerate(pictures)]
            if number:
                wall[at] += spent
                cpu[at].append((process_children.cpu_s() - begin_s) / _RUNS * 1e3)
    p50, used = ([statistics.median(each) for each in found] for found in (wall, cpu))
    what = "picture 640x480, street-detector, with a shadow of the same model"
    return [
        {
            "what": f"{what}: until its result",
            "ours": p50[0],
            "peer": p50[1],
            "ratio": p50[0] / p50[1],
            "unit": "ms",
        },
        {"what": f"{what}: CPU", "ours": used[0], "peer": used[1], "ratio": used[0] / used[1], "unit": "ms"},
    ]


async def _one(pipeline: Pipeline, picture: Any, index: int) -> float:
    """Milliseconds from a picture to its result; waits for the second model too."""
    runner = pipeline.runners["slot"]
    runs = runner.counters["runs"]
    begin_s = time.perf_counter()
    pipeline.sink("dev")(
        Reading("frames", 1_760_000_000 * 10**9 + index * 10**8, picture=picture, index=index)
    )
    while runner.counters["runs"] == runs:  # noqa: ASYNC110 - a waiting event would be measured too
        await asyncio.sleep(0)
    spent_ms = (time.perf_counter() - begin_s) * 1e3
    while runner.shadow is not None and runner.shadow.busy:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return spent_ms
