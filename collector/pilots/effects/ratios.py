"""The effect on a ratio of two sums, such as energy per part: what the books of the month show."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from collector.pilots.effects import numbers
from collector.pilots.effects.effect import Effect, Refused, Result, as_relative
from collector.pilots.effects.student_t import Floats

LEAST_PAIRS = 6


def pairs(
    on: numbers.Values,
    on_per: numbers.Values,
    off: numbers.Values,
    off_per: numbers.Values,
    *,
    alpha: float = 0.05,
) -> Result:
    """The relative change of sum(on) / sum(on_per) in a switchback: jackknife over pairs, t with n - 1."""
    columns, missing = numbers.whole(on, on_per, off, off_per)
    many = len(columns[0])
    if many < LEAST_PAIRS:
        return numbers.too_few_pairs(many, LEAST_PAIRS)
    if any(each.min() < 0 for each in columns):
        return Refused("values-not-positive", "A part of the ratio is negative: it has no share.")
    above, below = numbers.unit(columns[0], columns[2]), numbers.unit(columns[1], columns[3])
    scaled = [np.ldexp(each, -power) for each, power in zip(columns, (above, below) * 2, strict=True)]
    without = [np.array([math.fsum(np.delete(each, at)) for at in range(many)]) for each in scaled]
    if any(each.min() <= 0 for each in without):
        return Refused("too-few-events", "All of one part of the ratio is in a single pair.")
    estimate = float(_log_ratio([np.array(math.fsum(each)) for each in scaled]))
    left_out = _log_ratio(without)
    if not numbers.varies(left_out, np.ones(1)):
        return Refused("values-do-not-vary", "The ratio is equal in all pairs: check the KPI.")
    error = numbers.sd(left_out) * (many - 1) / math.sqrt(many)
    low, high, p = numbers.t_interval(estimate, error, many - 1, alpha)
    found = Effect(
        estimate,
        low,
        high,
        alpha=alpha,
        method="ratio-jackknife",
        n=many,
        df=many - 1,
        p=p,
        sd=error * math.sqrt(many),
        extras={"missing": missing},
    )
    return as_relative(found).stated()


def linearised(above: Floats, below: Floats, on: NDArray[np.bool_]) -> Floats:
    """The ratio of each phase as one value a period, whose phase means are the ratios of the sums."""
    values = np.empty(len(above))
    for phase in (on, ~on):
        ratio = math.fsum(above[phase]) / math.fsum(below[phase])
        values[phase] = ratio + (above[phase] - ratio * below[phase]) / numbers.mean(below[phase])
    return values


def _log_ratio(sums: list[Floats]) -> Floats:
    on, on_per, off, off_per = (np.log(each) for each in sums)
    return np.asarray(on - on_per - off + off_per)
