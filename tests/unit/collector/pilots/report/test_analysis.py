"""The effect by the design of a plan: the labels of an energy KPI, and numbers of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, energy
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.report.analysis import Measured, effect_of, sums_of
from tests.unit.collector.pilots.report.played_pilot import BASELINE, PLAN, changed
from wire.pilot.plan import parse
from wire.pilot.schedule import schedule

BEFORE_AFTER = changed(
    ("kind: switchback", "kind: before-after"),
    ("  trial: {", BASELINE + "  trial: {"),
    ("kpis:", "adjust: {covariates: {outside: {field: cell/production/outside}}}\nkpis:"),
)


@pytest.mark.parametrize("kpi_class", ["E", "P"])
def test_an_energy_kpi_has_the_labels_of_ashrae(kpi_class: str) -> None:
    plan = parse(changed(("class: P", f"class: {kpi_class}"), text=BEFORE_AFTER), "pilot.yaml")
    planned = schedule(plan)
    drawn = np.random.default_rng(8)
    outside = drawn.normal(10, 5, len(planned.periods))
    used = 50 + 2 * outside + drawn.normal(size=len(outside))

    def periods(values: np.ndarray) -> list[PeriodValue]:
        return [
            PeriodValue(at, each.phase, each.arm, each.start_ms, each.end_ms, "used", value=float(value))
            for at, (each, value) in enumerate(zip(planned.periods, values, strict=True))
        ]

    found = effect_of(plan, planned, Measured(plan.primary, {"": periods(used)}, [periods(outside)]))
    assert isinstance(found, Effect)
    baseline = [at for at, each in enumerate(planned.periods) if each.phase == "baseline"]
    labels = energy.labels(used[baseline], [outside[baseline]], period_h=1 / 6)
    shown = {name: found.extras[name] for name in labels if name in found.extras}
    assert shown == (labels if kpi_class == "E" else {})
    assert labels["ashrae"] == "hourly-within"


MACHINES = [f"acme/trial/hall/cell-0{number}" for number in (1, 2, 3, 4)]
PARALLEL = changed(
    ("kind: switchback", "kind: parallel"),
    ("seed: 7,", f"seed: 7, groups: {{machines: [{', '.join(MACHINES)}], treated: 2}},"),
    ("nodes: [acme/trial/hall/cell-01]", f"nodes: [{', '.join(MACHINES)}]"),
    ("  trial: {", BASELINE + "  trial: {"),
)


@pytest.mark.parametrize("text", [PLAN, BEFORE_AFTER, PARALLEL])
@pytest.mark.parametrize("estimand", ["mean", "ratio", "count"])
@pytest.mark.parametrize("size", [1e308, -1e308, 5e-324, math.inf, math.nan])
def test_numbers_of_any_size(text: str, estimand: str, size: float) -> None:
    pairs = ("mean(level)", "sum(level)"), ("primary: true", f"primary: true\n    estimand: {estimand}")
    plan = parse(changed(*pairs, text=text), "pilot.yaml")
    planned = schedule(plan)
    periods = [
        PeriodValue(at, each.phase, each.arm, each.start_ms, each.end_ms, "used")
        for at, each in enumerate(planned.periods)
    ]
    for other in (size, 1.0, -size):
        values = [
            replace(each, value=number, numerator=number, denominator=abs(number))
            for each, number in zip(periods, [size, other] * len(periods), strict=False)
        ]
        machines = dict.fromkeys(MACHINES if plan.design.groups else ("",), values)
        covariates = [values] if plan.adjust.covariates else []
        for relative in (True, False):
            found = effect_of(plan, planned, Measured(plan.primary, machines, covariates), relative=relative)
            assert isinstance(found, Effect | Refused)
        assert all(isinstance(each, float) for each in sums_of(values))


def values_of(planned: Any, several: Sequence[float]) -> list[PeriodValue]:
    return [
        PeriodValue(at, each.phase, each.arm, each.start_ms, each.end_ms, "used", value=float(value))
        for at, (each, value) in enumerate(zip(planned.periods, several, strict=True))
    ]


def test_machines_are_compared_on_one_scale() -> None:
    plan = parse(PARALLEL, "pilot.yaml")
    planned = schedule(plan)
    is_trial = np.array([each.phase == "trial" for each in planned.periods])
    measured = {}
    for at, machine in enumerate(MACHINES):
        spread = np.where(np.arange(len(is_trial)) % 2, 1.9, 0.1)  # the mean of the logarithms is far lower
        values = np.where(is_trial, 1.0 + at / 100, spread)
        if machine == MACHINES[0]:
            values[0] = 0.0  # one period of one machine
        measured[machine] = values_of(planned, values)
    found = effect_of(plan, planned, Measured(plan.primary, measured))
    assert isinstance(found, Effect)
    assert abs(found.estimate) < 0.05, "nothing changed but the noise: on two scales it is a doubling"


@pytest.mark.parametrize("estimand", ["mean", "ratio", "count"])
def test_a_machine_that_fell_to_0_is_not_left_out(estimand: str) -> None:
    text = changed(
        ("mean(level)", "sum(level)"), ("primary: true", f"primary: true\n    estimand: {estimand}"),
        text=PARALLEL,
    )  # fmt: skip
    plan = parse(text.replace(MACHINES[3], f"{MACHINES[3]}, acme/trial/hall/cell-05"), "pilot.yaml")
    planned = schedule(plan)
    measured = {}
    for at, machine in enumerate([*MACHINES, "acme/trial/hall/cell-05"]):
        none_left = at == 0
        measured[machine] = [
            replace(each, numerator=each.value, denominator=1.0)
            for each in values_of(
                planned,
                [0.0 if none_left and each.phase == "trial" else 3.0 + at for each in planned.periods],
            )
        ]
    found = effect_of(plan, planned, Measured(plan.primary, measured))
    assert isinstance(found, Refused)
    assert found.code == "values-not-positive"
    assert isinstance(effect_of(plan, planned, Measured(plan.primary, measured), relative=False), Effect)


def test_the_covariates_of_a_plan_adjust_a_ratio_too() -> None:
    text = changed(("mean(level)", "sum(level)"), ("primary: true", "primary: true\n    estimand: ratio"))
    plan = parse(
        changed(
            ("kind: switchback", "kind: before-after"), ("  trial: {", BASELINE + "  trial: {"),
            ("kpis:", "adjust: {covariates: {outside: {field: cell/production/outside}}}\nkpis:"),
            text=text,
        ),
        "pilot.yaml",
    )  # fmt: skip
    planned = schedule(plan)
    drawn = np.random.default_rng(8)
    outside = drawn.normal(10, 5, len(planned.periods))
    used = 50 + 2 * outside + drawn.normal(size=len(outside))
    values = [replace(each, numerator=each.value, denominator=1.0) for each in values_of(planned, used)]
    widths = []
    for covariates in ([], [values_of(planned, outside)]):
        found = effect_of(plan, planned, Measured(plan.primary, {"": values}, covariates))
        assert isinstance(found, Effect)
        widths.append(found.half_width)
    assert widths[1] < widths[0] / 3
