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
    lows, again = (planning.lower_limits(noise(), trial=28, runs=100) for _ in range(2))
    assert (lows == again).all()
    powers = [(lows + effect >= 0).mean() for effect in (0.0, 1.5, 4.0)]
    assert powers[0] <= 0.05 < powers[1] < powers[2]
