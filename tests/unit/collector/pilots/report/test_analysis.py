"""What the report adds to an effect: the labels of an energy KPI."""

from __future__ import annotations

import numpy as np
import pytest

from collector.pilots.effects import Effect, energy
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.report.analysis import Measured, effect_of
from tests.unit.collector.pilots.report.played_pilot import BASELINE, changed
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
