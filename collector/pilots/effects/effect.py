"""What an analysis gives: an effect with its interval, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

# Digits of the largest number of an effect. The last bits of a logarithm or of a sum differ between machines;
# a recomputed report must not. Every number is rounded here, before a verdict compares it with a target.
DIGITS = 8


@dataclass(frozen=True, slots=True)
class Effect:
    """How much the change moved a KPI: the estimate and the interval that holds the truth.

    It does so in 1 - alpha of pilots. With `relative`, estimate, low, high and difference_of_means are shares
    of the value without the change: -0.25 is a quarter less. `high` is infinite if the data give no limit.
    """

    estimate: float
    low: float
    high: float
    alpha: float
    method: str
    n: int  # pairs, periods, machines or clusters
    df: int | None = None
    p: float | None = None
    sd: float | None = None  # of the values that the method compares, around their mean or fit
    correlation: float | None = None  # of neighbouring periods
    noise_share: float | None = None  # of the variance that one period does not share with its neighbours
    difference_of_means: float | None = None
    relative: bool = False
    extras: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def half_width(self) -> float:
        """Half of the width of the interval."""
        return (self.high - self.low) / 2

    def stated(self) -> Effect:
        """The same effect with DIGITS digits; a small estimate gets the decimals of its limits."""
        sizes = [abs(each) for each in (self.estimate, self.low, self.high) if math.isfinite(each)]
        decimals = _decimals(max(sizes, default=0.0))
        in_unit = {"estimate", "low", "high", "difference_of_means"}
        changed: dict[str, float] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and each.name != "alpha":
                changed[each.name] = _round(value, decimals if each.name in in_unit else _decimals(value))
        extras = {
            name: _round(value, _decimals(value)) if isinstance(value, float) else value
            for name, value in self.extras.items()
        }
        return replace(self, **changed, extras=extras)  # type: ignore[arg-type]  # the names are those of floats


@dataclass(frozen=True, slots=True)
class Refused:
    """No interval, with the reason word of the verdict and one sentence."""

    code: str
    sentence: str
    extras: Mapping[str, float | int | str] = field(default_factory=dict)


Result = Effect | Refused


def as_relative(effect: Effect) -> Effect:
    """An effect on logarithms as a share: exp(effect) - 1."""
    means = effect.difference_of_means
    return replace(
        effect,
        estimate=_share(effect.estimate),
        low=_share(effect.low),
        high=_share(effect.high),
        difference_of_means=None if means is None else _share(means),
        relative=True,
        extras={
            name: _share(value) if name.endswith(("_low", "_high")) else value
            for name, value in effect.extras.items()
        },
    )


def _share(value: float | int | str) -> float:
    number = float(value)
    return math.inf if number >= 700 else math.expm1(number)  # of NaN: NaN


def _decimals(size: float) -> int:
    """The decimals that give a number of this size DIGITS digits; exact, so the same on every machine."""
    exponent = math.frexp(size)[1] if math.isfinite(size) else 0
    return DIGITS - math.ceil(exponent * 0.30103)


def _round(value: float, decimals: int) -> float:
    if not math.isfinite(value) or abs(value) > 1e300:  # near the largest float there is nothing to round to
        return value
    return round(value, decimals) + 0.0  # minus zero is zero
