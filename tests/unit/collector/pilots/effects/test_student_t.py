"""Student's t, the incomplete beta function and the interval of a proportion, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collector.pilots.effects import student_t


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 26, 53, 54, 301])
def test_cdf_and_quantile_are_those_of_scipy(df: int) -> None:
    special = pytest.importorskip("scipy.special")  # scipy.stats takes seconds to import
    at = np.linspace(-40, 40, 401)
    assert np.abs(student_t.cdf(at, df) - special.stdtr(df, at)).max() < 1e-13
    for p in (0.0005, 0.025, 0.4, 0.5, 0.9, 0.975, 0.9995):
        assert student_t.quantile(p, df) == pytest.approx(special.stdtrit(df, p), rel=1e-9, abs=1e-12)


def test_p_is_exact_far_into_the_tail() -> None:
    special = pytest.importorskip("scipy.special")
    for t, df in ((2.0, 6), (11.0, 30), (60.0, 19), (0.01, 5)):
        assert student_t.two_sided_p(t, df) == pytest.approx(2 * special.stdtr(df, -t), rel=1e-10)
    assert student_t.two_sided_p(math.inf, 3) == 0


def test_the_reference_value_of_the_blocks() -> None:
    assert student_t.quantile(0.975, 3) == pytest.approx(3.182446, abs=5e-7)


@pytest.mark.parametrize(
    ("hits", "trials"), [(0, 27), (1, 27), (8, 27), (20, 27), (27, 27), (180_000, 400_000)]
)
def test_limits_of_a_proportion_are_those_of_clopper_and_pearson(hits: int, trials: int) -> None:
    special = pytest.importorskip("scipy.special")
    low = special.betaincinv(hits, trials - hits + 1, 0.025) if hits else 0
    high = special.betaincinv(hits + 1, trials - hits, 0.975) if hits < trials else 1
    assert student_t.proportion_limits(hits, trials, 0.05) == pytest.approx((low, high), abs=1e-10)
