"""The model of a plan acts only while it is on, and only if it is the model that the plan names."""

from __future__ import annotations

from pathlib import Path

from agent.pilots.model_switch import ModelSwitch, cannot_switch
from agent.pipeline.settings import SlotConfig
from tests.unit.agent.pilots.test_pilots import THRESHOLD
from tests.unit.agent.pipeline.test_pipeline import Bench, gate_memory, mean_model, row
from tests.unit.wire.pilot.plans import changed
from wire.pilot.plan import Plan, parse
from wire.reasons import NO_REASON

__all__ = ["gate_memory", "mean_model"]  # fixtures


def plan(sha256: str, slot: str = "odd") -> Plan:
    model = f"kind: model\n  what: {{en: a, ko: b}}\n  slot: {slot}\n  model: mean@1.0\n  sha256: '{sha256}'"
    return parse(changed((THRESHOLD, model)), "pilot.yaml")


async def test_a_model_acts_while_it_is_on_and_is_the_one_of_the_plan(mean_model: Path) -> None:
    bench = Bench({"odd": SlotConfig(package=mean_model, input="dev/rows", events="each")})
    switch = ModelSwitch(bench.pipeline)
    sent = []
    assert switch.set(plan("0" * 64), "on")[1].code == "model-checking"
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
            actual, why = switch.set(asked, "on" if arm == "on" else "off")
            sent.append((actual, why.code, await rows(8 * at) > 0))
        assert switch.set(plan("0" * 64, "other"), "on")[1].code == "pilot-model-missing"
        switch.release()
        sent.append(("free", "", await rows(24) > 0))
    assert sent[:2] == [("on", "", True), ("off", "", False)]
    assert sent[2:] == [("off", "pilot-model-other", False), ("free", "", True)]


def test_a_threshold_and_a_set_point_cannot_be_switched_yet() -> None:
    assert cannot_switch(plan("0" * 64).intervention) == NO_REASON
    assert cannot_switch(parse(changed(), "pilot.yaml").intervention).code == "pilot-not-able"
