"""The effect on a KPI by the design of its plan, from the values of its periods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from collector.pilots.effects import (
    Refused,
    Result,
    before_after,
    clusters,
    counts,
    energy,
    numbers,
    ratios,
    switchback,
)
from collector.pilots.effects import parallel as machines
from collector.pilots.effects.effect import Effect
from collector.pilots.effects.phases import Flags, Trend
from collector.pilots.effects.placebo import Placebo, at_each_date, placebo
from collector.pilots.kpis.evaluate import PeriodValue
from wire.pilot.plan import Kpi, Plan
from wire.pilot.schedule import Arm, Schedule, time_zone

SideName = Literal["baseline", "trial", "on", "off"]
Part = Literal["value", "numerator", "denominator"]
_PARTS: tuple[Part, Part] = ("numerator", "denominator")
_ARMS: tuple[Arm, Arm] = ("on", "off")
Column = list[float | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """A KPI in the periods that are over.

    `values` are those of each machine of a parallel or paired design that names machines; else `""` has
    those of all nodes together. `covariates` are the values of `adjust.covariates`.
    """

    kpi: Kpi
    values: Mapping[str, Sequence[PeriodValue]]
    covariates: Sequence[Sequence[PeriodValue]] = ()

    @property
    def whole(self) -> Sequence[PeriodValue]:
        """The values of all nodes together."""
        return self.values[""]


def scale_of(kpi: Kpi, plan: Plan) -> bool:
    """Whether the KPI is judged by relative effects."""
    limit = kpi.target or kpi.guardrail
    if limit is None:
        return plan.design.kind != "paired"
    return limit.scale == "relative"


def side_of(plan: Plan, schedule: Schedule, each: PeriodValue) -> SideName:
    """The side on which a period counts."""
    kind = plan.design.kind
    if kind == "before-after":
        return each.phase
    if kind == "paired":
        return each.phase
    if kind == "parallel" and schedule.periods[each.index].arm == "off":
        return "baseline"  # also the periods of the trial before the date that was drawn
    return "baseline" if each.phase == "baseline" else each.arm


def effect_of(
    plan: Plan,
    schedule: Schedule,
    measured: Measured,
    *,
    relative: bool | None = None,
    trend: Trend | None = None,
) -> Result:
    """The effect, or why there is no interval; None is the scale of the target, or the trend of the plan."""
    is_relative = scale_of(measured.kpi, plan) if relative is None else relative
    found = _effect(plan, schedule, measured, is_relative, trend or plan.adjust.trend)
    is_free = relative is None and measured.kpi.target is None and measured.kpi.guardrail is None
    if is_free and isinstance(found, Refused) and found.code == "values-not-positive":
        return _effect(plan, schedule, measured, False, trend or plan.adjust.trend)
    return found


def _effect(plan: Plan, schedule: Schedule, measured: Measured, relative: bool, trend: Trend) -> Result:
    kind = plan.design.kind
    if kind == "switchback":
        return _switchback(plan, measured, relative)
    if kind == "before-after":
        counted = [each for each in measured.whole if each.phase in ("baseline", "trial")]
        on = [each.phase == "trial" for each in counted]
        return _before_after(plan, schedule, measured, on, relative=relative, trend=trend)
    if kind == "parallel":
        return _parallel(plan, schedule, measured, relative)
    return _paired(plan, measured, relative)


def column(several: Sequence[PeriodValue | None], part: Part) -> Column:
    """One number of each period, None where it does not count."""
    return [None if each is None or each.status != "used" else getattr(each, part) for each in several]


def _switchback(plan: Plan, measured: Measured, relative: bool) -> Result:
    trial = [each for each in measured.whole if each.phase == "trial"]
    pairs = [{each.arm: each for each in pair} for pair in zip(trial[::2], trial[1::2], strict=False)]
    alpha, seed = plan.analysis.alpha, plan.design.seed

    def of(arm: Arm, part: Part) -> Column:
        return column([each.get(arm) for each in pairs], part)

    estimand = measured.kpi.compared
    if estimand == "mean" or not relative:
        return switchback.effect(
            of("on", "value"), of("off", "value"), seed=seed, alpha=alpha, relative=relative
        )
    on, on_per, off, off_per = (of(arm, part) for arm in _ARMS for part in _PARTS)
    if estimand == "ratio":
        return ratios.pairs(on, on_per, off, off_per, alpha=alpha)
    return counts.pairs(on, off, on_exposure=on_per, off_exposure=off_per, alpha=alpha)


# --- baseline and trial


def _before_after(
    plan: Plan,
    schedule: Schedule,
    measured: Measured,
    on: Sequence[bool] | Flags,
    *,
    relative: bool,
    trend: Trend,
) -> Result:
    values, alpha = measured.whole, plan.analysis.alpha
    at = numbered(schedule)
    times = [at[each.index] for each in values]
    if measured.kpi.compared == "mean" or not relative:
        found = before_after.effect(
            column(values, "value"),
            on,
            times=times,
            covariates=columns_of(plan, measured),
            trend=trend,
            alpha=alpha,
            relative=relative,
        )
        if not isinstance(found, Effect) or measured.kpi.kpi_class != "E":
            return found
        return replace(found, extras={**found.extras, **_energy_labels(plan, schedule, measured)})
    above, below = (column(values, part) for part in _PARTS)
    return before_after.ratio(
        above, below, on, times=times, covariates=columns_of(plan, measured), trend=trend, alpha=alpha
    )


def _energy_labels(plan: Plan, schedule: Schedule, measured: Measured) -> dict[str, float | str]:
    """How well the weekdays and covariates of the plan explain the baseline of an energy KPI."""
    kept = [at for at, each in enumerate(measured.whole) if each.phase == "baseline"]
    values, *columns = (
        [several[at] for at in kept]
        for several in (column(measured.whole, "value"), *columns_of(plan, measured))
    )
    period = schedule.periods[0]
    return energy.labels(values, columns, period_h=(period.end_ms - period.start_ms) / 3_600_000)


def columns_of(plan: Plan, measured: Measured) -> list[Column]:
    """The covariates and weekdays of the plan, a column each."""
    found = [column(each, "value") for each in measured.covariates]
    if plan.adjust.weekday:
        zone = time_zone(plan.windows.tz)
        days = [datetime.fromtimestamp(each.start_ms / 1000, zone).weekday() for each in measured.whole]
        found += [[float(day == which) for day in days] for which in range(1, 7)]
    return found


def numbered(schedule: Schedule) -> list[float]:
    """The number of each period; time between the windows keeps its length in periods."""
    lengths = sorted(each.end_ms - each.start_ms for each in schedule.periods)
    usual = lengths[len(lengths) // 2]
    found, at, end_ms = [], 0.0, schedule.periods[0].start_ms
    for each in schedule.periods:
        at += round((each.start_ms - end_ms) / usual)
        found.append(at)
        at, end_ms = at + 1.0, each.end_ms
    return found


def placebo_of(plan: Plan, schedule: Schedule, measured: Measured, *, relative: bool) -> Placebo:
    """At how many fake dates of the baseline the rule of the plan shows an effect."""
    baseline = [each for each in measured.whole if each.phase == "baseline"]
    before = Measured(measured.kpi, {"": baseline}, [each[: len(baseline)] for each in measured.covariates])
    if measured.kpi.compared == "mean" or not relative:
        at = numbered(schedule)
        return placebo(
            column(baseline, "value"),
            times=[at[each.index] for each in baseline],
            covariates=columns_of(plan, before),
            alpha=plan.analysis.alpha,
            relative=relative,
        )
    kept = [at for at, each in enumerate(baseline) if each.status == "used"]
    used = [baseline[at] for at in kept]
    counted = Measured(measured.kpi, {"": used}, [[each[at] for at in kept] for each in before.covariates])
    return at_each_date(
        len(used), lambda on: _before_after(plan, schedule, counted, on, relative=True, trend="none")
    )


# --- machines


def _parallel(plan: Plan, schedule: Schedule, measured: Measured, relative: bool) -> Result:
    """All machines are compared on one scale: of logarithms of the periods, of the phases, or of the unit."""
    phases = {name: _phases(schedule, values) for name, values in sorted(measured.values.items())}
    by_period = relative and measured.kpi.compared == "mean" and _all_positive(measured)
    treated, control = Column(), Column()
    for machine, (after, before) in phases.items():
        levels = [_level(phase, measured.kpi, by_period) for phase in (after, before)]
        if relative and not by_period:
            if any(each is not None and each <= 0 for each in levels):
                sentence = f"{machine} has 0 or less in a phase: state the target as a difference."
                return Refused("values-not-positive", sentence)  # to leave it out would hide what happened
            levels = [None if each is None else math.log(each) for each in levels]
        new, old = levels
        change = None if new is None or old is None else new - old
        (treated if machine in schedule.treated else control).append(change)
    return machines.effect(
        treated, control, seed=plan.design.seed, alpha=plan.analysis.alpha, relative=relative
    )


def _phases(schedule: Schedule, values: Sequence[PeriodValue]) -> tuple[list[PeriodValue], list[PeriodValue]]:
    """The periods of one machine after the change, and those before it."""
    after = [schedule.periods[each.index].arm == "on" for each in values]
    new, old = (
        [each for each, is_after in zip(values, after, strict=True) if is_after is want]
        for want in (True, False)
    )
    return new, old


def _all_positive(measured: Measured) -> bool:
    columns = [column(values, "value") for values in measured.values.values()]
    return all(each is None or each > 0 for several in columns for each in several)


def _level(values: Sequence[PeriodValue], kpi: Kpi, as_logarithms: bool) -> float | None:
    """The mean of the values or of their logarithms, or the quotient of the sums of a ratio or a count."""
    if kpi.compared == "mean":
        known = [each for each in column(values, "value") if each is not None]
        return _mean([math.log(each) for each in known] if as_logarithms else known) if known else None
    above, below = sums_of(values)
    return above / below if below else None


def sums_of(values: Sequence[PeriodValue]) -> tuple[float, float]:
    """The sums of numerators and denominators of the periods that count."""
    (above, below), _ = numbers.whole(*(column(values, part) for part in _PARTS))
    return numbers.total(above), numbers.total(below)


def _paired(plan: Plan, measured: Measured, relative: bool) -> Result:
    """A KPI of this design is itself a comparison: a difference, or with `relative` a quotient."""
    if plan.design.groups is None:
        rows = [[each] for each in _trial(measured.whole)]
    else:
        rows = [_trial(values) for _, values in sorted(measured.values.items())]
    if relative:
        known = [each for several in rows for each in several if each is not None]
        if known and min(known) <= 0:
            sentence = "A quotient of model and rule is 0 or negative: state the target as a difference."
            return Refused("values-not-positive", sentence)
        rows = [[None if each is None else math.log(each) for each in several] for several in rows]
    return clusters.effect(rows, seed=plan.design.seed, alpha=plan.analysis.alpha, relative=relative)


def _trial(values: Sequence[PeriodValue]) -> Column:
    return column([each for each in values if each.phase == "trial"], "value")


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are finite, or NaN."""
    (kept,), _ = numbers.whole(values)
    return numbers.mean(kept) if len(kept) else math.nan
