"""Which analysis a plan freezes for a KPI, with the noise that its baseline shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from collector.pilots.effects import numbers, phases, planning
from collector.pilots.effects.averaging import models
from collector.pilots.effects.clusters import LEAST_CLUSTERS
from collector.pilots.effects.effect import Refused
from collector.pilots.effects.student_t import Floats
from collector.pilots.kpis.evaluate import PeriodValue
from collector.pilots.planning.power import OfClusters, OfCounts, OfMachines, OfPairs, OfPhases, Power
from wire.errors import EdgebedError
from wire.pilot.plan import Kpi, Plan
from wire.pilot.schedule import schedule, time_zone

_DIFFERENCES = 4_000
_DAY_MS = 86_400_000
Values = Sequence[PeriodValue]


class NotPlannable(EdgebedError):
    """The baseline gives no answer; the sentence says what is missing."""


def analysis(
    plan: Plan, kpi: Kpi, values: Mapping[str, Values], covariates: Mapping[str, Values] | None = None
) -> tuple[Power, planning.Noise | None]:
    """The power of the plan for a KPI, and the noise of its baseline where it is one series.

    Raises:
        NotPlannable: the sentence says why.
    """
    limit = kpi.target or kpi.guardrail
    relative = limit is None or limit.scale == "relative"
    design = plan.design
    if design.kind == "parallel":
        return _machines(plan, kpi, values, relative=relative), None
    if design.kind == "paired":
        return _clusters(plan, kpi, values, relative=relative), None
    (found,) = values.values()
    if design.kind == "switchback":
        return _pairs(plan, kpi, found, relative=relative)
    return _phases(plan, kpi, found, covariates or {}, relative=relative)


def share_kept(found: Values) -> float:
    """The share of periods that count."""
    return sum(each.status == "used" for each in found) / len(found) if found else 0.0


def _pairs(plan: Plan, kpi: Kpi, found: Values, *, relative: bool) -> tuple[Power, planning.Noise | None]:
    series, is_log = _series(kpi, found, relative=relative, zero_is_ratio=True)
    kept = share_kept(found)
    if kpi.compared == "count" and relative:
        seen = planning.noise(series)  # equal counts in all periods do not refuse a plan
        return _counts(plan, kpi, found, kept), None if isinstance(seen, Refused) else seen
    noise = _noise(series)
    exact = is_log or not relative
    made = OfPairs(
        sign=kpi.sign,
        relative=relative,
        alpha=plan.analysis.alpha,
        kept=kept,
        step_sd=noise.step_sd,
        exact=exact,
    )
    return made, noise


def _counts(plan: Plan, kpi: Kpi, found: Values, kept: float) -> OfCounts:
    used = [each for each in found if each.status == "used"]
    events = np.array([each.numerator or 0.0 for each in used])
    exposures = np.array([each.denominator or 0.0 for each in used])
    if events.sum() <= 0 or exposures.min() <= 0:
        raise NotPlannable(
            f"{kpi.id}: no event, or a period without exposure: nothing can be planned from that"
        )
    rate = float(events.sum() / exposures.sum())
    expected = rate * exposures
    rest = events - expected
    spread = max(0.0, float(((rest**2).sum() - expected.sum()) / (expected**2).sum()))
    index = np.array([each.index for each in used])
    beside = np.diff(index) == 1
    norm = float((expected[1:] * expected[:-1])[beside].sum())
    shared = float((rest[1:] * rest[:-1])[beside].sum()) / norm if norm else 0.0
    return OfCounts(
        sign=kpi.sign,
        relative=True,
        alpha=plan.analysis.alpha,
        kept=kept,
        rate=rate,
        exposures=exposures * _without_washout(plan),
        spread=spread,
        shared=min(max(0.0, shared), spread),
        seed=plan.design.seed,
    )


def _without_washout(plan: Plan) -> float:
    trial = schedule(plan).trial
    mean_s = (trial[-1].end_ms - trial[0].start_ms) / len(trial) / 1_000
    return max(0.0, 1 - plan.design.washout_s / mean_s)


def _phases(
    plan: Plan, kpi: Kpi, found: Values, covariates: Mapping[str, Values], *, relative: bool
) -> tuple[Power, planning.Noise]:
    series, is_log = _series(kpi, found, relative=relative)
    columns = _weekdays(plan, found) if plan.adjust.weekday else []
    for each in covariates.values():
        known = {one.index: one.value for one in each if one.status == "used"}
        columns.append(numbers.array([known.get(one.index) for one in found]))
    noise = _noise(series, columns)
    return OfPhases(
        sign=kpi.sign,
        relative=relative,
        in_logs=is_log,
        alpha=plan.analysis.alpha,
        kept=noise.periods / len(found),
        noise=noise,
        trend=_trend(plan, kpi),
        seed=plan.design.seed,
        weekdays=lambda periods: _any_weekdays(plan, periods),
        by_chance=_by_chance(kpi, found, noise) if relative else 0.0,
    ), noise


def _by_chance(kpi: Kpi, found: Values, noise: planning.Noise) -> float:
    """The part of the variance of a count's share that the counting alone makes."""
    if kpi.compared != "count":
        return 0.0
    mean = float(np.mean([each.numerator or 0.0 for each in found if each.status == "used"]))
    return min(1.0, 1 / (mean * noise.sd**2)) if noise.sd else 1.0


def _trend(plan: Plan, kpi: Kpi) -> phases.Trend:
    """A guardrail is judged by the plain interval."""
    return "none" if kpi.target is None and plan.adjust.trend == "check" else plan.adjust.trend


def _machines(plan: Plan, kpi: Kpi, values: Mapping[str, Values], *, relative: bool) -> OfMachines:
    several = [_series(kpi, found, relative=relative, zero_is_ratio=True)[0] for found in values.values()]
    for name, series in zip(values, several, strict=True):
        if np.isnan(series).all():
            raise NotPlannable(f"{kpi.id}: no period of the baseline of {name} counts")
    rows = np.array([series - np.nanmean(series) for series in several])
    # what all machines have in common at one time cancels between the groups
    with np.errstate(invalid="ignore"):
        known = (~np.isnan(rows)).sum(axis=0)
        common = np.where(known > 1, np.nansum(rows, axis=0) / np.maximum(known, 1), np.nan)
    rest = (rows - common) * math.sqrt(len(rows) / (len(rows) - 1))
    noises = _alike([_noise(each, machine=name) for name, each in zip(values, rest, strict=True)])
    kept = sum(map(share_kept, values.values())) / len(values)
    trial = round(plan.design.periods * kept)
    drawn = np.random.Generator(np.random.PCG64(plan.design.seed))
    differences = []
    for noise in noises:
        before = noise.periods
        series = planning.simulated(
            noise, np.arange(before + trial, dtype=float), -(-_DIFFERENCES // len(noises)), drawn
        )
        differences.append(series[before:].mean(axis=0) - series[:before].mean(axis=0))
    groups = plan.design.groups
    return OfMachines(
        sign=kpi.sign,
        relative=relative,
        alpha=plan.analysis.alpha,
        differences=np.concatenate(differences),
        treated=None if groups is None else groups.treated,
        planned=len(values),
        seed=plan.design.seed,
    )


def _alike(noises: list[planning.Noise]) -> list[planning.Noise]:
    """The noises with one correlation, which all baselines together show; each keeps its size."""
    _, _, priors = models()
    logs = sum(np.log(np.maximum(each.weights, 1e-300)) for each in noises) - (len(noises) - 1) * priors
    weights = np.exp(logs - logs.max())
    return [replace(each, weights=weights / weights.sum()) for each in noises]


def _clusters(plan: Plan, kpi: Kpi, values: Mapping[str, Values], *, relative: bool) -> OfClusters:
    found = [
        numbers.array([each.value if each.status == "used" else None for each in one])
        for one in values.values()
    ]
    # without machines each period is a cluster of its own
    rows = [each[~np.isnan(each)] for each in (found if len(found) > 1 else found[0][:, None])]
    rows = [each for each in rows if len(each)]
    if relative and any(each.min() <= 0 for each in rows):
        raise NotPlannable(
            f"{kpi.id}: a quotient of model and rule is 0 or negative: state the target as a difference"
        )
    means = [float((np.log(each) if relative else each).mean()) for each in rows]
    if len(means) < LEAST_CLUSTERS:
        raise NotPlannable(
            f"{kpi.id}: {len(means)} machines or periods have data in the baseline, not {LEAST_CLUSTERS}"
        )
    return OfClusters(
        sign=kpi.sign, relative=relative, alpha=plan.analysis.alpha, sd=float(np.std(means, ddof=1))
    )


def _series(kpi: Kpi, found: Values, *, relative: bool, zero_is_ratio: bool = False) -> tuple[Floats, bool]:
    """The values in the scale of the frozen analysis, NaN where a period does not count; whether in logs.

    A ratio or count is linearised around the quotient of its sums, whose share it moves.
    """
    used = [each if each.status == "used" else None for each in found]
    values = numbers.array([None if each is None else each.value for each in used])
    if not relative:
        return values, False
    if kpi.compared == "mean":
        least = float(np.nanmin(values)) if (~np.isnan(values)).any() else 1.0
        if least < 0 or (least == 0 and not zero_is_ratio):
            what = "negative" if least < 0 else "0"
            raise NotPlannable(
                f"{kpi.id}: a value of the baseline is {what}: state the target as a difference"
            )
        if least > 0:
            return np.log(values), True
        above, below = values, np.where(np.isnan(values), math.nan, 1.0)
    else:
        above = numbers.array([None if each is None else each.numerator for each in used])
        below = numbers.array([None if each is None else each.denominator for each in used])
    if len(used) != used.count(None):
        top, bottom = float(np.nansum(above)), float(np.nansum(below))
        if not (top > 0 and bottom > 0):
            raise NotPlannable(
                f"{kpi.id}: its sums over the baseline are {top:g} / {bottom:g}: it has no share"
            )
        return (above - top / bottom * below) / np.nanmean(above), False
    return values, False


def _noise(series: Floats, columns: Sequence[Floats] = (), machine: str = "") -> planning.Noise:
    found = planning.noise(series, covariates=columns)
    if isinstance(found, Refused):
        raise NotPlannable(f"{machine}: {found.sentence}" if machine else found.sentence)
    return found


def _weekdays(plan: Plan, found: Values) -> list[Floats]:
    """A column for each weekday but the first that is there."""
    zone = time_zone(plan.windows.tz)
    days = np.array([datetime.fromtimestamp(each.start_ms / 1_000, zone).weekday() for each in found])
    return [(days == day).astype(float) for day in np.unique(days)[1:]]


def _any_weekdays(plan: Plan, periods: int) -> list[Floats]:
    """The columns of weekdays of periods that follow each other, whatever the first day is."""
    if not plan.adjust.weekday:
        return []
    trial = schedule(plan).trial
    length = (trial[-1].end_ms - trial[0].start_ms) / len(trial)
    days = np.floor(np.arange(periods) * length / _DAY_MS) % 7
    return [(days == day).astype(float) for day in np.unique(days)[1:]]
