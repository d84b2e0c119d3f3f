"""A rate with a burst: never more than it allows, and a fair part for each user."""

from __future__ import annotations

import pytest

from agent.fences.bucket import Bucket, FairBucket


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(10.0, 20.0)
    assert bucket.left(5.0) == 20.0
    bucket.spend(30.0)
    assert bucket.left(5.0) == -10.0, "what is missing is a debt"
    assert bucket.wait_s() == 1.0
    assert bucket.left(6.5) == pytest.approx(5.0)
    assert bucket.left(100.0) == 20.0
    assert bucket.left(50.0) == 20.0, "a clock that goes back gives nothing"


def test_a_debt_has_a_limit() -> None:
    bucket = Bucket(1.0, 1.0, debt=5.0)
    bucket.spend(1_000.0)
    bucket.left(0.0)
    assert bucket.left(6.0) == 1.0


def taken(bucket: FairBucket, rates_hz: dict[str, float], seconds: float) -> dict[str, int]:
    """How many tokens each user gets that asks at its rate, at fixed moments."""
    asks = sorted(
        (number / hz, user) for user, hz in rates_hz.items() for number in range(round(seconds * hz))
    )
    found = dict.fromkeys(rates_hz, 0)
    for at_s, user in asks:
        found[user] += bucket.take(user, at_s)
    return found


def test_one_user_gets_the_whole_rate() -> None:
    assert taken(FairBucket(10.0), {"a": 30.0}, 100.0)["a"] == pytest.approx(1_000, abs=22)


def test_a_slow_user_beside_a_fast_one_gets_all_it_asks_for() -> None:
    found = taken(FairBucket(10.0), {"fast": 1_000.0, "slow": 1.0}, 100.0)
    assert found["slow"] == 100
    assert found["fast"] == pytest.approx(900, abs=22)


def test_equal_users_get_equal_parts_and_together_the_rate() -> None:
    found = taken(FairBucket(9.0), {"a": 50.0, "b": 70.0, "c": 90.0}, 100.0)
    assert all(number == pytest.approx(300, abs=15) for number in found.values())


def test_the_part_of_one_that_leaves_goes_to_the_others() -> None:
    bucket = FairBucket(10.0)
    taken(bucket, {"a": 20.0, "b": 20.0}, 10.0)
    bucket.leave("b")
    bucket.leave("b")
    before = taken(bucket, {"a": 0.0}, 0.0)["a"]
    later = sum(bucket.take("a", 10.0 + number / 20) for number in range(2_000))
    assert before + later == pytest.approx(1_000, abs=22)


def test_less_than_one_a_second_is_a_rate_too() -> None:
    found = taken(FairBucket(0.1), {"a": 10.0}, 100.0)
    assert found["a"] == pytest.approx(10, abs=2)
