"""Machines with the change beside machines without."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, parallel, subsets

TREATED, CONTROL = [1.1, 0.4, 0.9, 1.6], [0.1, -0.2, 0.5, 0.3]


def effect(treated: object, control: object, **options: object) -> Effect:
    found = parallel.effect(treated, control, seed=1, **options)  # type: ignore[arg-type]
    assert isinstance(found, Effect), found
    return found


def test_golden_values() -> None:
    found = effect(TREATED, CONTROL)
    assert found.estimate == pytest.approx(0.825)
    assert (found.low, found.high) == pytest.approx((0.115993, 1.534007), abs=1e-6)
    assert found.df == 6


def test_p_is_that_of_all_assignments() -> None:
    special = pytest.importorskip("scipy.special")
    found = effect(TREATED, CONTROL)
    error = 0.825 / ((np.var(TREATED, ddof=1) + np.var(CONTROL, ddof=1)) / 4) ** 0.5
    assert found.p == pytest.approx(2 * special.stdtr(6, -error), abs=1e-7)
    values = np.array(TREATED + CONTROL)
    sums = [values[list(each)].sum() for each in itertools.combinations(range(8), 4)]
    beyond = sum(each >= sum(TREATED) - 1e-12 for each in sums)
    assert found.extras["exact_p"] == pytest.approx(2 * beyond / len(sums), abs=1e-7)


@pytest.mark.parametrize(
    ("treated", "control"),
    [
        ("0.8 0.6 0.0 0.1", "-0.2 0.5 -0.4 0.0"),
        ("0.1 0.0 0.9 0.9", "-0.4 0.2 0.5 0.1"),
        ("0.9 0.2 0.4 0.5", "-0.3 0.5 0.1 0.5"),
    ],
)
def test_ties_are_those_by_hand(treated: str, control: str) -> None:
    groups = [[Fraction(each) for each in group.split()] for group in (treated, control)]
    moved = [
        sum(some) - sum(others)
        for size in range(1, 5)
        for some in itertools.combinations(groups[0], size)
        for others in itertools.combinations(groups[1], size)
    ]
    fewer = min(sum(each <= 0 for each in moved), sum(each >= 0 for each in moved))
    found = effect(*([float(each) for each in group] for group in groups))
    assert found.extras["exact_p"] == pytest.approx(2 * (1 + fewer) / (len(moved) + 1), abs=1e-8)


def test_drawn_permutations_are_close_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(5)
    treated, control = drawn.normal(1, 1, 6), drawn.normal(0, 1, 6)
    exact = effect(treated, control)
    monkeypatch.setattr(subsets, "ALL_UP_TO", 4)
    assert effect(treated, control) == effect(treated, control)
    for name in ("exact_low", "exact_high", "exact_p"):
        assert effect(treated, control).extras[name] == pytest.approx(float(exact.extras[name]), abs=0.05)


@pytest.mark.parametrize(("treated", "control"), [(2, 1), (4, 0), (0, 5), (1, 1)])
def test_too_few_machines_are_refused(treated: int, control: int) -> None:
    found = parallel.effect(np.arange(treated) + 0.5, np.arange(control) * 1.5, seed=1)
    assert isinstance(found, Refused)
    assert found.code == "too-few-machines"


def test_relative_limits_are_shares() -> None:
    found, shares = effect(TREATED, CONTROL), effect(TREATED, CONTROL, relative=True)
    for name in ("exact_low", "exact_high"):
        assert shares.extras[name] == pytest.approx(math.expm1(float(found.extras[name])), rel=1e-6)
    assert shares.low == pytest.approx(math.expm1(found.low), rel=1e-6)


def test_small_groups_are_marked() -> None:
    found = effect(TREATED[:2], CONTROL[:2])
    assert found.extras["assumes"] == "machines-alike"
    assert "exact_p" not in found.extras
    assert "assumes" not in effect(TREATED, CONTROL).extras
    assert effect([1.0], CONTROL).df == 3


def test_missing_machines_and_equal_values() -> None:
    assert effect([*TREATED, None], CONTROL).extras["missing"] == 1
    same = parallel.effect([1.0, 1.0, 1.0], [0.0, 0.0], seed=1)
    assert isinstance(same, Refused)
    assert same.code == "values-do-not-vary"


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_the_unit_does_not_matter(unit: float) -> None:
    found = effect(np.array(TREATED) * unit, np.array(CONTROL) * unit)
    assert found.low / unit == pytest.approx(0.115993, abs=1e-6)
