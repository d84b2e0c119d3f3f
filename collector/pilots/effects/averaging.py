"""The effect of a step in a correlated series, averaged over the correlations that the series allows.

Each correlation model is an AR(1) series plus white noise. A model that is estimated and then taken as known
gives intervals that are too narrow. Many series of one design are analysed together, for planning.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from collector.pilots.effects import student_t
from collector.pilots.effects.student_t import Floats

RHOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.96, 0.98)
SHARES = {0.0: 0.5, 0.25: 0.2, 0.5: 0.2, 0.75: 0.1}  # of white noise, with the prior weights
LARGEST_RHO = 0.99
AT_ONCE = 250  # series; their arrays stay in the cache


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mixture over the correlation models; one value for each series."""

    low: Floats
    high: Floats
    correlation: Floats
    noise_share: Floats
    weights: Floats  # models x series
    scales: Floats  # models x series: the sd of a period value under each model


def models() -> tuple[Floats, Floats, Floats]:
    """The (correlation, share of white noise, log prior) of the 57 models."""
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(RHOS)), LARGEST_RHO]
    found = []
    for share, weight in SHARES.items():
        for rho, low, high in zip(RHOS, edges, edges[1:], strict=False):
            if rho or not share:  # white noise plus white noise is the first model once more
                cell = 4 * ((1 - low) ** 0.25 - (1 - high) ** 0.25)  # the integral of (1 - rho)^-0.75
                found.append((rho, share, np.log(weight) + np.log(cell)))
    rhos, shares, priors = np.array(found).T
    return rhos, shares, priors


def averaged(series: Floats, columns: Floats, times: Floats, alpha: float) -> Averaged:
    """The interval of the coefficient of the last column, for each column of `series` (periods x series)."""
    rhos, shares, priors = models()
    gains, sizes = _filter(rhos, shares, times)
    white = _whiten(columns, rhos, gains, sizes, times)
    basis, norms = orthonormal(white)
    log_det = 2 * np.log(sizes).sum(axis=0) + 2 * np.log(norms).sum(axis=1) - 2 * priors
    parts = []
    for start in range(0, series.shape[1], AT_ONCE):
        chunk = _whiten(series[:, start : start + AT_ONCE], rhos, gains, sizes, times)
        parts.append(_mixture(chunk, basis, norms, log_det, alpha))
    low, high, weights, scales = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
    return Averaged(
        low,
        high,
        correlation=(weights * rhos[:, None]).sum(axis=0),
        noise_share=(weights * shares[:, None]).sum(axis=0),
        weights=weights,
        scales=scales,
    )


def _mixture(
    chunk: Floats, basis: Floats, norms: Floats, log_det: Floats, alpha: float
) -> tuple[Floats, ...]:
    periods, terms = basis.shape[1:]
    df = periods - terms
    along = np.einsum("gnk,gnr->gkr", basis, chunk)
    rest = chunk
    for term in range(terms):
        rest = rest - basis[:, :, term, None] * along[:, None, term, :]
    rss = np.einsum("gnr,gnr->gr", rest, rest)
    scales = np.sqrt(rss / df)
    weights = -0.5 * log_det[:, None] - df / 2 * np.log(rss)
    weights = np.exp(weights - weights.max(axis=0))
    weights /= weights.sum(axis=0)
    centres = along[:, -1, :] / norms[:, -1, None]
    errors = scales / norms[:, -1, None]
    low = _quantile(weights, centres, errors, df, alpha / 2)
    return low, _quantile(weights, centres, errors, df, 1 - alpha / 2), weights, scales


def _filter(rhos: Floats, shares: Floats, times: Floats) -> tuple[Floats, Floats]:
    """The (gain, sd) of each one-step prediction: a Cholesky factor, in steps linear in time."""
    gains, sizes = np.empty((len(times), len(rhos))), np.empty((len(times), len(rhos)))
    variance = 1 - shares
    for at in range(len(times)):
        if at:
            kept = rhos ** (2 * (times[at] - times[at - 1]))
            variance = kept * variance * (1 - gains[at - 1]) + (1 - shares) * (1 - kept)
        gains[at] = variance / (variance + shares)
        sizes[at] = np.sqrt(variance + shares)
    return gains, sizes


def _whiten(values: Floats, rhos: Floats, gains: Floats, sizes: Floats, times: Floats) -> Floats:
    """The standardised prediction errors of each column under each model: models x periods x columns."""
    white = np.empty((len(rhos), *values.shape))
    expected = np.zeros((len(rhos), values.shape[1]))
    for at in range(len(times)):
        error = values[at] - expected
        white[:, at] = error / sizes[at][:, None]
        if at + 1 < len(times):
            expected += gains[at][:, None] * error
            expected *= (rhos ** (times[at + 1] - times[at]))[:, None]
    return white


def orthonormal(white: Floats) -> tuple[Floats, Floats]:
    """The columns of each model made orthonormal in their order, and their lengths before."""
    basis = white.copy()
    norms = np.empty((white.shape[0], white.shape[2]))
    for term in range(white.shape[2]):
        for before in range(term):
            shared = np.einsum("gn,gn->g", basis[:, :, before], basis[:, :, term])
            basis[:, :, term] -= shared[:, None] * basis[:, :, before]
        norms[:, term] = np.sqrt(np.einsum("gn,gn->g", basis[:, :, term], basis[:, :, term]))
        basis[:, :, term] /= norms[:, term, None]
    return basis, norms


def _quantile(weights: Floats, centres: Floats, errors: Floats, df: int, p: float) -> Floats:
    """The quantile of each mixture of Student t: it is between the smallest and the largest of its parts."""
    ends = centres + student_t.quantile(p, df) * errors
    low, high = ends.min(axis=0), ends.max(axis=0)
    for _ in range(48):
        middle = (low + high) / 2
        below = (weights * student_t.cdf((middle - centres) / errors, df)).sum(axis=0) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray((low + high) / 2)
