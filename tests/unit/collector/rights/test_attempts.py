"""How many logins get as far as a password check."""

from __future__ import annotations

from typing import Any

import pytest

from collector.rights import attempts as module
from collector.rights.attempts import Attempts


class Times:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def times() -> Any:
    return Times()


def test_an_address_has_five_then_one_in_ten_seconds(times: Any) -> None:
    attempts = Attempts(times)
    waits = [attempts.wait_s("a", f"user{n}", is_known=False) for n in range(7)]
    assert waits == [0, 0, 0, 0, 0, 10, 10]
    times.now_s += 9.9
    assert attempts.wait_s("a", "other", is_known=False) == pytest.approx(0.1)
    times.now_s += 0.2
    assert attempts.wait_s("a", "other", is_known=False) == 0


def test_a_user_has_ten_from_all_addresses_but_not_where_it_is_known(times: Any) -> None:
    attempts = Attempts(times)
    reached = 0
    for n in range(30):
        reached += attempts.wait_s(f"a{n}", "kim", is_known=False) == 0
        times.now_s += 0.5
    assert reached == 12, "ten, and one every six seconds"
    assert attempts.wait_s("office", "kim", is_known=True) == 0


def test_fifty_a_second_from_twenty_addresses_are_two_a_second(times: Any) -> None:
    attempts, reached = Attempts(times), 0
    for n in range(50 * 60):
        reached += attempts.wait_s(f"a{n % 20}", f"user{n % 500}", is_known=False) == 0
        times.now_s += 0.02
    assert 100 <= reached <= 135, "two a second, and the first ten"


def test_a_success_costs_no_attempt_and_gives_none(times: Any) -> None:
    attempts = Attempts(times)
    for _ in range(9):
        assert attempts.wait_s("a", "kim", is_known=False) == 0
        attempts.succeeded("a", "kim")
        times.now_s += 0.5
    for _ in range(5):  # who has an account guesses the password of another user of its address
        assert attempts.wait_s("a", "lee", is_known=True) == 0
    assert attempts.wait_s("a", "lee", is_known=True) == 10
    attempts.succeeded("unknown", "nobody")
    assert attempts.wait_s("a", "lee", is_known=True) == 10


def test_the_memory_is_bounded(times: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    attempts = Attempts(times)
    for n in range(200):
        attempts.wait_s(f"a{n}", f"u{n}", is_known=False)
        times.now_s += 10
    assert len(attempts._left) <= 10
