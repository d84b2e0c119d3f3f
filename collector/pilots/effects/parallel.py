"""The effect of a change that some machines got and others did not, at the same time."""

from __future__ import annotations

import math

import numpy as np

from collector.pilots.effects import numbers, subsets
from collector.pilots.effects.effect import Effect, Refused, Result, as_relative

LEAST_MACHINES = 4
ALONE = 4  # machines a group from which no assumption about them is needed


def effect(
    treated: numbers.Values,
    control: numbers.Values,
    *,
    seed: int,
    alpha: float = 0.05,
    relative: bool = False,
) -> Result:
    """The mean of `treated` minus that of `control`; each value is after minus before of a machine.

    `relative`: the values are differences of logarithms. Periods of a machine are not replicates: one that
    drifts by itself would count many times.
    """
    ((treated,), lost), ((control,), gone) = numbers.whole(treated), numbers.whole(control)
    sizes = {"n_treated": len(treated), "n_control": len(control), "missing": lost + gone}
    machines = len(treated) + len(control)
    if machines < LEAST_MACHINES or not len(treated) or not len(control):
        sentence = f"{len(treated)} machines with the change and {len(control)} without; "
        sentence += f"an interval needs {LEAST_MACHINES} in all and one in each group."
        return Refused("too-few-machines", sentence, sizes)
    power = numbers.unit(treated, control)
    groups = [np.ldexp(each, -power) for each in (treated, control)]
    estimate = numbers.mean(groups[0]) - numbers.mean(groups[1])
    squares = sum(math.fsum((each - numbers.mean(each)) ** 2) for each in groups)
    spread = math.sqrt(squares / (machines - 2))
    if spread <= 1e-12:
        return Refused("values-do-not-vary", "All machines changed by the same amount: check the KPI.")
    error = spread * math.sqrt(1 / len(treated) + 1 / len(control))
    low, high, p = numbers.t_interval(estimate, error, machines - 2, alpha)
    extras: dict[str, float | int | str] = {**sizes}
    if min(len(treated), len(control)) < ALONE:
        extras["assumes"] = "machines-alike"
    else:
        steps, exponent = subsets.in_steps(np.concatenate([treated, control]), np.zeros(machines))
        means = subsets.swaps(steps[: len(treated)], steps[len(treated) :], seed)
        exact = subsets.limits(means, alpha) or (-math.inf, math.inf)
        limits = [subsets.in_unit(each, exponent) for each in exact]
        extras |= {"exact_low": limits[0], "exact_high": limits[1], "exact_p": subsets.p_value(means)}
    found = Effect(
        numbers.scaled(estimate, power),
        numbers.scaled(low, power),
        numbers.scaled(high, power),
        alpha=alpha,
        method="machines-t",
        n=machines,
        df=machines - 2,
        p=p,
        sd=numbers.scaled(spread, power),
        difference_of_means=numbers.scaled(estimate, power),
        extras=extras,
    )
    return (as_relative(found) if relative else found).stated()
