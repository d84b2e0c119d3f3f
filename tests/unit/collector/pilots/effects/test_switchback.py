"""Pairs of periods: the exact interval and p, refusals, ties, units."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, subsets, switchback

GOLDEN = [1.2, -0.3, 0.8, 2.1, 0.4, 1.5, -0.6]
LONGER = [*GOLDEN, 0.9, 1.1, 0.2]


def effect(on: object, off: object, **options: object) -> Effect:
    found = switchback.effect(on, off, **{"seed": 1, **options})  # type: ignore[arg-type]
    assert isinstance(found, Effect), found
    return found


def refused(on: object, off: object, **options: object) -> str:
    found = switchback.effect(on, off, **{"seed": 1, **options})  # type: ignore[arg-type]
    assert isinstance(found, Refused), found
    return found.code


def test_golden_values() -> None:
    found = effect(GOLDEN, [0.0] * 7)
    assert found.estimate == pytest.approx(0.728571, abs=5e-7)
    assert (found.low, found.high, found.p) == pytest.approx((-0.3, 1.65, 0.109375))
    found = effect(LONGER, [0.0] * 10)
    assert found.estimate == pytest.approx(0.73)
    assert (found.low, found.high) == pytest.approx((0.125, 1.333333), abs=5e-7)
    assert found.p == 26 / 1024


def by_hand(differences: list[str]) -> list[Fraction]:
    """The means of all subsets of decimal numbers, as fractions."""
    exact = [Fraction(each) for each in differences]
    sizes = range(1, len(exact) + 1)
    return sorted(sum(each) / many for many in sizes for each in itertools.combinations(exact, many))


def p_of(means: list[Fraction]) -> float:
    fewer = min(sum(each <= 0 for each in means), sum(each >= 0 for each in means))
    return min(1.0, 2 * (1 + fewer) / (len(means) + 1))


def test_the_golden_p_is_that_of_fractions() -> None:
    """The design states .021484 = 22/1024: of binary numbers, where 0.9 - 0.3 - 0.6 is above 0."""
    assert p_of(by_hand([str(each) for each in LONGER])) == 26 / 1024
    binary = [str(Fraction(each)) for each in LONGER]
    assert p_of(by_hand(binary)) == 22 / 1024


@pytest.mark.parametrize(
    ("on", "off"),
    [
        ("0.3 0.1 0.7 0.2 0.5 0.6 0.4 0.9", "0.1 0.2 0.8 0.4 0.2 0.1 0.9 0.3"),
        ("12.1 12.4 11.9 12.2 12.5 12.0 11.7", "12.2 11.9 12.0 12.1 12.1 12.3 11.6"),
        (
            "1000000.1 1000000.3 999999.8 1000000.2 1000000.4 1000000.1",
            "1000000 1000000.1 1000000 1000000 1000000 1000000.3",
        ),
        ("3 1 4 1 5 9 2 6", "2 7 1 8 2 8 1 8"),
        ("1e-9 3e-9 -2e-9 4e-9 2e-9 -1e-9 3e-9", "0 0 0 0 0 0 0"),
    ],
)
def test_ties_are_those_by_hand(on: str, off: str) -> None:
    differences = [Fraction(a) - Fraction(b) for a, b in zip(on.split(), off.split(), strict=True)]
    means = by_hand([str(each) for each in differences])
    found = effect([float(each) for each in on.split()], [float(each) for each in off.split()])
    assert found.p == p_of(means)
    outside = len(means) * 5 // 200 or 1
    assert (found.low, found.high) == pytest.approx((float(means[outside - 1]), float(means[-outside])))
    assert (found.p > 0.05) == (found.low <= 0 <= found.high)


@pytest.mark.parametrize("pairs", [6, 9])
def test_interval_is_the_inversion_of_the_randomisation_test(pairs: int) -> None:
    """A value is inside if the test of it, over all 2^n orders, has p above alpha."""
    differences = np.random.default_rng(pairs).normal(size=pairs)
    signs = np.array(list(itertools.product([1, -1], repeat=pairs)))

    def p(truth: float) -> float:
        means = (signs * (differences - truth)).mean(axis=1)
        at = (differences - truth).mean()
        return min(1.0, 2 * min((means >= at - 1e-12).mean(), (means <= at + 1e-12).mean()))

    found = effect(differences, np.zeros(pairs))
    assert p(0.0) == pytest.approx(found.p)
    for limit, outward in ((found.low, -1e-6), (found.high, 1e-6)):
        assert p(limit + outward) <= 0.05 < p(limit - outward)


def test_the_t_interval_beside_it_is_that_of_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    found = effect(GOLDEN, [0.0] * 7)
    mean, error = np.mean(GOLDEN), np.std(GOLDEN, ddof=1) / np.sqrt(7)
    half = special.stdtrit(6, 0.975) * error
    assert (found.extras["t_low"], found.extras["t_high"]) == pytest.approx(
        (mean - half, mean + half), abs=1e-7
    )
    assert found.extras["t_p"] == pytest.approx(2 * special.stdtr(6, -mean / error), abs=1e-7)


def test_fewer_than_six_whole_pairs_are_refused() -> None:
    assert refused(GOLDEN[:5], [0.0] * 5) == "too-few-periods"
    assert refused([], []) == "too-few-periods"
    assert refused([*GOLDEN[:6], 1.0], [0.0] * 5 + [math.nan, None]) == "too-few-periods"
    assert refused(GOLDEN, [0.0] * 7, alpha=0.01) == "too-few-periods"  # 2^7 orders give no 99 % interval
    assert effect(GOLDEN[:6], [0.0] * 6).n == 6


def test_a_missing_period_removes_its_pair() -> None:
    on = [*GOLDEN, math.inf, None, 5.0]
    off = [0.0] * 9 + [math.nan]
    found = effect(on, off)
    assert (found.n, found.extras["missing"]) == (7, 3)
    assert found.low == pytest.approx(-0.3)


def test_21_pairs_are_drawn_from_the_seed() -> None:
    differences = np.random.default_rng(7).normal(0.4, 1, 21)
    drawn = effect(differences, np.zeros(21))
    assert drawn == effect(differences, np.zeros(21))
    assert drawn != effect(differences, np.zeros(21), seed=2)
    assert drawn.p == pytest.approx(float(drawn.extras["t_p"]), abs=0.03)
    assert drawn.low == pytest.approx(float(drawn.extras["t_low"]), abs=0.1)


def test_drawn_subsets_are_close_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(8).normal(0.4, 1, 12)
    exact = effect(differences, np.zeros(12))
    monkeypatch.setattr(subsets, "ALL_UP_TO", 6)
    drawn = effect(differences, np.zeros(12))
    assert (drawn.low, drawn.high, drawn.p) == pytest.approx((exact.low, exact.high, exact.p), abs=0.03)
    assert len(subsets.flips(differences, 1)) == subsets.DRAWN


def test_100_pairs_use_more_than_one_word_of_bits() -> None:
    means = subsets.flips(np.eye(100)[99], 1)  # only the last value is not 0
    assert (means > 0).mean() == pytest.approx(0.5, abs=0.02)


def test_values_that_do_not_vary() -> None:
    assert refused([2.0] * 8, [2.0] * 8) == "values-do-not-vary"
    assert refused([3.0] * 8, [2.0] * 8) == "values-do-not-vary"
    found = effect(np.arange(6) + 2.0, np.arange(6))  # the same difference each time is exact
    assert (found.low, found.high, found.p) == (2.0, 2.0, 2 / 64)


def test_ties_widen_and_never_narrow() -> None:
    found = effect([1, 1, 0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0, 0, 0])
    assert found.low <= float(found.extras["t_low"]) + 0.05
    assert found.p is not None
    assert (found.p > 0.05) == (found.low <= 0 <= found.high)


@pytest.mark.parametrize("unit", [1e-300, 2.0**-40, 1e9, 1e300])
def test_the_unit_does_not_matter(unit: float) -> None:
    found = effect(np.array(GOLDEN) * unit, np.zeros(7))
    assert (found.low / unit, found.high / unit) == pytest.approx((-0.3, 1.65))
    assert found.p == pytest.approx(0.109375)


def test_relative_targets() -> None:
    drawn = np.random.default_rng(9)
    off = drawn.lognormal(3, 0.5, 14)
    found = effect(off * 0.8 * drawn.lognormal(0, 0.02, 14), off, relative=True)
    assert found.relative
    assert found.low < -0.2 < found.high
    assert found.estimate == pytest.approx(-0.2, abs=0.02)
    assert refused(off - 30, off, relative=True) == "values-not-positive"
    with_zero = effect(np.r_[0.0, off[1:] * 0.8], off, relative=True)
    assert with_zero.method == "ratio-jackknife"


def test_columns_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"\[6, 7\]"):
        switchback.effect([1.0] * 7, [1.0] * 6, seed=1)
