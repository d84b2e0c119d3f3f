"""The effect on rare events, such as unplanned stops: the ratio of their rates."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from collector.pilots.effects import numbers, student_t
from collector.pilots.effects.effect import Effect, Refused, Result
from collector.pilots.effects.student_t import Floats

LEAST_PAIRS = 6
LEAST_EVENTS = 20  # in both arms together; with fewer, no interval tried holds
MANY = 100_000  # events in each arm
LARGEST_COUNT = 10**12  # in both arms


def pairs(
    on: numbers.Values,
    off: numbers.Values,
    *,
    on_exposure: numbers.Values | None = None,
    off_exposure: numbers.Values | None = None,
    alpha: float = 0.05,
) -> Result:
    """The relative change of the rate of events in a switchback: hull of Fieller's and the exact interval.

    The exposure of a period is its hours, parts or kilometres; without it each period counts the same.
    """
    many = len(on)
    exposures = [np.ones(many) if each is None else each for each in (on_exposure, off_exposure)]
    (on, off, on_per, off_per), missing = numbers.whole(on, off, *exposures)
    if refusal := _unfit(np.concatenate([on, off]), np.concatenate([on_per, off_per])):
        return refusal
    if len(on) < LEAST_PAIRS:
        return numbers.too_few_pairs(len(on), LEAST_PAIRS)
    hits, others = int(numbers.total(on)), int(numbers.total(off))
    extras: dict[str, float | int | str] = {"missing": missing, "events_on": hits, "events_off": others}
    extras |= {"exposure_on": numbers.total(on_per), "exposure_off": numbers.total(off_per)}
    if hits + others < LEAST_EVENTS:
        sentence = f"{hits} events with the change and {others} without; "
        sentence += f"an interval needs {LEAST_EVENTS} in all."
        return Refused("too-few-events", sentence, extras)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        odds = numbers.mean(off_per) / numbers.mean(on_per)
        rates = on / on_per, off / off_per
    if not (0 < odds < math.inf and np.isfinite(rates).all()):
        return numbers.too_far_apart()
    exact = [odds * each for each in _odds_limits(hits, others, alpha)]
    by_pairs = fieller(*rates, alpha)
    ratio = odds * (hits / others) if others else math.inf
    return Effect(
        ratio - 1,
        float(min(exact[0], by_pairs[0])) - 1,
        float(max(exact[1], by_pairs[1])) - 1,
        alpha=alpha,
        method="counts-hull",
        n=len(on),
        df=len(on) - 1,
        relative=True,
        extras=extras,
    ).stated()


def _unfit(events: Floats, exposures: Floats) -> Refused | None:
    """Why these are not counts of events."""
    if (events < 0).any() or (events % 1).any():
        return Refused("values-not-positive", "A count of events is negative or not a whole number.")
    if (exposures <= 0).any():
        return Refused("values-not-positive", "The exposure of a period is 0 or negative: leave it out.")
    return numbers.too_far_apart() if numbers.total(events) > LARGEST_COUNT else None


def _odds_limits(hits: int, others: int, alpha: float) -> tuple[float, float]:
    """The exact limits of hits / others; the logarithm is normal where both are many."""
    if min(hits, others) > MANY:
        reach = NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(1 / hits + 1 / others)
        return hits / others * math.exp(-reach), hits / others * math.exp(reach)
    low, high = student_t.proportion_limits(hits, hits + others, alpha)
    return low / (1 - low), high / (1 - high) if high < 1 else math.inf


def fieller(on: Floats, off: Floats, alpha: float) -> tuple[float, float]:
    """The ratios r for which the mean of on - r off does not differ from 0 by Student's t."""
    many = len(on)
    power = numbers.unit(on, off)
    on, off = np.ldexp(on, -power), np.ldexp(off, -power)  # squares do not overflow
    reach = student_t.quantile(1 - alpha / 2, many - 1) ** 2 / many
    (var_on, both), (_, var_off) = np.cov(on, off)
    square = off.mean() ** 2 - reach * var_off
    linear = on.mean() * off.mean() - reach * both
    constant = on.mean() ** 2 - reach * var_on
    if square <= 0:  # the rate without the change may be 0
        return 0.0, math.inf
    root = math.sqrt(max(0.0, linear**2 - square * constant))
    return max(0.0, (linear - root) / square), (linear + root) / square
