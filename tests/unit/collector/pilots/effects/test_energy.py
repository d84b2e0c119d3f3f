"""The labels of ASHRAE Guideline 14."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collector.pilots.effects import energy

DAYS = np.arange(365.0)
OUTSIDE = 12 - 10 * np.cos(2 * np.pi * DAYS / 365)
NOISE = np.random.default_rng(3).normal(size=365)
USED = 200 + 8 * np.maximum(18 - OUTSIDE, 0) + 15 * NOISE
HEATING = np.maximum(18 - OUTSIDE, 0)


def test_independent_periods_are_those_of_the_guideline() -> None:
    assert energy.independent_periods(365, 0.5) == pytest.approx(121.667, abs=5e-4)
    assert energy.independent_periods(365, 0.0) == energy.independent_periods(365, -0.3) == 365


def test_labels_are_those_of_least_squares() -> None:
    found = energy.labels(USED, [HEATING], period_h=24)
    matrix = np.column_stack([np.ones(365), HEATING])
    rest = USED - matrix @ np.linalg.lstsq(matrix, USED)[0]
    assert found["cv_rmse"] == pytest.approx(math.sqrt((rest**2).sum() / 363) / USED.mean(), abs=1e-8)
    assert found["nmbe"] == 0  # least squares with a constant has no bias
    rho = float(np.corrcoef(rest[1:], rest[:-1])[0, 1])
    assert found["ashrae_n"] == pytest.approx(energy.independent_periods(365, rho), rel=0.02)
    assert found["ashrae"] == "hourly-within"


def test_a_driver_that_is_left_out_shows() -> None:
    with_driver, without = energy.labels(USED, [HEATING], period_h=24), energy.labels(USED, period_h=24)
    assert float(without["cv_rmse"]) > 3 * float(with_driver["cv_rmse"])
    assert float(without["ashrae_n"]) < 20
    assert float(with_driver["ashrae_n"]) > 300


@pytest.mark.parametrize(
    ("period_h", "spread", "label"),
    [
        (24, 0.29, "hourly-within"),
        (24, 0.31, "hourly-beyond"),
        (31 * 24, 0.14, "monthly-within"),
        (28 * 24 - 1, 0.16, "monthly-beyond"),
    ],
)
def test_limits(period_h: float, spread: float, label: str) -> None:
    values = np.array([1 - spread, 1 + spread] * 500)
    assert energy.labels(values, period_h=period_h)["ashrae"] == label


def test_the_unit_does_not_matter_and_missing_periods_are_left_out() -> None:
    small = energy.labels(USED * 1e-300, [HEATING], period_h=24)
    assert small == energy.labels(USED * 1e300, [HEATING * 1e200], period_h=24)
    some = [None if at % 9 == 0 else each for at, each in enumerate(USED)]
    assert float(energy.labels(some, [HEATING], period_h=24)["ashrae_n"]) < 325


@pytest.mark.parametrize(
    "values", [[], [None] * 30, [math.nan], [0.0] * 30, [-3.0] * 30, [5.0], [1e308, -1e308] * 9]
)
def test_numbers_without_labels(values: list[float | None]) -> None:
    assert energy.labels(values, period_h=24) == {}


def test_a_constant_is_within() -> None:
    assert energy.labels([7.0] * 30, period_h=24) == {
        "cv_rmse": 0.0,
        "nmbe": 0.0,
        "ashrae_n": 30.0,
        "ashrae": "hourly-within",
    }
