"""How many periods a plan needs, from the baseline's own scatter and correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from collector.pilots.effects import numbers, phases
from collector.pilots.effects.averaging import averaged, models
from collector.pilots.effects.effect import Refused
from collector.pilots.effects.student_t import Floats

RUNS = 500
LEAST_POWER = 0.5  # a plan below it is refused
ASKED_POWER = 0.8  # a plan below it is marked
ASKED_PERIODS = 20  # of a switchback: some are lost, 6 pairs must be left
LONGEST = 280  # periods of a trial that the search goes up to
LADDER = (20, 24, 28, 35, 42, 49, 56, 70, 84, 98, 126, 168, 210, LONGEST)


@dataclass(frozen=True, slots=True)
class Noise:
    """What the baseline shows of its noise: a weight and an sd for each correlation model."""

    weights: Floats
    scales: Floats
    sd: float
    step_sd: float  # of the differences of neighbouring periods
    correlation: float
    periods: int


def noise(
    baseline: numbers.Values,
    *,
    times: numbers.Values | None = None,
    covariates: Sequence[numbers.Values] = (),
    relative: bool = False,
) -> Noise | Refused:
    """The noise of a baseline; `relative`: of its logarithms."""
    (values, at, *columns), _ = numbers.by_time(baseline, times, *covariates)
    if len(values) < phases.LEAST_PERIODS:
        sentence = f"{len(values)} periods with data in the baseline; a plan needs {phases.LEAST_PERIODS}."
        return Refused("too-few-periods", sentence)
    if numbers.overlap(at):
        return Refused("design-not-identified", "Two periods have the same time: check the window.")
    if relative and values.min() <= 0:
        return Refused("values-not-positive", "A value is 0 or negative: state the target as a difference.")
    if not numbers.varies(values):
        return Refused("values-do-not-vary", "All values are equal: check that the KPI is measured.")
    power = 0 if relative else numbers.unit(values)
    series = (np.log(values) if relative else np.ldexp(values, -power))[:, None]
    # the last column is the one whose interval is wanted, here the level
    level, *columns = phases.independent(columns, len(values))
    matrix = np.column_stack([*columns, level])
    rest = phases.residuals(series, matrix)[:, 0]
    fitted = averaged(series, matrix, at, 0.05)
    found = Noise(
        fitted.weights[:, 0],
        np.array([numbers.scaled(each, power) for each in fitted.scales[:, 0].tolist()]),
        sd=numbers.scaled(math.sqrt(float((rest**2).sum()) / (len(values) - matrix.shape[1])), power),
        step_sd=numbers.scaled(float(np.std(phases.steps(rest, at), ddof=1)), power),
        correlation=float(fitted.correlation[0]),
        periods=len(values),
    )
    is_finite = np.isfinite([*found.weights, *found.scales, found.sd, found.step_sd]).all()
    return found if is_finite else numbers.too_far_apart()


@dataclass(frozen=True, slots=True)
class Share:
    """A change by a share; `noise` is that of the trial by that of the baseline."""

    level: float  # of the trial, by that of the baseline
    noise: float
    sign: Literal[1, -1]

    def of(self, series: Floats, on: phases.Flags) -> Floats:
        """Series of deviations as the report has them: an improvement is positive."""
        moved = np.where(on[:, None], self.level + self.noise * series, 1 + series)
        return np.asarray(self.sign * moved / moved[~on].mean(axis=0))


def lower_limits(
    found: Noise,
    *,
    trial: int,
    baseline: int | None = None,
    trend: phases.Trend = "check",
    alpha: float = 0.05,
    seed: int = 0,
    runs: int = RUNS,
    covariates: Sequence[Floats] = (),
    share: Share | None = None,
) -> Floats:
    """The limit that decides, of simulated pilots without an effect: an effect moves all of them by itself.

    The effect of a `share` changes its noise as well, and is within the limits.

    With `trend` checked it is the lower one of two; where the rule refuses it is minus infinity.
    """
    before = found.periods if baseline is None else baseline
    on = np.arange(before + trial) >= before
    times = np.arange(len(on), dtype=float)
    series = simulated(found, times, runs, np.random.Generator(np.random.PCG64(seed)))
    size = 1.0
    if share is not None:
        series = share.of(series, on)
    elif found.sd:  # the rule does not depend on the unit; the size of the noise is 1
        size = found.sd
        series = series / size
    result = phases.intervals(series, on, times, covariates, trend=trend, alpha=alpha)
    low = result.low if result.trend_low is None else np.minimum(result.low, result.trend_low)
    return np.asarray(np.where(result.step_ratio <= phases.LARGEST_STEP_RATIO, low * size, -np.inf))


def simulated(found: Noise, times: Floats, runs: int, drawn: np.random.Generator) -> Floats:
    """Series of the baseline's noise (periods x runs); the model of each run is drawn by its weight."""
    rhos, shares, _ = models()
    model = drawn.choice(len(rhos), size=runs, p=found.weights / found.weights.sum())
    rho, share, scale = rhos[model], shares[model], found.scales[model]
    shocks = drawn.standard_normal((len(times), runs))
    state = shocks[0]
    states = [state]
    for at in range(1, len(times)):
        kept = rho ** (times[at] - times[at - 1])
        state = kept * state + np.sqrt(1 - kept**2) * shocks[at]
        states.append(state)
    white = drawn.standard_normal((len(times), runs))
    return np.asarray(scale * (np.sqrt(1 - share) * np.array(states) + np.sqrt(share) * white))
