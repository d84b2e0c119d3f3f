"""The clock: real at rate 1, faster and without steps when simulated."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from wire.clock import NS_PER_S, SLACK_S, Clock, gathered_s


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


def test_what_the_real_clock_and_a_simulated_one_say_of_themselves() -> None:
    assert [clock.real for clock in (Clock(), Clock(2.0), Clock(1.0, 0))] == [True, False, False]
    assert [Clock().rate, Clock(2.5).rate] == [1.0, 2.5]
    assert not Clock().can_stand
    assert Clock(rate=0.5).monotonic_ns() >= 0
    for rate in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"^a clock's rate must be above 0, not {rate}$"):
            Clock(rate)


def test_monotonic_time_is_that_of_the_machine_or_starts_with_the_simulation() -> None:
    low, real, high = time.monotonic_ns(), Clock().monotonic_ns(), time.monotonic_ns()
    assert low <= real <= high
    began = time.monotonic_ns()
    clock = Clock(rate=1e6, start_ns=7 * NS_PER_S)
    seen, most = clock.monotonic(), (time.monotonic_ns() - began) * 1e6 / NS_PER_S
    assert 0 <= seen <= most
    assert clock.now_ms() >= 7_000
    assert time.monotonic() - clock.flowing_s() < 60


async def test_sleeps_and_waits_are_divided_by_the_rate() -> None:
    clock = Clock(rate=1e6, start_ns=0)
    began = clock.monotonic()
    await clock.sleep(2_000.0)
    assert clock.monotonic() - began >= 2_000
    await clock.sleep(-1e9)
    assert not clock.wait(threading.Event(), 3_000.0)
    assert clock.monotonic() - began >= 5_000
    event = threading.Event()
    event.set()
    assert clock.wait(event, 1e12)


async def test_a_timeout_is_at_a_moment_of_flowing_time() -> None:
    clock = Clock()
    with pytest.raises(TimeoutError):
        async with clock.timeout_at(clock.flowing_s() + 0.01):
            await asyncio.Event().wait()
    async with clock.timeout_at(None):
        await asyncio.sleep(0)


async def test_the_past_is_not_waited_for_at_any_rate() -> None:
    clock = Clock(rate=1e-9)  # a second takes thirty years
    await clock.sleep(-5.0)
    await clock.sleep(0.0)
    assert not clock.wait(threading.Event(), -5.0)
    assert not clock.wait(threading.Event(), 0.0)


async def test_a_rough_sleep_ends_at_a_multiple_of_the_slack() -> None:
    assert SLACK_S == 0.125
    assert [gathered_s(at) for at in (0.0, SLACK_S, SLACK_S * 1.5, SLACK_S * 2.25)] == [
        0.0, SLACK_S, 2 * SLACK_S, 3 * SLACK_S
    ]  # fmt: skip
    clock = Clock(rate=1e6, start_ns=0)
    began = clock.monotonic()
    await clock.sleep_roughly(2_000.0)
    assert clock.monotonic() >= began + 2_000
