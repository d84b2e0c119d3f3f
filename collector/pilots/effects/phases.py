"""The rule for a change that came once, on many series of one design: `before_after` applies it.

The half-width is the larger of two: the average over correlation models (`averaging`), and Student's t on
four block means a phase (Ibragimov and Mueller 2010), which holds where the noise level changes as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from collector.pilots.effects import student_t
from collector.pilots.effects.averaging import averaged, orthonormal
from collector.pilots.effects.student_t import Floats

Trend = Literal["none", "check", "linear"]
Flags = NDArray[np.bool_]

LEAST_PERIODS = 20  # a phase
LARGEST_STEP_RATIO = 2.0
BLOCKS = 4
_LEAST_STEPS = 8
_EXPLAINED = 1e-6  # of the size of a column: what is left of it is rounding


@dataclass(frozen=True, slots=True)
class Intervals:
    """What the rule gives without its refusals; one value a series. `trend_*`: with a linear trend."""

    low: Floats
    high: Floats
    trend_low: Floats | None
    trend_high: Floats | None
    step_ratio: Floats
    correlation: Floats
    noise_share: Floats
    sd: Floats


def intervals(
    series: Floats,
    on: Flags,
    times: Floats,
    covariates: Sequence[Floats] = (),
    *,
    trend: Trend = "none",
    alpha: float = 0.05,
) -> Intervals:
    """The rule on each column of `series` (periods x series)."""
    plain, sloped = design(on, covariates), design(on, [*covariates, times])
    if plain is None or sloped is None:
        raise ValueError("the covariates explain the change itself")
    rest = residuals(series, plain)
    main = averaged(series, sloped if trend == "linear" else plain, times, alpha)
    checked = averaged(series, sloped, times, alpha) if trend == "check" else None
    centre, half = (main.low + main.high) / 2, (main.high - main.low) / 2
    if trend != "linear":
        half = np.maximum(half, block_half_width(rest, on, alpha))
    return Intervals(
        centre - half,
        centre + half,
        checked.low if checked else None,
        checked.high if checked else None,
        step_ratio(rest, on, times),
        main.correlation,
        main.noise_share,
        np.sqrt((rest**2).sum(axis=0) / (len(series) - plain.shape[1])),
    )


def design(on: Flags, covariates: Sequence[Floats]) -> Floats | None:
    """The columns of the fit that add something, the change last; None if the others explain it."""
    kept = independent(covariates, len(on))
    change = on.astype(float)
    return np.column_stack([*kept, change]) if _left(change, kept) > _EXPLAINED else None


def independent(covariates: Sequence[Floats], periods: int) -> list[Floats]:
    """A column of 1 and the standardised covariates that are not explained by those before."""
    kept = [np.ones(periods)]
    for column in covariates:
        scaled = _standardised(column)
        if _left(scaled, kept) > _EXPLAINED:
            kept.append(scaled)
    return kept


def residuals(series: Floats, columns: Floats) -> Floats:
    """What ordinary least squares leaves of each series."""
    basis, _ = orthonormal(columns[None])
    for term in basis[0].T:
        series = series - term[:, None] * np.einsum("n,nr->r", term, series)
    return series


def block_half_width(rest: Floats, on: Flags, alpha: float) -> Floats:
    """Student's t with 3 degrees of freedom on the means of four blocks a phase."""
    variance = np.zeros(rest.shape[1])
    for phase in (~on, on):
        means = [block.mean(axis=0) for block in np.array_split(rest[phase], BLOCKS)]
        variance += np.var(means, axis=0, ddof=1) / BLOCKS
    return np.asarray(student_t.quantile(1 - alpha / 2, BLOCKS - 1) * np.sqrt(variance))


def step_ratio(rest: Floats, on: Flags, times: Floats) -> Floats:
    """The larger sd of period-to-period steps of the two phases by the smaller one; NaN if both are 0."""
    shortest = float(np.diff(times).min())
    sds = [np.std(steps(rest[phase], times[phase], shortest), axis=0, ddof=1) for phase in (~on, on)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.maximum(*sds) / np.minimum(*sds))


def steps(rest: Floats, times: Floats, shortest: float | None = None) -> Floats:
    """The differences of neighbouring periods, or of all that follow each other if few are neighbours."""
    gaps = np.diff(times)
    neighbours = gaps <= 1.5 * (float(gaps.min()) if shortest is None else shortest)
    found = np.diff(rest, axis=0)
    return np.asarray(found[neighbours] if neighbours.sum() >= _LEAST_STEPS else found)


def lag_one(rest: Floats) -> Floats:
    """The correlation of neighbouring values of each series around their mean."""
    centred = rest - rest.mean(axis=0)
    return np.asarray((centred[1:] * centred[:-1]).sum(axis=0) / (centred**2).sum(axis=0))


def _standardised(column: Floats) -> Floats:
    size = float(np.abs(column).max())
    scaled = column / size if size else column
    centred = scaled - scaled.mean()
    spread = math.sqrt(float((centred**2).mean()))
    return np.asarray(centred / spread if spread > 1e-12 else np.zeros(len(column)))


def _left(column: Floats, kept: list[Floats]) -> float:
    """The root mean square of what the kept columns do not explain."""
    rest = residuals(column[:, None], np.column_stack(kept))
    return math.sqrt(float((rest**2).mean()))
