"""One KPI of a report: its sides, flow, effect, verdict, placebo dates and sensitivity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from collector.pilots.effects import Result, numbers, verdict
from collector.pilots.effects.effect import Effect
from collector.pilots.effects.verdict import Conduct, Guarded, Verdict
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.report import analysis
from collector.pilots.report.analysis import Measured, SideName
from collector.pilots.report.document import (
    EffectFound,
    Flow,
    KpiReport,
    PeriodFound,
    PlaceboDates,
    Refusal,
    Side,
    Variant,
)
from wire.pilot.plan import Kpi, Plan, Text
from wire.pilot.schedule import Schedule, counted

TO_COME = "to-come"
NOT_OVER = "trial-not-over"
CHANGED = "changed-after-start"

_ORDER: tuple[SideName, ...] = ("baseline", "trial", "on", "off")


@dataclass(frozen=True, slots=True)
class Judged:
    """A KPI in the report, with what decides about the pilot."""

    report: KpiReport
    verdict: Verdict | None
    guarded: Guarded | None
    measured: Measured


@dataclass(frozen=True, slots=True)
class Trial:
    """What is the same for all KPIs: the plan, its schedule, the moment, and how the pilot was run."""

    plan: Plan
    schedule: Schedule
    until_ms: int
    off_schedule: float
    changed_late: bool = False  # what is judged was changed when rows of the trial may have been seen

    @property
    def is_over(self) -> bool:
        """Whether the last period of the trial is over."""
        return self.schedule.trial_ms[1] <= self.until_ms


def judged(trial: Trial, measured: Measured, variants: Mapping[str, Callable[[], Measured]]) -> Judged:
    """A KPI of the report; `variants` measure it again with one choice changed."""
    plan, kpi = trial.plan, measured.kpi
    result = analysis.effect_of(plan, trial.schedule, measured)
    sides, flow = tuple(_sides(trial, measured)), tuple(_flow(trial, measured))
    placebo = _placebo(trial, measured) if kpi.primary else None
    conduct = _conduct(trial, flow, placebo)
    found = _verdict(trial, kpi, result, conduct, kpi.target.min) if kpi.target else None
    limit = kpi.guardrail
    guarded = _guarded(trial, kpi, result, conduct, limit.worse_than) if limit else None
    effect, refusal = stated(result)
    report = KpiReport(
        id=kpi.id,
        title=kpi.title or Text(en=kpi.id, ko=kpi.id),
        kpi_class=kpi.kpi_class,
        formula=kpi.formula,
        unit=kpi.unit,
        direction=kpi.direction,
        estimand=kpi.compared,
        primary=kpi.primary,
        sides=sides,
        flow=flow,
        effect=effect,
        refusal=refusal,
        target=kpi.target.min if kpi.target else None,
        target_scale=kpi.target.scale if kpi.target else "relative",
        word=found.word if found else None,
        reason=found.reason if found else None,
        guardrail=limit.worse_than if limit else None,
        guardrail_scale=limit.scale if limit else "relative",
        guarded=guarded.word if guarded else None,
        guarded_reason=guarded.reason if guarded else None,
        placebo=placebo,
        sensitivity=tuple(_variants(trial, measured, variants, (conduct, sides))) if kpi.primary else (),
        periods=tuple(_periods(trial, measured)),
    )
    return Judged(report, found, guarded, measured)


def _verdict(trial: Trial, kpi: Kpi, result: Result, conduct: Conduct, target: float) -> Verdict:
    if not trial.is_over:
        return Verdict("not-shown", NOT_OVER)  # a verdict on the way would be asked for until it pleases
    if trial.changed_late:
        return Verdict("not-shown", CHANGED)  # a target that is chosen after the data is always met
    return verdict.judge(result, target=target, sign=_sign(kpi), conduct=conduct)


def _guarded(trial: Trial, kpi: Kpi, result: Result, conduct: Conduct, worse_than: float) -> Guarded:
    found = verdict.guard(result, worse_than=worse_than, sign=_sign(kpi), conduct=conduct)
    if found.word == "broken" or (trial.is_over and not trial.changed_late):
        return found
    return Guarded("not-shown", CHANGED if trial.is_over else NOT_OVER)


def _sign(kpi: Kpi) -> Literal[1, -1]:
    return 1 if kpi.direction == "increase" else -1


def stated(result: Result) -> tuple[EffectFound | None, Refusal | None]:
    """An effect or a refusal as the report has it: a number that is not finite is None."""
    extras = {name: _finite(value) for name, value in sorted(result.extras.items())}
    if not isinstance(result, Effect):
        return None, Refusal(code=result.code, sentence=result.sentence, extras=extras)
    found = EffectFound(
        estimate=_number(result.estimate),
        low=_number(result.low),
        high=_number(result.high),
        method=result.method,
        n=result.n,
        alpha=result.alpha,
        relative=result.relative,
        df=result.df,
        p=_number(result.p),
        sd=_number(result.sd),
        correlation=_number(result.correlation),
        noise_share=_number(result.noise_share),
        difference_of_means=_number(result.difference_of_means),
        extras=extras,
    )
    return found, None


def _finite(value: float | int | str) -> float | int | str | None:
    return _number(value) if isinstance(value, float) else value


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


# --- sides and flow


def _by_side(trial: Trial, measured: Measured) -> dict[SideName, list[PeriodValue]]:
    found: dict[SideName, list[PeriodValue]] = {}
    for values in measured.values.values():
        for each in values:
            found.setdefault(analysis.side_of(trial.plan, trial.schedule, each), []).append(each)
    return found


def _sides(trial: Trial, measured: Measured) -> Iterator[Side]:
    by_side = _by_side(trial, measured)
    for name in (each for each in _ORDER if each in by_side):
        used = [each for each in by_side[name] if each.status == "used"]
        (values,), _ = numbers.whole([each.value for each in used])
        above, below = analysis.sums_of(used)
        is_mean = measured.kpi.compared == "mean"
        mean = numbers.mean(values) if len(values) else None
        yield Side(
            name=name,
            periods=len(used),
            mean=_number(mean if is_mean else above / below if below else None),
            sd=_number(numbers.sd(values)) if len(values) > 1 else None,
            numerator=None if is_mean or not used else _number(above),
            denominator=None if is_mean or not used else _number(below),
        )


def _flow(trial: Trial, measured: Measured) -> Iterator[Flow]:
    """The periods of each side; of a design with machines, those of every machine."""
    by_side = _by_side(trial, measured)
    to_come: Counter[SideName] = Counter(
        analysis.side_of(trial.plan, trial.schedule, each)
        for machine in measured.values
        for each in _coming(trial, machine, len(measured.values[machine]))
    )
    for name in (each for each in _ORDER if each in by_side or to_come[each]):
        values = by_side.get(name, [])
        left_out = Counter(each.code for each in values if each.status != "used")
        yield Flow(
            name=name,
            planned=len(values) + to_come[name],
            to_come=to_come[name],
            used=sum(each.status == "used" for each in values),
            left_out=dict(sorted(left_out.items())),
        )


def _coming(trial: Trial, machine: str, first: int) -> Iterator[PeriodValue]:
    """The periods that are not over; their status is not one of the KPIs."""
    schedule = trial.schedule
    is_treated = not machine or not schedule.treated or machine in schedule.treated
    for index, period in list(enumerate(schedule.periods))[first:]:
        start, end = counted(period, trial.plan, schedule.trial_ms[0])
        yield PeriodValue(
            index, period.phase, period.arm if is_treated else "off", start, end, "missing", TO_COME
        )


def _periods(trial: Trial, measured: Measured) -> Iterator[PeriodFound]:
    for machine, values in measured.values.items():
        for each in (*values, *_coming(trial, machine, len(values))):
            is_coming = each.code == TO_COME
            yield PeriodFound(
                index=each.index,
                phase=each.phase,
                arm=each.arm,
                start_ms=each.start_ms,
                end_ms=each.end_ms,
                status=TO_COME if is_coming else each.status,
                code="" if is_coming else each.code,
                why=each.why,
                value=_number(each.value),
                numerator=_number(each.numerator),
                denominator=_number(each.denominator),
                rows=each.rows,
                left_out=each.left_out,
                completeness=each.completeness,
                clock_ms=each.clock_ms,
                machine=machine,
            )


# --- how the pilot was run


def _conduct(trial: Trial, flow: Sequence[Flow], placebo: PlaceboDates | None) -> Conduct:
    design = trial.plan.design
    return Conduct(
        off_schedule=trial.off_schedule,
        complete=_is_whole(trial, flow),
        washout_covers=design.washout_s >= design.carry_over_s,
        placebo=placebo.shown / placebo.dates if placebo and placebo.dates else 0.0,
    )


def _is_whole(trial: Trial, flow: Sequence[Flow]) -> bool:
    return all(_is_complete(trial.plan, each) for each in flow if _is_compared(trial.plan, each))


def _is_compared(plan: Plan, flow: Flow) -> bool:
    return flow.name != "baseline" or plan.design.kind in ("before-after", "parallel")


def _is_complete(plan: Plan, flow: Flow) -> bool:
    """Whether no more periods were left out than the plan allows; those that settle are cut by the plan."""
    over = flow.planned - flow.to_come - flow.left_out.get("settling", 0)
    return over - flow.used <= plan.exclude.max_share * over


def _placebo(trial: Trial, measured: Measured) -> PlaceboDates | None:
    if trial.plan.design.kind != "before-after":
        return None
    relative = analysis.scale_of(measured.kpi, trial.plan)
    found = analysis.placebo_of(trial.plan, trial.schedule, measured, relative=relative)
    return PlaceboDates(dates=found.dates, shown=found.shown)


# --- sensitivity


def _variants(
    trial: Trial,
    measured: Measured,
    again: Mapping[str, Callable[[], Measured]],
    main: tuple[Conduct, Sequence[Side]],
) -> Iterator[Variant]:
    plan, kpi, (conduct, sides) = trial.plan, measured.kpi, main
    relative, target = analysis.scale_of(kpi, plan), kpi.target.min if kpi.target else 0.0
    for name in dict.fromkeys(plan.analysis.sensitivity):
        scale, asked, mine = relative, target, conduct
        result: Result | None = None
        if name == "trend" and plan.design.kind == "before-after":
            trend: Literal["none", "linear"] = "none" if plan.adjust.trend == "linear" else "linear"
            result = analysis.effect_of(plan, trial.schedule, measured, relative=relative, trend=trend)
        elif name == "scale" and (level := _level(sides)) is not None:
            scale = not relative
            asked = target * level if relative else target / level
            result = analysis.effect_of(plan, trial.schedule, measured, relative=scale)
        elif name in again:
            other = again[name]()
            result = analysis.effect_of(plan, trial.schedule, other, relative=relative)
            if name == "exclusions":
                mine = replace(conduct, complete=_is_whole(trial, tuple(_flow(trial, other))))
        if result is None:
            refusal = Refusal(code="not-applicable", sentence="This design or plan has no such variant.")
            yield Variant(name=name, refusal=refusal, word="not-shown")
            continue
        effect, refusal_ = stated(result)
        yield Variant(
            name=name,
            effect=effect,
            refusal=refusal_,
            word=_verdict(trial, kpi, result, mine, asked).word,
        )


def _level(sides: Sequence[Side]) -> float | None:
    """The value without the intervention, by which a share becomes a difference."""
    found = next((each.mean for each in sides if each.name == "off"), None)
    if found is None:
        found = next((each.mean for each in sides if each.name == "baseline"), None)
    return abs(found) if found else None
