"""Rates of rare events in pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collector.pilots.effects import Effect, Refused, counts

ON, OFF = [1, 0, 2, 1, 0, 1, 3], [3, 2, 4, 1, 2, 5, 2]


def pairs(on: object, off: object, **options: object) -> Effect:
    found = counts.pairs(on, off, **options)  # type: ignore[arg-type]
    assert isinstance(found, Effect), found
    return found


def refused(on: object, off: object, **options: object) -> str:
    found = counts.pairs(on, off, **options)  # type: ignore[arg-type]
    assert isinstance(found, Refused), found
    return found.code


def test_golden_values() -> None:
    found = pairs(ON, OFF)
    assert found.estimate + 1 == pytest.approx(0.421053, abs=5e-7)
    assert (found.low + 1, found.high + 1) == pytest.approx((0.059805, 1.007281), abs=5e-7)
    none = pairs([0] * 7, [3, 2, 4, 1, 2, 5, 4])
    assert none.estimate == none.low == -1
    assert none.high + 1 == pytest.approx(0.192034, abs=5e-7)


def test_the_exact_part_is_that_of_scipy() -> None:
    proportion = pytest.importorskip("scipy.special").betaincinv(1, 21, 0.975)
    assert pairs([0] * 7, [3] * 7).high + 1 == pytest.approx(proportion / (1 - proportion), abs=1e-7)


def test_exposure_is_part_of_the_rate() -> None:
    same = pairs(ON, OFF)
    longer = pairs(ON, OFF, on_exposure=[16.0] * 7, off_exposure=[8.0] * 7)
    assert (longer.estimate + 1) * 2 == pytest.approx(same.estimate + 1, abs=1e-7)
    assert (longer.high + 1) * 2 == pytest.approx(same.high + 1, abs=1e-7)
    assert refused(ON, OFF, on_exposure=[0.0] * 7) == "values-not-positive"


def test_fewer_than_20_events_are_refused_with_their_counts() -> None:
    found = counts.pairs([0] * 7, [3, 2, 4, 1, 2, 5, 2])
    assert isinstance(found, Refused)
    assert (found.code, found.extras["events_on"], found.extras["events_off"]) == ("too-few-events", 0, 19)
    assert refused([0] * 7, [0] * 7) == "too-few-events"
    assert refused(ON[:5], [9] * 5) == "too-few-periods"


def test_all_events_with_the_change_have_no_upper_limit() -> None:
    found = pairs([3, 2, 4, 1, 2, 5, 4], [0] * 7)
    assert found.estimate == found.high == math.inf
    assert found.low + 1 == 0  # Fieller: the rate without the change may be 0 in both arms' scatter


def test_what_is_not_a_count_is_refused() -> None:
    assert refused([0.5, *ON[1:]], OFF) == "values-not-positive"
    assert refused([-1, *ON[1:]], OFF) == "values-not-positive"


def test_missing_pairs_are_left_out() -> None:
    found = pairs([*ON, math.nan], [*OFF, 9])
    assert (found.n, found.extras["missing"]) == (7, 1)
    assert found.low == pairs(ON, OFF).low
    assert pairs(np.array(ON) * 1000, np.array(OFF) * 1000).high < 0.9


@pytest.mark.parametrize(
    ("hits", "others"), [(99_000, 101_000), (99_000, 10**9), (3, 10**9), (10**9, 3), (200_000, 10**11)]
)
def test_limits_of_many_events_are_those_of_scipy(hits: int, others: int) -> None:
    beta = pytest.importorskip("scipy.special").betaincinv
    shares = beta(hits, others + 1, 0.025), beta(hits + 1, others, 0.975)
    expected = [each / (1 - each) for each in shares]
    half = (expected[1] - expected[0]) / 2
    found = counts._odds_limits(hits, others, 0.05)
    assert found == pytest.approx(expected, abs=2e-3 * half)
