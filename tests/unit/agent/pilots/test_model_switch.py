"""The model of a plan acts only while it is on, and only if it is the model that the plan names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.pilots.exposure import Applied
from agent.pilots.model_switch import ModelSwitch, ThresholdSwitch
from agent.pipeline.settings import SlotConfig
from tests.unit.agent.pilots.test_pilots import THRESHOLD
from tests.unit.agent.pipeline.test_pipeline import Bench, gate_memory, mean_model, row
from tests.unit.wire.pilot.plans import changed
from wire.pilot.plan import Plan, parse

__all__ = ["gate_memory", "mean_model"]  # fixtures


def plan(sha256: str, slot: str = "odd") -> Plan:
    model = f"kind: model\n  what: {{en: a, ko: b}}\n  slot: {slot}\n  model: mean@1.0\n  sha256: '{sha256}'"
    return parse(changed((THRESHOLD, model)), "pilot.yaml")


async def test_a_model_acts_while_it_is_on_and_is_the_one_of_the_plan(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows", events="each")})
    switch = ModelSwitch(bench.pipeline)
    sent = []
    assert switch.set(plan("0" * 64), "on").reason.code == "model-checking"
    async with bench.running() as sink:
        runner = bench.pipeline.runners["odd"]
        right = plan(runner.ref.sha256)

        async def rows(first: int) -> int:
            bench.messages.clear()
            for index in range(first, first + 8):
                sink(row(index))
                await bench.settled()
            assert bench.column("odd", "score")
            return len(bench.events())

        for at, (asked, arm) in enumerate([(right, "on"), (right, "off"), (plan("0" * 64), "on")]):
            actual, why, _ = switch.set(asked, "on" if arm == "on" else "off")
            sent.append((actual, why.code, await rows(8 * at) > 0))
        assert switch.set(plan("0" * 64, "other"), "on").reason.code == "pilot-model-missing"
        # what another model gives in shadow is not what the plan compares
        assert switch.set(plan("0" * 64), "off") == ("off", switch.set(plan("0" * 64), "on").reason, None)
        assert switch.set(plan("0" * 64, "other"), "off").reason.code == ""
        switch.release()
        sent.append(("free", "", await rows(24) > 0))
    assert sent[:2] == [("on", "", True), ("off", "", False)]
    assert sent[2:] == [("off", "pilot-model-other", False), ("free", "", True)]


@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_a_threshold_changes_between_two_inputs_and_none_is_lost(
    mean_model: Path, isolation: Any
) -> None:
    slot = SlotConfig(package=mean_model, input="dev/rows", events="each", isolation=isolation)
    bench = Bench({"odd": slot, "same": slot})
    switch = ThresholdSwitch(bench.pipeline)
    low = threshold(0.5, 0.9)
    assert switch.set(low, "on").reason.code == "model-checking"
    async with bench.running() as sink:
        runner = bench.pipeline.runners["odd"]
        assert await judged(bench, sink, 0) == ([True] * 3, [False] * 3), "from the first input on"
        assert switch.set(low, "on") == Applied("on", value=0.5)
        assert runner.shown.tuned == {"threshold": 0.5}
        assert bench.pipeline.runners["same"].shown.tuned == {}
        changes = bench.changes
        assert switch.set(low, "off") == Applied("off", value=0.9)
        assert bench.changes > changes
        assert (await judged(bench, sink, 8))[0] == [False] * 4
        for index in range(16, 24):  # without a pause between two inputs
            switch.set(low, "on" if index % 4 < 2 else "off")
            sink(row(index, 0.7, 0.7))
        await bench.settled()
        assert bench.column("odd", "alarm") == [True, False, True, False]
        bench.messages.clear()
        switch.set(low, "on")
        switch.release()
        assert runner.shown.tuned == {}
        assert (await judged(bench, sink, 24))[0] == [False] * 4, "the package says 10"
    bench.pipeline.close()


async def judged(bench: Bench, sink: Callable[[Any], Any], first: int) -> tuple[list[Any], list[Any]]:
    """The alarms of 8 rows with the mean 0.7, in both slots."""
    bench.messages.clear()
    for index in range(first, first + 8):
        sink(row(index, 0.7, 0.7))
        await bench.settled()
    found = bench.column("odd", "alarm"), bench.column("same", "alarm")
    bench.messages.clear()
    return found


def threshold(on: float, off: float, parameter: str = "threshold", slot: str = "odd") -> Plan:
    made = parse(changed(), "pilot.yaml")
    what = msgspec.structs.replace(made.intervention, slot=slot, parameter=parameter, on=on, off=off)
    return msgspec.structs.replace(made, intervention=what)


async def test_a_number_that_the_model_does_not_have_is_reported(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows")})
    switch = ThresholdSwitch(bench.pipeline)
    assert switch.set(threshold(1, 2, slot="none"), "off").reason.code == "pilot-model-missing"
    async with bench.running() as sink:
        for parameter in ("part_threshold", "sign", "parts", "level", "__class__"):
            found = switch.set(threshold(1, 2, parameter), "off")
            assert (found.actual, found.reason.code) == ("other", "pilot-number-refused"), parameter
        for number in (float("nan"), float("inf")):
            assert switch.set(threshold(number, 2), "on").reason.code == "pilot-number-refused"
            for index in range(4):
                sink(row(index, 20, 20))
            await bench.settled()
    assert all(bench.column("odd", "alarm")), "the package says 10"
