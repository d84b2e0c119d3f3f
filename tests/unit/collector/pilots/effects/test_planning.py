"""Sample sizes: formulas, the simulation of the rule, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from collector.pilots.effects import Refused, planning

BASELINE = 100 + np.random.default_rng(3).normal(size=56)


def noise(values: np.ndarray = BASELINE, **options: bool) -> planning.Noise:
    found = planning.noise(values, **options)
    assert isinstance(found, planning.Noise), found
    return found


@pytest.mark.parametrize(
    ("effect", "rho", "periods"),
    [
        *((1, 0.0, 36), (1, 0.3, 26), (1, 0.6, 17), (1, 0.9, 12)),
        *((0.5, 0.0, 130), (0.5, 0.3, 92), (0.5, 0.6, 54), (0.5, 0.9, 18)),
    ],
)
def test_switchback_formula(effect: float, rho: float, periods: int) -> None:
    """The sd of neighbouring differences is sqrt(2 (1 - rho)); the expected periods are not rounded."""
    pairs = planning.switchback_pairs((2 * (1 - rho)) ** 0.5, effect)
    assert 0 <= 2 * pairs - periods <= 2


@pytest.mark.parametrize(
    ("effect", "rho", "periods"), [(1, 0.0, 45), (1, 0.3, 65), (1, 0.5, 105), (0.5, 0.0, 140)]
)
def test_before_after_formula(effect: float, rho: float, periods: int) -> None:
    assert planning.before_after_periods(1, effect, rho) == pytest.approx(periods, abs=11)
    assert planning.before_after_periods(1, 100, rho) >= 20


def test_a_share_in_logarithms() -> None:
    assert planning.log_size(0.1, 1) == pytest.approx(np.log(1.1))
    assert planning.log_size(0.1, -1) == pytest.approx(-np.log(0.9))
    assert planning.log_size(1.0, -1) == np.inf


def test_the_noise_of_a_baseline() -> None:
    found = noise()
    assert found.sd == pytest.approx(np.std(BASELINE, ddof=1))
    assert found.step_sd == pytest.approx(np.std(np.diff(BASELINE), ddof=1))
    assert found.weights.sum() == pytest.approx(1)
    huge = noise(BASELINE * 1e300)
    assert huge.sd / 1e300 == pytest.approx(found.sd)
    assert noise(relative=True).sd == pytest.approx(found.sd / 100, rel=0.05)


def test_noise_is_refused() -> None:
    assert isinstance(planning.noise(BASELINE[:19]), Refused)
    assert isinstance(planning.noise([1.0] * 30), Refused)
    assert isinstance(planning.noise(BASELINE - 100, relative=True), Refused)


def test_simulated_noise_has_the_correlation_of_its_model() -> None:
    rhos, shares, _ = planning.models()
    only = np.zeros(len(rhos))
    only[np.flatnonzero((rhos == 0.9) & (shares == 0))[0]] = 1
    found = planning.Noise(only, np.full(len(rhos), 3.0), 3.0, 1.3, 0.9, 56)
    series = planning.simulated(found, np.arange(80.0), 400, np.random.default_rng(1))
    assert series.std() == pytest.approx(3, rel=0.05)
    assert (series[1:] * series[:-1]).mean() / (series**2).mean() == pytest.approx(0.9, abs=0.02)


def test_power_grows_with_the_effect_and_is_the_same_each_time() -> None:
    found = noise()
    powers = [
        planning.before_after_power(found, baseline=56, trial=28, effect=effect, runs=100)
        for effect in (0.0, 1.5, 4.0)
    ]
    assert powers[0] <= 0.05 < powers[1] < powers[2]
    assert powers[1] == planning.before_after_power(found, baseline=56, trial=28, effect=1.5, runs=100)
    at_target = planning.before_after_power(found, baseline=56, trial=28, effect=4.0, target=4.0, runs=100)
    assert at_target <= 0.05


def test_a_plan_names_the_power_and_the_switchback() -> None:
    weak = planning.before_after_plan(noise(), trial=20, effect=0.3, trend="none", runs=40)
    assert weak.refused
    assert weak.needed is None
    assert weak.switchback_periods > 100
    strong = planning.before_after_plan(noise(), trial=28, effect=30.0, trend="none", runs=40)
    assert not strong.refused
    assert strong.needed is not None
    assert strong.switchback_periods == planning.ASKED_PERIODS
