"""The effect of a model against the rule that it replaces, both run on the same input of several machines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from collector.pilots.effects import numbers, subsets
from collector.pilots.effects.effect import Effect, Refused, Result, as_relative

LEAST_CLUSTERS = 7


def effect(
    differences: Sequence[numbers.Values], *, seed: int, alpha: float = 0.05, relative: bool = False
) -> Result:
    """The mean over the clusters of the mean difference of each; a cluster is a machine, a ward or a street.

    Each cluster counts the same, however many rows it has: its rows resemble each other.
    """
    kept = [each for (each,), _ in (numbers.whole(rows) for rows in differences) if len(each)]
    extras = {"missing": len(differences) - len(kept), "rows": sum(len(each) for each in kept)}
    if len(kept) < LEAST_CLUSTERS:
        sentence = f"{len(kept)} machines or places with data; an interval needs {LEAST_CLUSTERS}."
        return Refused("too-few-machines", sentence, extras)
    power = numbers.unit(*kept)
    means = np.array([numbers.mean(np.ldexp(each, -power)) for each in kept])
    if not numbers.varies(means, np.ones(1)):
        return Refused("values-do-not-vary", "All machines differ by the same amount: check the KPI.")
    estimate, spread = numbers.mean(means), numbers.sd(means)
    low, high, p = numbers.t_interval(estimate, spread / math.sqrt(len(kept)), len(kept) - 1, alpha)
    steps, exponent = subsets.in_steps(np.array([numbers.mean(each) for each in kept]), np.zeros(len(kept)))
    flips = subsets.flips(steps, seed)
    exact = subsets.limits(flips, alpha) or (-math.inf, math.inf)
    found = Effect(
        numbers.scaled(estimate, power),
        numbers.scaled(low, power),
        numbers.scaled(high, power),
        alpha=alpha,
        method="clusters-t",
        n=len(kept),
        df=len(kept) - 1,
        p=p,
        sd=numbers.scaled(spread, power),
        difference_of_means=numbers.scaled(estimate, power),
        extras={
            **extras,
            "exact_low": subsets.in_unit(exact[0], exponent),
            "exact_high": subsets.in_unit(exact[1], exponent),
            "exact_p": subsets.p_value(flips),
        },
    )
    return (as_relative(found) if relative else found).stated()
