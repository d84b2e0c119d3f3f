"""Digits of effects, and shares from logarithms."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from collector.pilots.effects.effect import Effect, as_relative


def test_numbers_have_eight_digits_of_the_largest() -> None:
    found = Effect(1 / 3e6, -2 / 3, 2 / 3, 0.05, "m", 7, p=1 / 3, sd=2e6 / 3).stated()
    assert (found.estimate, found.low, found.p) == (3.3e-07, -0.66666667, 0.33333333)
    assert found.sd == pytest.approx(2e6 / 3, rel=1e-7)


@pytest.mark.parametrize("size", [1e-300, 1e-9, 1.0, 1e9, 1e300])
def test_the_last_bits_do_not_reach_the_report(size: float) -> None:
    one = Effect(0.123 * size, -size / 7, size / 7, 0.05, "m", 7).stated()
    other = Effect(0.123 * size * (1 + 1e-14), -size / 7 * (1 + 1e-14), size / 7, 0.05, "m", 7).stated()
    assert one == other


def test_an_infinite_limit_and_minus_zero() -> None:
    found = Effect(-1e-30, -0.4, math.inf, 0.05, "m", 7).stated()
    assert found.high == math.inf
    assert math.copysign(1, found.estimate) == 1


def test_relative_is_exp_minus_one() -> None:
    found = as_relative(Effect(math.log(0.8), math.log(0.7), math.log(0.9), 0.05, "m", 7))
    assert (found.estimate, found.low, found.high) == pytest.approx((-0.2, -0.3, -0.1))
    assert found.relative
    assert as_relative(Effect(0, -1e4, 1e4, 0.05, "m", 7)).high == math.inf


def test_verdicts_do_not_load_numpy() -> None:
    code = "import sys, collector.pilots.effects.verdict; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
