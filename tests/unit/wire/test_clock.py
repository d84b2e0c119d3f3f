"""The clock: real at rate 1, faster and without steps when simulated."""

from __future__ import annotations

import threading
import time

import pytest

from wire.clock import NS_PER_S, Clock


def test_a_simulated_clock_starts_where_it_is_told_and_runs_faster() -> None:
    clock, began = Clock(rate=1000, start_ns=10**18), time.monotonic_ns()
    before = clock.now_ns()
    assert before >= 10**18
    time.sleep(0.01)
    passed = clock.now_ns() - before
    assert 0.01 * 1000 * NS_PER_S <= passed <= (time.monotonic_ns() - began) * 1000


async def test_sleeping_takes_the_clocks_own_seconds() -> None:
    clock = Clock(rate=500, start_ns=0)
    goal = clock.now_ns() + 5 * NS_PER_S
    await clock.sleep_until(goal)
    assert clock.now_ns() >= goal - NS_PER_S // 10
    await clock.sleep_until(0)  # the past returns at once
    assert not clock.wait(threading.Event(), 1.0)


def test_the_real_clock_is_the_machines() -> None:
    clock = Clock()
    assert abs(clock.now_ns() - time.time_ns()) < 60 * NS_PER_S
    assert clock.now_ms() == pytest.approx(time.time() * 1000, abs=60_000)


def test_a_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Clock(rate=0)
