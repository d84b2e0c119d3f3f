"""Student's t and the binomial interval, without scipy: 1e-12 from its values."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cdf(t: Floats, df: int) -> Floats:
    """P(T <= t) for each t, by the finite sum for whole degrees of freedom (Abramowitz 26.7.3)."""
    squares = t * t
    squares += df
    cos2 = df / squares
    total = np.ones_like(cos2)
    for j in range(df - 2, 1, -2):  # in place: planning evaluates millions
        total *= cos2
        total *= (j - 1) / j
        total += 1.0
    sine = t / np.sqrt(squares)
    if df % 2 == 0:
        return np.asarray(0.5 + 0.5 * sine * total)
    angle = np.arctan(t / math.sqrt(df))
    if df > 1:
        angle += sine * np.sqrt(cos2) * total
    return np.asarray(0.5 + angle / math.pi)


@lru_cache(maxsize=256)
def quantile(p: float, df: int) -> float:
    """The t with P(T <= t) = p."""
    if p < 0.5:
        return -quantile(1 - p, df)
    low, high = 0.0, 1.0
    while 1 - two_sided_p(high, df) / 2 < p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - two_sided_p(middle, df) / 2 < p else (low, middle)
    return (low + high) / 2


def two_sided_p(t: float, df: int) -> float:
    """P(|T| >= |t|), exact far into the tail."""
    return beta_cdf(df / 2, 0.5, df / (df + t * t)) if math.isfinite(t) else 0.0


def proportion_limits(hits: int, trials: int, alpha: float) -> tuple[float, float]:
    """The exact interval of Clopper and Pearson for a proportion."""
    low = _beta_quantile(alpha / 2, hits, trials - hits + 1) if hits else 0.0
    high = _beta_quantile(1 - alpha / 2, hits + 1, trials - hits) if hits < trials else 1.0
    return low, high


def beta_cdf(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        before = value
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + step * d)
            c = 1 + step / c
            value *= c * d
        if abs(value - before) <= 1e-15 * abs(value):
            break
    return value


def _beta_quantile(p: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_cdf(a, b, middle) < p else (low, middle)
    return (low + high) / 2
