"""A model against a rule on several machines."""

from __future__ import annotations

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, clusters

ROWS = [np.random.default_rng(each).normal(0.4, 1, 3 + 10 * each) for each in range(8)]


def test_interval_is_that_of_the_cluster_means() -> None:
    special = pytest.importorskip("scipy.special")
    found = clusters.effect(ROWS, seed=1)
    assert isinstance(found, Effect)
    means = np.array([each.mean() for each in ROWS])
    error = means.std(ddof=1) / np.sqrt(8)
    half = special.stdtrit(7, 0.975) * error
    p = 2 * special.stdtr(7, -abs(means.mean()) / error)
    assert (found.low, found.high, found.p) == pytest.approx(
        (means.mean() - half, means.mean() + half, p), abs=1e-7
    )
    assert (found.n, found.extras["rows"]) == (8, sum(len(each) for each in ROWS))
    assert (float(found.extras["exact_p"]) < 0.05) == (float(found.extras["exact_low"]) > 0)


def test_fewer_than_seven_are_refused_and_empty_ones_do_not_count() -> None:
    found = clusters.effect([*ROWS[:6], np.array([np.nan])], seed=1)
    assert isinstance(found, Refused)
    assert (found.code, found.extras["missing"]) == ("too-few-machines", 1)
    assert isinstance(clusters.effect(ROWS[:7], seed=1), Effect)


def test_equal_differences_are_refused() -> None:
    found = clusters.effect([np.full(5, 0.3)] * 9, seed=1)
    assert isinstance(found, Refused)
    assert found.code == "values-do-not-vary"


def test_ties_are_those_by_hand() -> None:
    """One of the sums of these seven means is 0 by hand: 0.6 - 0.3 - 0.3."""
    found = clusters.effect([[each] for each in (0.6, -0.3, 0.7, 0.1, 0.5, 0.4, -0.3)], seed=1)
    assert isinstance(found, Effect)
    assert found.extras["exact_p"] == 24 / 128
