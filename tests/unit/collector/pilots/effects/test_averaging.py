"""The average over correlation models, against dense matrices and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from collector.pilots.effects import averaging


def dense(series: np.ndarray, columns: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weight, centre and error of each model, by the covariance matrix itself."""
    found = []
    many, terms = columns.shape
    for rho, share, prior in zip(*averaging.models(), strict=True):
        gaps = np.abs(times[:, None] - times[None, :])
        matrix = (1 - share) * rho**gaps
        np.fill_diagonal(matrix, 1.0)
        inverse = np.linalg.inv(matrix)
        covariance = np.linalg.inv(columns.T @ inverse @ columns)
        fitted = covariance @ columns.T @ inverse @ series
        rest = series - columns @ fitted
        rss = rest @ inverse @ rest
        weight = -np.linalg.slogdet(matrix)[1] / 2 + np.linalg.slogdet(covariance)[1] / 2
        weight += prior - (many - terms) / 2 * np.log(rss)
        found.append((weight, fitted[-1], np.sqrt(rss / (many - terms) * covariance[-1, -1])))
    weights, centres, errors = np.array(found).T
    weights = np.exp(weights - weights.max())
    return weights / weights.sum(), centres, errors


def test_57_models_and_their_prior() -> None:
    rhos, shares, priors = averaging.models()
    assert len(rhos) == 57
    assert (rhos[shares > 0] > 0).all()
    # the prior of the correlation integrates to that of [0, .99]
    assert np.exp(priors[shares == 0]).sum() == pytest.approx(0.5 * 4 * (1 - 0.01**0.25))


@pytest.mark.parametrize("lost", [[], [3, 4, 5, 6, 7, 30], [0, 43]])
def test_interval_is_that_of_dense_matrices(lost: list[int]) -> None:
    special = pytest.importorskip("scipy.special")
    times = np.delete(np.arange(44.0), lost)
    drawn = np.random.default_rng(4)
    series = np.cumsum(drawn.normal(size=44))[times.astype(int)] * 0.3 + drawn.normal(size=len(times))
    columns = np.column_stack([np.ones(len(times)), times % 7 >= 5, times >= 22]).astype(float)
    weights, centres, errors = dense(series, columns, times)
    found = averaging.averaged(series[:, None], columns, times, 0.05)
    assert found.weights[:, 0] == pytest.approx(weights, abs=1e-9)
    for p, limit in ((0.025, found.low[0]), (0.975, found.high[0])):
        shares = special.stdtr(len(times) - 3, (limit - centres) / errors)
        assert (weights * shares).sum() == pytest.approx(p, abs=1e-10)


def test_golden_series_is_that_of_dense_matrices() -> None:
    """The golden 1.348641 is one unit of its last digit too high: the limit is 1.348640108952."""
    special = pytest.importorskip("scipy.special")
    at = np.arange(56.0)
    series = np.sin(1.7 * at) + 0.6 * np.sin(0.31 * at) + 0.02 * ((37 * at) % 11) + (at >= 28)
    columns = np.column_stack([np.ones(56), at % 7 >= 5, at >= 28]).astype(float)
    weights, centres, errors = dense(series, columns, at)

    def share(limit: float) -> float:
        return float((weights * special.stdtr(53, (limit - centres) / errors)).sum())

    found = averaging.averaged(series[:, None], columns, at, 0.05)
    # by 57 Cholesky factors in 30 digits
    assert (found.low[0], found.high[0]) == pytest.approx((-0.394172717990189, 1.34864010895176), abs=1e-11)
    assert share(found.low[0]) == pytest.approx(0.025, abs=1e-10)
    assert share(found.high[0]) == pytest.approx(0.975, abs=1e-10)
    assert share(1.3486405) - 0.975 > 5e-8  # the least number that rounds to 1.348641


def test_series_do_not_influence_each_other() -> None:
    drawn = np.random.default_rng(5).normal(size=(40, averaging.AT_ONCE + 3))
    columns = np.column_stack([np.ones(40), np.arange(40) >= 20]).astype(float)
    together = averaging.averaged(drawn, columns, np.arange(40.0), 0.05)
    alone = averaging.averaged(drawn[:, -1:], columns, np.arange(40.0), 0.05)
    assert together.low[-1] == pytest.approx(alone.low[0], abs=1e-12)
    assert together.correlation[-1] == pytest.approx(alone.correlation[0], abs=1e-12)
