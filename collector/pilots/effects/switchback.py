"""The effect of a change that was on in one period of each pair and off in the other, the order drawn."""

from __future__ import annotations

import math

import numpy as np

from collector.pilots.effects import numbers, ratios, subsets
from collector.pilots.effects.effect import Effect, Refused, Result, as_relative

LEAST_PAIRS = 6  # with 5 no 95 % interval by exact inversion exists


def effect(
    on: numbers.Values, off: numbers.Values, *, seed: int, alpha: float = 0.05, relative: bool = False
) -> Result:
    """The mean of on minus off over the whole pairs, with the exact interval and p of the drawn order.

    `relative`: the differences of the logarithms. With a value of 0, the ratio of the sums instead.
    """
    (on, off), missing = numbers.whole(on, off)
    if len(on) < LEAST_PAIRS:
        return numbers.too_few_pairs(len(on), LEAST_PAIRS)
    if not (numbers.varies(on) or numbers.varies(off)):
        return Refused("values-do-not-vary", "All values are equal: check that the KPI is measured.")
    both = np.concatenate([on, off])
    if relative and both.min() < 0:
        return Refused("values-not-positive", "A value is negative: state the target as a difference.")
    if relative and both.min() == 0:
        return ratios.pairs(on, np.ones(len(on)), off, np.ones(len(off)), alpha=alpha)
    power = 0 if relative else numbers.unit(both)
    scaled_on, scaled_off = (np.log(each) if relative else np.ldexp(each, -power) for each in (on, off))
    differences = scaled_on - scaled_off
    steps, exponent = subsets.in_steps(*((np.log(on), np.log(off)) if relative else (on, off)))
    means = subsets.flips(steps, seed)
    interval = subsets.limits(means, alpha)
    if interval is None:
        sentence = f"{len(on)} whole pairs give no interval with alpha {alpha}: plan more."
        return Refused("too-few-periods", sentence, {"n": len(on)})
    estimate, spread = numbers.mean(differences), numbers.sd(differences)
    t_low, t_high, t_p = numbers.t_interval(estimate, spread / math.sqrt(len(on)), len(on) - 1, alpha)
    found = Effect(
        numbers.scaled(estimate, power),
        subsets.in_unit(interval[0], exponent),
        subsets.in_unit(interval[1], exponent),
        alpha=alpha,
        method="switchback-exact",
        n=len(on),
        p=subsets.p_value(means),
        sd=numbers.scaled(spread, power),
        difference_of_means=numbers.scaled(estimate, power),
        extras={
            "missing": missing,
            "mean_on": numbers.mean(on),
            "mean_off": numbers.mean(off),
            "t_low": numbers.scaled(t_low, power),
            "t_high": numbers.scaled(t_high, power),
            "t_p": t_p,
        },
    )
    return (as_relative(found) if relative else found).stated()
