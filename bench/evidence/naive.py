"""The usual intervals for a step in a series, for comparison: none of them holds everywhere.

Each takes the series (periods x runs), the phase and the known columns, and returns the limits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from collector.pilots.effects import phases, student_t
from collector.pilots.effects.averaging import orthonormal
from collector.pilots.effects.student_t import Floats

Limits = tuple[Floats, Floats]
Flags = NDArray[np.bool_]


def ols_t(series: Floats, on: Flags, columns: list[Floats]) -> Limits:
    """Ordinary least squares, periods as if independent."""
    estimate, rest, change, terms = _fit(series, on, columns)
    df = len(series) - terms
    error = np.sqrt((rest**2).sum(axis=0) / df) / change
    return _around(estimate, error, df)


def newey_west(series: Floats, on: Flags, columns: list[Floats]) -> Limits:
    """Least squares with errors by Newey and West (1987), the lag by their rule of thumb."""
    matrix = _matrix(on, columns)
    estimate, _, _, terms = _fit(series, on, columns)
    lag = int(4 * (len(series) / 100) ** (2 / 9))
    return _around(estimate, newey_west_error(series, matrix, lag), len(series) - terms)


def newey_west_error(series: Floats, matrix: Floats, lag: int) -> Floats:
    """The standard error of the coefficient of the last column, by weights that fall with the lag."""
    basis, norms = orthonormal(matrix[None])
    scores = basis[0][:, -1:] * phases.residuals(series, matrix)
    total = (scores**2).sum(axis=0)
    for at in range(1, lag + 1):
        total += 2 * (1 - at / (lag + 1)) * (scores[at:] * scores[:-at]).sum(axis=0)
    return np.asarray(np.sqrt(total) / norms[0, -1])


def ewc(series: Floats, on: Flags, columns: list[Floats]) -> Limits:
    """Equal-weighted cosines of the scores of the whole series (Lazarus and others 2018)."""
    estimate, rest, change, _ = _fit(series, on, columns)
    basis, _ = orthonormal(_matrix(on, columns)[None])
    scores = basis[0][:, -1:] * rest
    terms = cosines(len(series))
    return _around(estimate, np.sqrt(len(series) * _long_run(scores, terms)) / change, terms)


def ewc_by_phase(series: Floats, on: Flags, columns: list[Floats]) -> Limits:
    """Equal-weighted cosines of the residuals of each phase."""
    estimate, rest, _, _ = _fit(series, on, columns)
    variance, squares = np.zeros(series.shape[1]), np.zeros(series.shape[1])
    for phase in (~on, on):
        terms = cosines(int(phase.sum()))
        part = _long_run(rest[phase], terms) / phase.sum()
        variance += part
        squares += part**2 / terms
    whole = np.arange(1, 60)  # the degrees of freedom of Welch, between two whole numbers
    quantiles = [student_t.quantile(0.975, int(each)) for each in whole]
    half = np.interp(variance**2 / squares, whole, quantiles) * np.sqrt(variance)
    return estimate - half, estimate + half


def plug_in(series: Floats, on: Flags, columns: list[Floats]) -> Limits:
    """GLS with one AR(1) correlation, that of the residuals, taken as known."""
    matrix = _matrix(on, columns)
    rest = phases.residuals(series, matrix)
    rho = np.clip(phases.lag_one(rest), 0.0, 0.98)
    low, high = np.empty(series.shape[1]), np.empty(series.shape[1])
    for run, each in enumerate(rho):
        white = [
            np.concatenate([values[:1] * np.sqrt(1 - each**2), values[1:] - each * values[:-1]])
            for values in (matrix, series[:, run : run + 1])
        ]
        basis, norms = orthonormal(white[0][None])
        left = phases.residuals(white[1], white[0])
        df = len(series) - matrix.shape[1]
        centre = float(basis[0][:, -1] @ white[1][:, 0]) / norms[0, -1]
        error = np.sqrt(float((left**2).sum()) / df) / norms[0, -1]
        low[run], high[run] = _around(centre, error, df)
    return low, high


def cosines(periods: int) -> int:
    """The number of cosines for a series of this length."""
    return int(0.4 * periods ** (2 / 3))


def _long_run(scores: Floats, terms: int) -> Floats:
    """The long-run variance of each column by its first cosines."""
    many = len(scores)
    at = np.arange(many) + 0.5
    waves = np.sqrt(2 / many) * np.cos(np.pi * np.outer(np.arange(1, terms + 1), at) / many)
    return np.asarray((np.einsum("kn,nr->kr", waves, scores) ** 2).mean(axis=0))


def _matrix(on: Flags, columns: list[Floats]) -> Floats:
    return np.column_stack([np.ones(len(on)), *columns, on.astype(float)])


def _fit(series: Floats, on: Flags, columns: list[Floats]) -> tuple[Floats, Floats, float, int]:
    """The (estimate, residuals, length of the change beside the other columns, number of columns)."""
    matrix = _matrix(on, columns)
    basis, norms = orthonormal(matrix[None])
    estimate = np.einsum("n,nr->r", basis[0][:, -1], series) / norms[0, -1]
    return estimate, phases.residuals(series, matrix), float(norms[0, -1]), matrix.shape[1]


def _around(centre: Floats, error: Floats, df: int) -> Limits:
    half = student_t.quantile(0.975, df) * error
    return centre - half, centre + half
