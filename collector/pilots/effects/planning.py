"""How many periods a plan needs, from the baseline's own scatter and correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from collector.pilots.effects import numbers, phases, switchback
from collector.pilots.effects.averaging import averaged, models
from collector.pilots.effects.effect import Refused
from collector.pilots.effects.student_t import Floats

RUNS = 500
LEAST_POWER = 0.5  # a plan below it is refused
ASKED_POWER = 0.8  # a plan below it is marked
ASKED_PERIODS = 20  # of a switchback: some are lost, 6 pairs must be left
LONGEST = 280  # periods of a trial that the search goes up to
_LARGEST_TIMES = 1e6
_FACTOR = 7.85  # (1.96 + 0.84)^2: 95 % interval, power 80 %
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


@dataclass(frozen=True, slots=True)
class BeforeAfterPlan:
    """What a trial of this length can show. `needed` is None if LONGEST is too short."""

    power: float
    trial: int
    needed: int | None
    switchback_periods: int

    @property
    def refused(self) -> bool:
        """Whether the plan cannot show the effect more often than a coin."""
        return self.power < LEAST_POWER


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


def switchback_pairs(step_sd: float, effect: float) -> int:
    """The pairs that show an effect with a power of 80 %, from the sd of neighbouring differences."""
    return max(switchback.LEAST_PAIRS, math.ceil(_FACTOR * _times(step_sd, effect) ** 2 + 2))


def log_size(share: float, sign: Literal[1, -1]) -> float:
    """An improvement by a share in logarithms: `effect` and `target` for relative noise."""
    return abs(math.log1p(sign * share)) if sign * share > -1 else math.inf


def before_after_periods(sd: float, effect: float, correlation: float) -> int:
    """About how many periods a phase the rule needs for a power of 80 %; `before_after_plan` simulates it."""
    periods = 35 * _times(sd, effect) ** 2 * (1 + correlation) / max(1 - correlation, 1e-3)
    return math.ceil(max(phases.LEAST_PERIODS, periods + (10 if periods < 60 else 0)))


def _times(sd: float, effect: float) -> float:
    """How many times the noise is as large as the effect; a million is more than any pilot can show."""
    return sd / effect if effect > sd / _LARGEST_TIMES else _LARGEST_TIMES


def before_after_power(
    found: Noise,
    *,
    baseline: int,
    trial: int,
    effect: float,
    target: float = 0.0,
    trend: phases.Trend = "check",
    alpha: float = 0.05,
    seed: int = 0,
    runs: int = RUNS,
) -> float:
    """The share of simulated pilots that the frozen rule finds met when the true improvement is `effect`.

    Effect and target are in the scale of the noise: for relative noise see `log_size`.
    """
    lows = lower_limits(found, baseline=baseline, trial=trial, trend=trend, alpha=alpha, seed=seed, runs=runs)
    return float((lows + effect >= target).mean())


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
) -> Floats:
    """The limit that decides, of simulated pilots without an effect: an effect moves all of them by itself.

    With `trend` checked it is the lower one of two; where the rule refuses it is minus infinity.
    """
    before = found.periods if baseline is None else baseline
    on = np.arange(before + trial) >= before
    times = np.arange(len(on), dtype=float)
    series = simulated(found, times, runs, np.random.Generator(np.random.PCG64(seed)))
    # the rule does not depend on the unit; the size of the noise is 1
    size = found.sd or 1.0
    result = phases.intervals(series / size, on, times, covariates, trend=trend, alpha=alpha)
    low = result.low if result.trend_low is None else np.minimum(result.low, result.trend_low)
    return np.asarray(np.where(result.step_ratio <= phases.LARGEST_STEP_RATIO, low * size, -np.inf))


def before_after_plan(
    found: Noise,
    *,
    trial: int,
    effect: float,
    target: float = 0.0,
    trend: phases.Trend = "check",
    alpha: float = 0.05,
    seed: int = 0,
    runs: int = RUNS,
) -> BeforeAfterPlan:
    """The power of a trial of this length, the length that reaches 80 %, and the switchback beside it."""

    @cache  # the search may come by the length that is planned
    def power(periods: int) -> float:
        return before_after_power(
            found,
            baseline=found.periods,
            trial=periods,
            effect=effect,
            target=target,
            trend=trend,
            alpha=alpha,
            seed=seed,
            runs=runs,
        )

    needed = None
    low, high = 0, len(LADDER)
    while low < high:  # the first length of the ladder that reaches the power
        middle = (low + high) // 2
        if power(LADDER[middle]) >= ASKED_POWER:
            needed, high = LADDER[middle], middle
        else:
            low = middle + 1
    pairs = switchback_pairs(found.step_sd, effect - target) if effect > target else 0
    planned = power(trial) if trial >= phases.LEAST_PERIODS else 0.0
    return BeforeAfterPlan(planned, trial, needed, max(ASKED_PERIODS, 2 * pairs))


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
