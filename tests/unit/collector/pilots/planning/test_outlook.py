"""What a plan can show, from the values of its baseline: which periods count, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.planning.analyses import NotPlannable
from collector.pilots.planning.baseline import BaselineValues, baseline_values
from collector.pilots.planning.outlook import Outlook, outlook
from collector.store.pruned import sums
from collector.store.sqlite_source import SqliteSource
from tests.unit.collector.pilots.kpis.stored_rows import HOUR, NODE, T0, Plant
from tests.unit.collector.pilots.planning.pilots import DESIGN, KPI, plan, used
from wire.errors import EdgebedError
from wire.pilot.plan import Plan

HOURS = 40
TARGET = "target: {min: 0.1, effect: 0.5}"
LEVEL = "formula: mean(level)\n    from: {level: {field: cell/production/level}}\n    unit: ''"
SWITCHED = "kind: switchback, unit: 1h, periods: 20, seed: 7"
BEFORE_AFTER = "kind: before-after, unit: 1h, periods: 20"
MACHINES = [f"{NODE}/m{machine}" for machine in range(8)]
GROUPS = "unit: 1h, periods: 20, seed: 7, groups: {machines: ["
FOUR = [NODE, *(f"acme/trial/hall/cell-1{at}" for at in (1, 2, 3))]
PARALLEL = f"kind: parallel, {GROUPS}{', '.join(FOUR)}], treated: 2}}"
ON_FOUR = (f"[{NODE}]", f"[{', '.join(FOUR)}]")
PAIRED = f"kind: paired, {GROUPS}{', '.join(MACHINES)}]}}"
MODEL = "kind: model\n  what: {en: a, ko: b}\n  slot: anomaly\n  model: m@1.0.0\n  sha256: " + "a" * 64
THRESHOLD = (
    "kind: threshold\n  what: {en: a lower threshold, ko: 더 낮은 임계값}\n  slot: anomaly\n"
    "  parameter: level\n  on: 0.4\n  off: 0.8"
)


def at(hour: float) -> str:
    return f"{datetime.fromtimestamp((T0 + hour * HOUR) / 1_000, UTC):%F %T}"


def hourly(*pairs: tuple[str, str], design: str = SWITCHED) -> Plan:
    """A plan with a baseline of 40 hours from T0 and a trial of 20 hours after it."""
    return plan(
        (DESIGN, design),
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{NODE}]"),
        ("tz: Asia/Seoul", "tz: UTC"),
        ("from: 2027-02-01, to: 2027-03-01", f"from: {at(0)}, to: {at(HOURS)}"),
        ("from: 2027-03-01 06:00, to: 2027-03-07 22:00", f"from: {at(50)}, to: {at(70)}"),
        (KPI, LEVEL),
        ("target: {min: 0.1}", TARGET),
        *pairs,
    )


def levels(hours: int = HOURS, seed: int = 1, sd: float = 0.1) -> np.ndarray:
    return 100 * np.exp(sd * np.random.default_rng(seed).standard_normal(hours))


def seen(found: Plan, *values: Sequence[float] | tuple[PeriodValue, ...], to_come: int = 0) -> Outlook:
    """The outlook for values of the KPIs, or of the machines; NaN is a period without data."""
    periods = [each if isinstance(each, tuple) else counted(each) for each in values]
    groups = found.design.groups
    if groups is not None:
        kpis = {found.primary.id: dict(zip(groups.machines, periods, strict=True))}
    else:
        kpis = {kpi.id: {"": each} for kpi, each in zip(found.kpis, periods, strict=False)}
    return outlook(found, BaselineValues(now_ms=0, to_come=to_come, last_ms=T0 + HOURS * HOUR, kpis=kpis))


def counted(values: Sequence[float]) -> tuple[PeriodValue, ...]:
    return tuple(
        replace(each, status="missing", code="no-data") if np.isnan(each.value or 0.0) else each
        for each in used(values)
    )


# --- from a store


@pytest.fixture
def plant(tmp_path: Path, clock: Any) -> Iterator[Plant]:
    made = Plant(tmp_path / "store", clock)
    yield made
    made.store.close()


def fill(plant: Plant, hours: Sequence[float], *, path: str = "cell/production", per: int = 300_000) -> None:
    """A level for each hour; NaN is an hour without rows."""
    plant.commit(
        [
            plant.data(T0 + hour * HOUR, {"level": [float(level)] * (HOUR // per)}, per=per, path=path)
            for hour, level in enumerate(hours)
            if not np.isnan(level)
        ]
    )


def stored(plant: Plant, found: Plan, now: float = 60) -> BaselineValues:
    plant.ledger.note_pruned(sums(plant.folder))
    with closing(SqliteSource(plant.folder)) as source:
        return baseline_values(found, source, plant.ledger, T0 + round(now * HOUR))


def test_the_values_of_a_store_are_planned(plant: Plant) -> None:
    found = np.where(np.arange(HOURS) % 3, levels(), 5.0)
    found[[2, 5, 17]] = np.nan
    fill(plant, found)
    condition = "{id: idle, when: mean(level) < 10, from: {level: {field: cell/production/level}}}"
    asked = hourly(("kpis:", f"exclude: {{when: [{condition}]}}\nkpis:"))
    made = outlook(asked, stored(plant, asked))
    first = made.kpis[0]
    assert (first.id, first.used, first.over) == ("stops", 23, 40)
    assert first.left_out == {"condition idle": 14, "no-data": 3}
    assert first.mean == pytest.approx(float(np.nanmean(found[found > 10])))
    assert (
        "stops: 23 of 40 periods of the baseline count; left out: 14 condition idle, 3 no-data"
        in made.sentences
    )
    assert any(
        "43% of the baseline's periods do not count, above exclude.max_share 20%" in each
        for each in made.notes
    )
    assert (
        stored(plant, asked, now=30.5).to_come,
        len(stored(plant, asked, now=30.5).kpis["stops"][""]),
    ) == (10, 30)
    assert stored(plant, asked, now=-5).kpis["stops"] == {"": ()}
    text = f"  baseline: {{from: {at(0)}, to: {at(HOURS)}}}\n"
    with pytest.raises(EdgebedError, match="has no baseline"):
        stored(plant, hourly((text, "")))


def test_each_machine_of_a_store_has_its_own_values(plant: Plant) -> None:
    for machine in range(8):
        fill(plant, [1.0 + machine] * 3, path=f"m{machine}/production", per=1_200_000)
    found = stored(plant, hourly((THRESHOLD, MODEL), design=PAIRED), now=3)
    means = {name: each[0].value for name, each in found.kpis["stops"].items()}
    assert means == {name: 1.0 + machine for machine, name in enumerate(MACHINES)}


# --- what can be shown


def test_a_strong_plan() -> None:
    made = seen(hourly(), levels())
    assert made.power > 0.99
    assert not made.is_refused
    assert made.notes == ()
    assert "20 periods show an effect of 50.0% in 100% of pilots" in made.sentences
    assert made.kpis[0].smallest is not None
    assert 0.15 < made.kpis[0].smallest < 0.3


def test_periods_that_do_not_count_cost_pairs() -> None:
    found = levels()
    found[[3, 4, 17]] = np.nan
    assert (
        "with as many periods left out as in the baseline, 9 of 10 pairs remain"
        in seen(hourly(), found).sentences
    )
    found[10:30] = np.nan
    with pytest.raises(
        NotPlannable, match="stops: 18 periods with data in the baseline; a plan needs 20, 2 more"
    ):
        seen(hourly(), found)


def test_a_baseline_that_is_not_over_says_until_when() -> None:
    made = seen(hourly(), levels(30), to_come=10)
    assert any("10 periods are to come" in note for note in made.notes)
    with pytest.raises(NotPlannable, match=f"7 more; 27 are to come until {at(HOURS)[:16]}: ask again then"):
        seen(hourly(), levels(13), to_come=27)
    with pytest.raises(NotPlannable, match="0 periods with data in the baseline"):
        seen(hourly(), (), to_come=40)


def test_a_plan_that_shows_nothing_is_refused_and_a_weak_one_marked() -> None:
    found = levels(sd=0.5)
    assert seen(hourly((TARGET, "target: {min: 0.1, effect: 0.3}")), found).is_refused
    weak = seen(hourly((TARGET, "target: {min: 0.1, effect: 0.5}")), found)
    assert 0.5 < weak.power < 0.8
    assert weak.notes == ("the power is below 80%",)
    assert weak.kpis[0].needed is not None
    assert weak.kpis[0].needed > 20


def test_the_switchback_stands_beside_before_and_after() -> None:
    made = seen(hourly(design=BEFORE_AFTER), levels())
    assert made.switchback_periods == 20
    assert made.sentences[-1] == "a switchback shows it in 20 periods, where the change can be switched"


@pytest.mark.parametrize("estimand", ["mean", "ratio"])
def test_weekdays_and_covariates_are_taken_out_of_before_and_after(estimand: str) -> None:
    """A level that follows a covariate leaves little noise to a plan that knows the covariate."""
    drawn = np.random.default_rng(2)
    heat = 10 * drawn.standard_normal(HOURS)
    level = used(100 * np.exp(0.02 * heat + 0.01 * drawn.standard_normal(HOURS)))
    adjust = "adjust: {covariates: {heat: {field: cell/production/heat}}, weekday: true}\nkpis:"
    small = (TARGET, "target: {min: 0, effect: 0.1}"), (LEVEL, f"{LEVEL}\n    estimand: {estimand}")
    asked = hourly(*small, ("kpis:", adjust), design=BEFORE_AFTER)
    known = BaselineValues(
        now_ms=0, to_come=0, last_ms=0, kpis={"stops": {"": level}}, covariates={"heat": used(heat)}
    )
    assert seen(hourly(*small, design=BEFORE_AFTER), level).power < 0.2
    found = outlook(asked, known)
    assert found.power > 0.9
    assert not any("the covariates" in note for note in found.notes)


def test_a_file_of_values_has_no_covariates_and_no_weekdays() -> None:
    adjust = "adjust: {covariates: {heat: {field: cell/production/heat}}, weekday: true}\nkpis:"
    values = tuple(replace(each, start_ms=0) for each in used(levels()))
    for design, wanted in ((BEFORE_AFTER, ["the covariates and the weekdays of adjust"]), (SWITCHED, [])):
        found = seen(hourly(("kpis:", adjust), design=design), values)
        assert [note[:41] for note in found.notes if "of adjust" in note] == wanted


def test_guardrails_that_no_pilot_can_show_are_named() -> None:
    guard = f"\n  - id: heat\n    class: E\n    {LEVEL}\n    direction: decrease\n"
    guard += "    guardrail: {worse_than: 0.02}"
    found = levels(), levels(sd=0.2)
    made = seen(hourly((TARGET, TARGET + guard)), *found)
    assert (made.kpis[1].role, made.kpis[1].id) == ("guardrail", "heat")
    assert made.kpis[1].power is not None
    assert made.kpis[1].power < 0.2
    assert any("guardrail heat: most pilots of this plan cannot show" in note for note in made.notes)
    assert seen(hourly((TARGET, TARGET + guard.replace("0.02", "0.9"))), *found).kpis[1].power == 1.0


def test_counts_say_how_many_events_are_expected() -> None:
    """About one event a period: a halving is not shown by 20 periods."""
    events = np.random.default_rng(4).poisson(1.0, HOURS)
    made = seen(hourly((LEVEL, LEVEL.replace("mean(", "delta(") + "\n    estimand: count")), events)
    assert made.is_refused
    expected = (
        f"about {events.mean() * 10 * 1.5:.0f} events are expected in both arms together; 20 are the least"
    )
    assert expected in made.sentences


def test_a_value_of_0_is_planned_as_a_ratio_or_refused() -> None:
    found = levels()
    found[7] = 0
    assert seen(hourly(), found).power > 0.8
    with pytest.raises(NotPlannable, match="a value of the baseline is 0: state the target as a difference"):
        seen(hourly(design=BEFORE_AFTER), found)


def test_machines_are_planned_by_their_differences() -> None:
    found = [(1 + machine) * levels(seed=machine) for machine in range(4)]
    made = seen(hourly((TARGET, "target: {min: 0, effect: 0.3}"), ON_FOUR, design=PARALLEL), *found)
    assert (made.of, made.planned) == ("machines", 4)
    assert made.power > 0.8
    assert any("2 + 2 machines show an effect of 30.0% in" in each for each in made.sentences)
    assert any("ask for 4 + 4 machines" in note for note in made.notes)
    small = seen(hourly((TARGET, "target: {min: 0, effect: 0.07}"), ON_FOUR, design=PARALLEL), *found)
    assert small.kpis[0].needed is not None
    assert any(f"you need {small.kpis[0].needed // 2} + " in each for each in small.sentences)
    found[2][:] = np.nan
    with pytest.raises(NotPlannable, match=f"{FOUR[2]}: 0 periods with data"):
        seen(hourly(ON_FOUR, design=PARALLEL), *found)


def test_model_against_rule_is_planned_by_the_means_of_machines() -> None:
    found = [levels(seed=machine) * np.exp(0.05 * machine) for machine in range(8)]
    absolute = (TARGET, "target: {min: 0, effect: 200, scale: absolute}")
    made = seen(hourly((THRESHOLD, MODEL), absolute, design=PAIRED), *found)
    assert made.planned == 8
    assert "8 machines show an effect of 200 in 100% of pilots" in made.sentences
    found[0][:] = found[1][:] = np.nan
    with pytest.raises(NotPlannable, match="6 machines or periods have data in the baseline, not 7"):
        seen(hourly((THRESHOLD, MODEL), absolute, design=PAIRED), *found)
