"""Series of period values without an effect: periods x runs, the sd of a period value is about 1."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.random import Generator

from collector.pilots.effects.student_t import Floats


def ar(drawn: Generator, periods: int, runs: int, rho: float) -> Floats:
    """A stationary AR(1) series with the variance 1."""
    return _recursion(drawn.standard_normal((periods, runs)), rho)


def ar_and_white(drawn: Generator, periods: int, runs: int, rho: float) -> Floats:
    """Half of the variance an AR(1) series, half white noise."""
    return np.asarray((ar(drawn, periods, runs, rho) + drawn.standard_normal((periods, runs))) / math.sqrt(2))


def heavy(drawn: Generator, periods: int, runs: int, rho: float) -> Floats:
    """An AR(1) series whose shocks are Student t with 3 degrees of freedom."""
    warm = 60  # periods before the first, so that it is stationary
    return _recursion(drawn.standard_t(3, (periods + warm, runs)) / math.sqrt(3), rho)[warm:]


def skewed(drawn: Generator, periods: int, runs: int, rho: float) -> Floats:
    """Lognormal values, not put in logarithms."""
    return np.exp(0.5 * ar(drawn, periods, runs, rho))


def poisson(drawn: Generator, periods: int, runs: int, rho: float) -> Floats:
    """Counts with the mean 3, correlated through a normal copula."""
    chances = np.cumsum([math.exp(-3) * 3**k / math.factorial(k) for k in range(20)])
    limits = [NormalDist().inv_cdf(min(each, 1 - 1e-15)) for each in chances]
    return np.searchsorted(limits, ar(drawn, periods, runs, rho)).astype(float)


def zero_inflated(drawn: Generator, periods: int, runs: int, rho: float) -> Floats:
    """Half of the values are 0."""
    return np.maximum(ar(drawn, periods, runs, rho), 0)


def wandering(drawn: Generator, periods: int, runs: int, rho: float, step: float = 0.05) -> Floats:
    """An AR(1) series on a random walk."""
    walk = np.cumsum(step * drawn.standard_normal((periods, runs)), axis=0)
    return np.asarray(ar(drawn, periods, runs, rho) + walk)


def _recursion(shocks: Floats, rho: float) -> Floats:
    series = np.empty_like(shocks)
    series[0] = shocks[0]
    for at in range(1, len(shocks)):
        series[at] = rho * series[at - 1] + math.sqrt(1 - rho * rho) * shocks[at]
    return series
