"""Placebo dates: how often the rule shows an effect in a baseline in which nothing was changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from collector.pilots.effects import before_after, numbers
from collector.pilots.effects.effect import Effect, Result
from collector.pilots.effects.phases import LEAST_PERIODS, Flags


@dataclass(frozen=True, slots=True)
class Placebo:
    """How many fake dates there are, and at how many the interval leaves out 0."""

    dates: int
    shown: int

    @property
    def share(self) -> float:
        """The share of fake dates with an effect; 0 without any."""
        return self.shown / self.dates if self.dates else 0.0


def placebo(
    values: numbers.Values,
    *,
    times: numbers.Values | None = None,
    covariates: Sequence[numbers.Values] = (),
    alpha: float = 0.05,
    relative: bool = False,
) -> Placebo:
    """Every fake date of the baseline with enough periods with data on both sides.

    The dates overlap, so their share scatters widely: it is a sentence of the report, not a test.
    """
    (found, at, *columns), _ = numbers.by_time(values, times, *covariates)
    return at_each_date(
        len(found),
        lambda on: before_after.effect(
            found, on, times=at, covariates=columns, trend="none", alpha=alpha, relative=relative
        ),
    )


def at_each_date(periods: int, effect: Callable[[Flags], Result]) -> Placebo:
    """The effect at each fake date of a baseline; `effect` gets which of its periods are after the date."""
    results = [
        effect(np.arange(periods) >= date) for date in range(LEAST_PERIODS, periods - LEAST_PERIODS + 1)
    ]
    shown = sum(isinstance(each, Effect) and (each.low > 0 or each.high < 0) for each in results)
    return Placebo(len(results), shown)
