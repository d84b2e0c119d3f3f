"""The effect of a change that came once: baseline before, trial after. The rule itself is in `phases`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from collector.pilots.effects import numbers, phases, ratios
from collector.pilots.effects.effect import Effect, Refused, Result, as_relative
from collector.pilots.effects.phases import LARGEST_STEP_RATIO, LEAST_PERIODS, Flags, Trend
from collector.pilots.effects.student_t import Floats

LEAST_DESCRIBED = 12  # periods a phase; under this the report does not describe the phases either
LEAST_LEFT = 10  # degrees of freedom
Numbers = dict[str, float | int | str]


def effect(
    values: numbers.Values,
    on: Sequence[bool] | Flags,
    *,
    times: numbers.Values | None = None,
    covariates: Sequence[numbers.Values] = (),
    trend: Trend = "check",
    alpha: float = 0.05,
    relative: bool = False,
) -> Result:
    """The effect of `on`, False in the baseline and True in the trial after it.

    `times` numbers the periods, in any order, so that a gap keeps its length. `covariates` are the weekdays
    and drivers of the plan, a column each. `relative`: the analysis of the logarithms.
    """
    (found, at, trial, *columns), missing = numbers.by_time(values, times, np.array(on, float), *covariates)
    phase = trial > 0
    about = _about(found, phase, missing)
    if refusal := _order(phase, at, about) or _refusal(found, phase, columns, about, relative):
        return refusal
    power = 0 if relative else numbers.unit(found)
    series = np.log(found) if relative else np.ldexp(found, -power)
    result = phases.intervals(series[:, None], phase, at, columns, trend=trend, alpha=alpha)
    ratio_of_steps = float(result.step_ratio[0])
    if not ratio_of_steps <= LARGEST_STEP_RATIO:
        sentence = "The noise of the KPI changed more than twofold with the change, so no interval holds."
        return Refused("noise-level-changed", sentence, {**about, "step_ratio": ratio_of_steps})
    about |= {"step_ratio": ratio_of_steps}
    return _stated(result, about, alpha=alpha, trend=trend, power=power, relative=relative)


def ratio(
    above: numbers.Values,
    below: numbers.Values,
    on: Sequence[bool] | Flags,
    *,
    times: numbers.Values | None = None,
    covariates: Sequence[numbers.Values] = (),
    trend: Trend = "check",
    alpha: float = 0.05,
) -> Result:
    """The change of sum(above) / sum(below), relative to the baseline's: the rule on the linearised ratio."""
    (top, at, bottom, trial, *columns), missing = numbers.by_time(
        above, times, below, np.array(on, float), *covariates
    )
    phase = trial > 0
    if refusal := _too_few(phase, {"missing": missing}):
        return refusal
    top, bottom = (np.ldexp(each, -numbers.unit(each)) for each in (top, bottom))
    if min(math.fsum(bottom[phase]), math.fsum(bottom[~phase]), math.fsum(top[~phase])) <= 0:
        return Refused("values-not-positive", "A sum of the ratio is not above 0 in a phase.")
    with np.errstate(over="ignore", invalid="ignore"):
        values = ratios.linearised(top, bottom, phase)
        values /= numbers.mean(values[~phase])
    if not np.isfinite(values).all():
        return numbers.too_far_apart()
    found = effect(values, phase, times=at, covariates=columns, trend=trend, alpha=alpha)
    if isinstance(found, Refused):
        return found
    extras = {**found.extras, "missing": missing}
    return replace(found, method="before-after-ratio", relative=True, extras=extras)


def _order(phase: Flags, times: Floats, about: Numbers) -> Refused | None:
    """Whether the periods are one after the other, and the trial after the baseline."""
    if not numbers.overlap(times) and not (np.diff(phase.astype(int)) < 0).any():
        return None
    sentence = "Two periods have the same time, or the baseline does not end before the trial."
    return Refused("design-not-identified", sentence, about)


def _refusal(
    values: Floats, phase: Flags, covariates: list[Floats], about: Numbers, relative: bool
) -> Refused | None:
    """Why the series gets no interval, before it is analysed."""
    if refusal := _too_few(phase, about):
        return refusal
    if relative and values.min() <= 0:
        sentence = "A value is 0 or negative: state the target as a difference, not as a share."
        return Refused("values-not-positive", sentence, about)
    matrix = phases.design(phase, covariates)
    if matrix is None or len(values) - matrix.shape[1] < LEAST_LEFT:
        sentence = "The covariates of the plan explain the change itself: take one out."
        return Refused("design-not-identified", sentence, about)
    series = np.log(values) if relative else np.ldexp(values, -numbers.unit(values))
    rest = phases.residuals(series[:, None], matrix)
    if float(np.abs(rest).max()) <= 1e-12 * max(float(np.abs(series).max()), 1e-3):
        sentence = "The values of each phase are equal: check that the KPI is measured."
        return Refused("values-do-not-vary", sentence, about)
    return None


def _too_few(phase: Flags, about: Numbers) -> Refused | None:
    before, after = int((~phase).sum()), int(phase.sum())
    if min(before, after) >= LEAST_PERIODS:
        return None
    sentence = f"{before} periods with data in the baseline and {after} in the trial; "
    sentence += f"an interval needs {LEAST_PERIODS} in each."
    described = "yes" if min(before, after) >= LEAST_DESCRIBED else "no"
    return Refused("too-few-periods", sentence, {**about, "described": described})


def _about(values: Floats, phase: Flags, missing: int) -> Numbers:
    """What the report says of the phases, with an interval or without."""
    found: Numbers = {"n_baseline": int((~phase).sum()), "n_trial": int(phase.sum()), "missing": missing}
    for name, part in (("mean_baseline", values[~phase]), ("mean_trial", values[phase])):
        if len(part):
            found[name] = numbers.mean(part)
    return found


def _stated(
    result: phases.Intervals, about: Numbers, *, alpha: float, trend: Trend, power: int, relative: bool
) -> Effect:
    """One series of the rule as an effect in the unit of the KPI."""
    low, high = float(result.low[0]), float(result.high[0])
    means = float(about["mean_trial"]) - float(about["mean_baseline"])
    extras = dict(about)
    if result.trend_low is not None and result.trend_high is not None:
        extras["trend_low"] = numbers.scaled(float(result.trend_low[0]), power)
        extras["trend_high"] = numbers.scaled(float(result.trend_high[0]), power)
    found = Effect(
        numbers.scaled((low + high) / 2, power),
        numbers.scaled(low, power),
        numbers.scaled(high, power),
        alpha=alpha,
        method="before-after-linear-trend" if trend == "linear" else "before-after",
        n=int(about["n_baseline"]) + int(about["n_trial"]),
        sd=numbers.scaled(float(result.sd[0]), power),
        correlation=float(result.correlation[0]),
        noise_share=float(result.noise_share[0]),
        extras=extras,
    )
    if relative:
        means /= float(about["mean_baseline"])
        found = as_relative(found)
    return replace(found, difference_of_means=means).stated()
