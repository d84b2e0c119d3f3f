"""Baseline and trial: golden values, refusals, missing periods, units, trends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, before_after, phases

AT = np.arange(56)
GOLDEN = np.sin(1.7 * AT) + 0.6 * np.sin(0.31 * AT) + 0.02 * ((37 * AT) % 11) + (AT >= 28)
ON = AT >= 28
WEEKEND = (AT % 7 >= 5).astype(float)


def effect(values: object, on: object = ON, **options: object) -> Effect:
    found = before_after.effect(values, on, **options)  # type: ignore[arg-type]
    assert isinstance(found, Effect), found
    return found


def refused(values: object, on: object = ON, **options: object) -> Refused:
    found = before_after.effect(values, on, **options)  # type: ignore[arg-type]
    assert isinstance(found, Refused), found
    return found


def noise(periods: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=periods)


def test_golden_values() -> None:
    found = effect(GOLDEN, covariates=[WEEKEND])
    given = (found.estimate, found.low, found.high, found.correlation, found.difference_of_means)
    # the design states 1.348641; test_averaging shows that no number that rounds to it is the limit
    assert [round(each or 0, 6) for each in given] == [0.477234, -0.394173, 1.348640, 0.521113, 0.767367]
    assert (found.low, found.high) == (-0.3941727, 1.3486401)  # 30 digits: -0.394172717990, 1.348640108952


def test_the_same_input_gives_the_same_bytes() -> None:
    assert repr(effect(GOLDEN, covariates=[WEEKEND])) == repr(effect(GOLDEN.tolist(), covariates=[WEEKEND]))


def test_fewer_than_20_periods_in_a_phase_are_refused() -> None:
    found = refused(GOLDEN[:47], ON[:47])
    assert (found.code, found.extras["n_trial"], found.extras["described"]) == ("too-few-periods", 19, "yes")
    assert refused(GOLDEN[:30], ON[:30]).extras["described"] == "no"
    assert refused(GOLDEN[:28], ON[:28]).extras["n_trial"] == 0
    assert refused([], []).code == "too-few-periods"
    assert effect(GOLDEN[8:48], ON[8:48]).n == 40


@pytest.mark.parametrize(
    "lost", [[0, 1, 55], list(range(10, 15)), list(range(26, 31)), list(range(1, 56, 7))]
)
def test_missing_periods_keep_the_length_of_the_gap(lost: list[int]) -> None:
    values = GOLDEN.copy()
    values[lost] = math.nan
    kept = np.delete(AT, lost)
    found = effect(values, covariates=[WEEKEND])
    assert found.extras["missing"] == len(lost)
    again = effect(GOLDEN[kept], ON[kept], times=kept.astype(float), covariates=[WEEKEND[kept]])
    assert (found.estimate, found.low, found.high) == (again.estimate, again.low, again.high)
    closed_up = effect(GOLDEN[kept], ON[kept], covariates=[WEEKEND[kept]])
    assert lost == [0, 1, 55] or found.low != closed_up.low


def test_every_second_period_missing_is_refused_and_infinities_are_missing() -> None:
    values = GOLDEN.copy()
    values[::2] = math.inf
    assert refused(values).code == "too-few-periods"
    assert refused([None] * 56).code == "too-few-periods"


def test_a_noise_level_that_changes_is_refused() -> None:
    values = noise(60)
    values[30:] *= 3
    found = refused(values, np.arange(60) >= 30)
    assert found.code == "noise-level-changed"
    assert float(found.extras["step_ratio"]) > 2
    constant = noise(60)
    constant[30:] = 4.0  # the sensor hangs
    assert refused(constant, np.arange(60) >= 30).code == "noise-level-changed"


def test_values_that_do_not_vary() -> None:
    assert refused([2.5] * 56).code == "values-do-not-vary"
    assert refused(ON * 3.0 + 1e9).code == "values-do-not-vary"
    assert refused([0.0] * 56).code == "values-do-not-vary"
    assert refused([1e300] * 56).code == "values-do-not-vary"


@pytest.mark.parametrize("unit", [1e-300, 2.0**-60, 1e12, 1e300])
def test_the_unit_does_not_matter(unit: float) -> None:
    found = effect(GOLDEN * unit, covariates=[WEEKEND])
    assert (found.low / unit, found.high / unit) == pytest.approx((-0.394173, 1.348641), abs=1e-6)
    assert found.correlation == pytest.approx(0.521113, abs=5e-7)


def test_a_large_level_does_not_matter() -> None:
    assert effect(GOLDEN + 1e6, covariates=[WEEKEND]).low == pytest.approx(-0.394173, abs=2e-6)


def test_relative_effects_are_analysed_in_logarithms() -> None:
    values = np.exp(0.1 * noise(56) + 3)
    values[28:] *= 0.75
    found = effect(values, relative=True)
    assert found.low < -0.25 < found.high
    assert found.difference_of_means == pytest.approx(values[28:].mean() / values[:28].mean() - 1)
    in_logs = effect(np.log(values))
    assert math.log1p(found.low) == pytest.approx(in_logs.low, abs=1e-7)
    assert math.log1p(float(found.extras["trend_low"])) == pytest.approx(
        float(in_logs.extras["trend_low"]), abs=1e-7
    )
    values[3] = 0.0
    assert refused(values, relative=True).code == "values-not-positive"


def test_covariates_that_explain_the_change_are_refused() -> None:
    assert refused(GOLDEN, covariates=[ON * 5.0 + 2]).code == "design-not-identified"


def test_covariates_that_add_nothing_are_left_out() -> None:
    plain = effect(GOLDEN, covariates=[WEEKEND])
    weekdays = 1e6 - 1e6 * WEEKEND
    assert effect(GOLDEN, covariates=[WEEKEND, weekdays, np.full(56, 3.0)]).low == pytest.approx(plain.low)


def test_a_covariate_in_any_unit_is_removed_exactly() -> None:
    temperature = np.random.default_rng(3).normal(20, 5, 56)
    plain = effect(GOLDEN, covariates=[temperature])
    driven = effect(GOLDEN + 7 * temperature, covariates=[temperature * 1e200])
    assert (driven.estimate, driven.low) == pytest.approx((plain.estimate, plain.low), abs=1e-6)
    missing = temperature.copy()
    missing[5] = math.nan
    assert effect(GOLDEN, covariates=[missing]).n == 55


def test_trend_check_gives_a_second_interval_and_linear_the_only_one() -> None:
    checked, linear = effect(GOLDEN), effect(GOLDEN, trend="linear")
    with_trend = (checked.extras["trend_low"], checked.extras["trend_high"])
    assert (linear.low, linear.high) == pytest.approx(with_trend, abs=1e-7)
    assert linear.half_width > checked.half_width
    assert "trend_low" not in effect(GOLDEN, trend="none").extras


def test_the_blocks_widen_an_interval_that_they_do_not_trust() -> None:
    rest = np.r_[np.repeat([1.0, -1, 1, -1], 7), np.zeros(28)][:, None]
    # the sd of the four means is 2 / sqrt(3), its standard error half of that
    assert phases.block_half_width(rest, ON, 0.05)[0] == pytest.approx(3.182446 / math.sqrt(3), abs=1e-6)


def test_periods_may_come_in_any_order() -> None:
    order = np.random.default_rng(6).permutation(56)
    mixed = effect(GOLDEN[order], ON[order], times=AT[order].astype(float), covariates=[WEEKEND[order]])
    assert mixed == effect(GOLDEN, covariates=[WEEKEND])


def test_periods_that_overlap_are_refused() -> None:
    assert refused(GOLDEN, times=AT[::-1].astype(float)).code == "design-not-identified"  # trial first
    assert refused(GOLDEN, ~ON).code == "design-not-identified"
    assert refused(GOLDEN, times=np.zeros(56)).code == "design-not-identified"
    assert refused(GOLDEN, times=[*AT[:-1], 54]).code == "design-not-identified"
    assert refused(GOLDEN, np.roll(ON, 1)).code == "design-not-identified"


def test_a_ratio_is_that_of_the_sums() -> None:
    drawn = np.random.default_rng(4)
    parts = drawn.uniform(50, 150, 56)
    energy = parts * np.where(ON, 1.6, 2.0) * drawn.lognormal(0, 0.05, 56)
    found = before_after.ratio(energy, parts, ON)
    assert isinstance(found, Effect)
    sums = energy[28:].sum() / parts[28:].sum() / (energy[:28].sum() / parts[:28].sum()) - 1
    assert found.difference_of_means == pytest.approx(sums, abs=1e-7)
    assert found.low < -0.2 < found.high < -0.1
    few = before_after.ratio(energy[:30], parts[:30], ON[:30])
    assert isinstance(few, Refused)
    assert isinstance(before_after.ratio(energy, np.zeros(56), ON), Refused)
