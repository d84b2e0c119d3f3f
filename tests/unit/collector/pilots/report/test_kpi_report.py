"""The effect of each design and estimand, from rows in a real store, with its sides, flow and variants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from collector.pilots.report.document import KpiReport
from tests.unit.collector.pilots.kpis.stored_rows import NODE, Plant
from tests.unit.collector.pilots.report.played_pilot import (
    BASELINE,
    MODEL,
    PLAN,
    THRESHOLD,
    PlayedPilot,
    changed,
    level,
    noise,
)
from wire.pilot.checks import doubts
from wire.pilot.schedule import Period

WITH_BASELINE = ("  trial:", BASELINE + "  trial:")
BEFORE_AFTER = changed(
    ("kind: switchback", "kind: before-after"), ("periods: 20", "periods: 40"), ("09:20", "12:40"),
    ("washout_s: 60, carry_over_s: 60", "settle_s: 600"), WITH_BASELINE,
)  # fmt: skip
NODES = [f"acme/trial/hall/cell-0{at}" for at in range(1, 9)]
DEVICES = [f"acme/trial/hall/cell-01/m{at}" for at in range(8)]


def found(plant: Plant, text: str, rows: Any = level, **more: Any) -> KpiReport:
    pilot = PlayedPilot(plant, text)
    pilot.play(rows, **more)
    (kpi,) = pilot.report().kpis
    return kpi


def test_before_and_after_with_settling_covariates_and_placebo_dates(plant: Plant) -> None:
    adjusted = "adjust:\n  weekday: true\n  covariates: {outside: {field: cell/production/outside}}\n"

    def rows(index: int, period: Period) -> dict[str, Sequence[Any]]:
        outside = 20 + math.cos(2.3 * index)
        values = [each * (1 + outside / 100) for each in level(index, period)["level"]]
        return {"level": values, "outside": [outside] * 60}

    kpi = found(plant, BEFORE_AFTER + adjusted + "analysis: {sensitivity: [trend, scale]}\n", rows)
    effect = kpi.effect
    assert effect is not None
    assert (effect.method, effect.n) == ("before-after", 81)
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < -0.2 < effect.high
    assert "trend_low" in effect.extras
    assert [(each.name, each.used, each.left_out) for each in kpi.flow] == [
        ("baseline", 42, {}), ("trial", 39, {"settling": 1}),
    ]  # fmt: skip
    assert kpi.placebo is not None
    assert kpi.placebo.dates == 3
    assert (kpi.word, [each.name for each in kpi.sensitivity]) == ("met", ["trend", "scale"])
    assert {each.word for each in kpi.sensitivity} == {"met"}


MACHINES = ", ".join(NODES)
PARALLEL = changed(
    ("nodes: [acme/trial/hall/cell-01]", f"nodes: [{MACHINES}]"), ("kind: switchback", "kind: parallel"),
    ("washout_s: 60, carry_over_s: 60", f"groups: {{machines: [{MACHINES}], treated: 4}}"), WITH_BASELINE,
)  # fmt: skip


def test_machines_in_parallel(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PARALLEL)
    treated = pilot.newest.plan.schedule.treated
    for at, node in enumerate(NODES):
        several = [pilot.freeze(node=node)]
        for index, period in enumerate(pilot.newest.plan.schedule.periods):
            acts = period.phase == "trial" and node in treated
            if period.phase == "trial":
                arm = "on" if acts else "off"
                several.append(pilot.switch(index - 42, node=node, planned=arm, actual=arm))
            values = [(10 + at) * math.exp(noise(index + 7 * at)) * (0.8 if acts else 1.0)] * 60
            several.append(plant.data(period.start_ms, {"level": values}, node=node))
        plant.commit(several)
    report = pilot.report()
    (kpi,) = report.kpis
    assert kpi.effect is not None
    assert (kpi.effect.method, kpi.effect.n, kpi.effect.df) == ("machines-t", 8, 6)
    assert kpi.effect.estimate == pytest.approx(-0.2, abs=0.01)
    assert [(each.name, each.used) for each in kpi.flow] == [("baseline", 336), ("on", 80), ("off", 80)]
    assert {each.machine for each in kpi.periods} == set(NODES)
    assert (report.word, report.off_schedule) == ("met", pytest.approx(0.0, abs=0.001))
    assert report.findings == ()
    assert {(each.planned, round(each.on, 2)) for each in report.ran} == {("on", 1.0)}
    assert len([name for name in report.sources if "/data/" in name]) == 8


def paired(scale: str) -> str:
    groups = f"groups: {{machines: [{', '.join(DEVICES)}]}}"
    formula = {"absolute": "mean(model) - mean(rule)", "relative": "mean(model) / mean(rule)"}[scale]
    return changed(
        ("kind: switchback", "kind: paired"), ("washout_s: 60, carry_over_s: 60", groups),
        ("mean(level)", formula), ("min: 0.05", f"min: 0.05, scale: {scale}"),
        ("{level: {field: cell/production/level}}",
         "{model: {field: cell/production/model}, rule: {field: cell/production/rule}}"),
        (THRESHOLD, MODEL),
    )  # fmt: skip


@pytest.mark.parametrize(("scale", "effect"), [("absolute", -2.0), ("relative", -0.2)])
def test_a_model_beside_a_rule(plant: Plant, scale: str, effect: float) -> None:
    pilot = PlayedPilot(plant, paired(scale))
    plant.commit([pilot.freeze()])
    for index, period in enumerate(pilot.newest.plan.schedule.trial):
        several = [pilot.switch(index, planned="off", actual="off")]
        for at in range(8):
            rule = 10 * math.exp(noise(index + 5 * at))
            columns = {"model": [rule * 0.8 * math.exp(noise(3 * at) / 5)] * 60, "rule": [rule] * 60}
            several.append(plant.data(period.start_ms, columns, path=f"m{at}/production"))
        plant.commit(several)
    report = pilot.report()
    (kpi,) = report.kpis
    assert kpi.effect is not None
    assert (kpi.effect.method, kpi.effect.n) == ("clusters-t", 8)
    assert kpi.effect.estimate == pytest.approx(effect, rel=0.02)
    assert kpi.effect.relative is (scale == "relative")
    assert (report.word, report.off_schedule) == ("met", pytest.approx(0.0, abs=0.001))
    assert {each.planned for each in report.ran} == {"off"}


@pytest.mark.parametrize("is_named", [True, False])
def test_a_model_beside_a_rule_at_one_place_has_a_limit(plant: Plant, is_named: bool) -> None:
    groups = f"groups: {{machines: [{', '.join(DEVICES)}]}}"
    text = paired("absolute") if is_named else paired("absolute").replace(groups, "settle_s: 0")
    pilot = PlayedPilot(plant, text)
    plant.commit([pilot.freeze()])
    assert ("periods-independent" in pilot.report().limits) is not is_named
    said = any("a place of its own" in each for each in doubts(pilot.newest.plan.plan))
    assert said is not is_named


@pytest.mark.parametrize(
    ("formula", "inputs", "unit", "method"),
    [
        ("defect-rate", "{parts: {field: cell/production/parts}, rejects: {field: cell/production/rejects}}",
         "1", "ratio-jackknife"),
        ("stops", "{running: {field: cell/production/running}}", "1", "counts-hull"),
    ],
)  # fmt: skip
def test_ratios_and_counts(plant: Plant, formula: str, inputs: str, unit: str, method: str) -> None:
    text = changed(
        ("mean(level)", formula), ("{level: {field: cell/production/level}}", inputs), ('""', f'"{unit}"')
    )

    def rows(index: int, period: Period) -> dict[str, Sequence[Any]]:
        bad = (1 if period.arm == "on" else 3) + index % 2
        running = [row % 10 != 5 or row // 10 >= bad for row in range(6, 66)]
        parts = [float(1_000 * index + 10 * row) for row in range(60)]
        rejects = [float(40 * index + bad * row / 10) for row in range(60)]
        return {"running": running, "parts": parts, "rejects": rejects}

    kpi = found(plant, text, rows)
    assert kpi.effect is not None, kpi.refusal
    assert (kpi.effect.method, kpi.effect.n, kpi.word) == (method, 10, "met")
    on, off = (side for side in kpi.sides if side.name in ("on", "off"))
    assert on.numerator is not None
    assert off.mean is not None
    assert on.mean is not None
    assert on.mean < off.mean


def test_too_many_left_out_periods_hold_the_verdict_back_and_a_variant_shows_why(plant: Plant) -> None:
    left_out = "exclude:\n  times: [{from: 2026-11-23 06:00, to: 2026-11-23 07:00, why: drill}]\n"
    text = PLAN + left_out + "analysis: {sensitivity: [exclusions, washout, trend]}\n"
    kpi = found(plant, text)
    assert (kpi.word, kpi.reason) == ("not-shown", "data-incomplete")
    assert {each.name: each.left_out for each in kpi.flow} == {"on": {"left-out": 3}, "off": {"left-out": 3}}
    kept, washed, trend = kpi.sensitivity
    assert kept.effect is not None
    assert (kept.effect.n, kept.word) == (10, "met")
    assert washed.effect is not None
    assert washed.effect.n == 7
    assert trend.refusal is not None
    assert trend.refusal.code == "not-applicable"


def test_a_guardrail_that_broke_decides_also_before_the_end(plant: Plant) -> None:
    guarded = PLAN + (
        "  - id: speed\n    class: D\n    formula: mean(speed)\n"
        '    from: {speed: {field: cell/production/speed}}\n    unit: ""\n    direction: increase\n'
        "    guardrail: {worse_than: 0.05}\n"
    )
    pilot = PlayedPilot(plant, guarded)
    pilot.play(lambda index, period: {**level(index, period), "speed": level(index, period, -0.3)["level"]})
    report = pilot.report()
    assert (report.word, report.reason) == ("not-met", "guardrail-broken")
    assert [each.guarded for each in report.kpis] == [None, "broken"]
    half = pilot.newest.plan.schedule.trial[13].end_ms
    early = pilot.report(half)
    assert (early.state, early.kpis[0].reason, early.reason) == (
        "running",
        "trial-not-over",
        "guardrail-broken",
    )
    assert [each.to_come for each in early.kpis[0].flow] == [3, 3]
    assert [each.status for each in early.kpis[0].periods[-6:]] == ["to-come"] * 6


@pytest.mark.parametrize(
    ("change", "until", "reason"),
    [
        ({}, None, None),
        ({}, 13, "trial-not-over"),
        ({"actual": "off"}, None, "schedule-not-kept"),
        ({"exclude": True}, None, "data-incomplete"),
        ({"carry_over": True}, None, "washout-too-short"),
    ],
)
def test_a_guardrail_is_kept_only_by_a_trial_that_ran(
    plant: Plant, change: dict[str, Any], until: int | None, reason: str | None
) -> None:
    text = PLAN + (
        "  - id: speed\n    class: D\n    formula: mean(speed)\n"
        '    from: {speed: {field: cell/production/speed}}\n    unit: ""\n    direction: increase\n'
        "    guardrail: {worse_than: 0.2}\n"
    )
    if "carry_over" in change:
        text = text.replace("carry_over_s: 60", "carry_over_s: 120")
    if "exclude" in change:
        text += "exclude:\n  times: [{from: 2026-11-23 06:00, to: 2026-11-23 07:00, why: drill}]\n"
    pilot = PlayedPilot(plant, text)
    plant.commit([pilot.freeze()])
    for number, period in enumerate(pilot.newest.plan.schedule.trial):
        rows = {**level(number, period), "speed": level(number, period, 0.0)["level"]}
        actual = change.get("actual", period.arm)
        plant.commit([pilot.switch(number, actual=actual), plant.data(period.start_ms, rows)])
    at_ms = None if until is None else pilot.newest.plan.schedule.trial[until].end_ms
    speed = pilot.report(at_ms).kpis[1]
    assert (speed.guarded, speed.guarded_reason) == ("kept" if reason is None else "not-shown", reason)
    assert speed.effect is not None


def test_a_pilot_without_rows_says_so(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    plant.commit([pilot.freeze()])
    report = pilot.report()
    assert (report.word, report.kpis[0].word) == ("not-shown", "not-shown")
    assert "schedule-not-kept" in {each.code for each in report.findings}
    assert report.custody[0].taken == 0
    assert list(report.sources) == [f"{NODE}/event/_/pilot"]
