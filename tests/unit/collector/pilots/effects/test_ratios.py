"""Ratios of sums in pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, ratios

DRAWN = np.random.default_rng(6)
PER = DRAWN.uniform(20, 200, (2, 9))
ENERGY = PER * np.array([[1.5], [2.0]]) * DRAWN.lognormal(0, 0.1, (2, 9))


def pairs(*columns: object) -> Effect:
    found = ratios.pairs(*columns)  # type: ignore[arg-type]
    assert isinstance(found, Effect), found
    return found


def refused(*columns: object) -> str:
    found = ratios.pairs(*columns)  # type: ignore[arg-type]
    assert isinstance(found, Refused), found
    return found.code


def test_estimate_is_that_of_the_books_and_error_that_of_the_jackknife() -> None:
    special = pytest.importorskip("scipy.special")
    found = pairs(ENERGY[0], PER[0], ENERGY[1], PER[1])
    books = ENERGY[0].sum() / PER[0].sum() / (ENERGY[1].sum() / PER[1].sum())
    assert found.estimate == pytest.approx(books - 1, abs=1e-7)

    def log_ratio(keep: np.ndarray) -> float:
        sums = [each[keep].sum() for each in (ENERGY[0], PER[1], PER[0], ENERGY[1])]
        return math.log(sums[0] * sums[1] / sums[2] / sums[3])

    # the pseudo-values of Tukey
    whole, many = log_ratio(np.arange(9)), 9
    pseudo = [many * whole - (many - 1) * log_ratio(np.delete(np.arange(9), at)) for at in range(9)]
    half = special.stdtrit(8, 0.975) * np.std(pseudo, ddof=1) / 3
    assert (math.log1p(found.low), math.log1p(found.high)) == pytest.approx(
        (whole - half, whole + half), abs=1e-7
    )
    assert found.relative


def test_the_units_do_not_matter() -> None:
    found = pairs(ENERGY[0], PER[0], ENERGY[1], PER[1])
    huge = pairs(ENERGY[0] * 1e305, PER[0] * 1e-300, ENERGY[1] * 1e305, PER[1] * 1e-300)
    assert (huge.low, huge.high) == (found.low, found.high)


def test_refusals() -> None:
    five = [each[:5] for each in (ENERGY[0], PER[0], ENERGY[1], PER[1])]
    assert refused(*five) == "too-few-periods"
    assert refused(-ENERGY[0], PER[0], ENERGY[1], PER[1]) == "values-not-positive"
    alone = np.zeros(9)
    assert refused(alone, PER[0], ENERGY[1], PER[1]) == "too-few-events"
    alone[3] = 40
    assert refused(alone, PER[0], ENERGY[1], PER[1]) == "too-few-events"
    ones = np.ones(9)
    assert refused(ones * 3, ones, ones * 4, ones) == "values-do-not-vary"


def test_a_period_without_a_denominator_takes_part_and_a_missing_one_does_not() -> None:
    energy, per = ENERGY.copy(), PER.copy()
    energy[0, 2] = per[0, 2] = 0
    assert pairs(energy[0], per[0], energy[1], per[1]).n == 9
    per[1, 3] = math.nan
    assert pairs(energy[0], per[0], energy[1], per[1]).n == 8


def test_linearised_values_have_the_ratios_of_the_sums_as_means() -> None:
    on = np.arange(18) >= 9
    values = ratios.linearised(ENERGY.ravel(), PER.ravel(), on)
    for phase, row in ((~on, 0), (on, 1)):
        assert values[phase].mean() == pytest.approx(ENERGY[row].sum() / PER[row].sum())
