"""Fake dates in a baseline."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collector.pilots.effects.placebo import placebo

NOISE = np.random.default_rng(2).normal(size=45)


def test_all_dates_with_20_periods_on_both_sides() -> None:
    found = placebo(NOISE)
    assert (found.dates, found.shown) == (6, 0)
    assert placebo(NOISE[:39]).dates == 0
    assert placebo(NOISE[:39]).share == 0
    assert placebo([math.nan, *NOISE[:40]]).dates == 1


def test_a_step_in_the_baseline_is_shown() -> None:
    found = placebo(NOISE + 20 * (np.arange(45) >= 22))
    assert found.shown >= 1
    assert found.share == pytest.approx(found.shown / 6)
