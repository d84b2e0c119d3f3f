"""How fast a backlog leaves: the rate that is set, and the share of the way that delays nothing newer."""

from __future__ import annotations

import random

import pytest

from agent.uplink.pacing import WINDOW_MAX, WINDOW_MIN, Pace


@pytest.mark.parametrize("per_s", [1_000, 100_000, 1_000_000])
def test_the_rate_is_kept_over_any_time(per_s: int) -> None:
    pace, dice = Pace(per_s), random.Random(per_s)
    now_s, sent = 0.0, 0
    while now_s < 60:
        if budget := pace.budget(now_s):
            pace.spend(budget)
            sent += budget
        now_s += min(pace.wait_s() or 0.001, dice.uniform(0, 0.2))
    assert 0.9 * per_s * 60 <= sent <= per_s * 60 + max(per_s, 16_384)


def test_a_pause_is_not_made_up_for() -> None:
    pace = Pace(100_000)
    pace.budget(0.0)
    assert pace.budget(3_600.0) <= 50_000


def test_what_was_overdrawn_is_waited_for() -> None:
    pace = Pace(100_000)
    pace.spend(pace.budget(0.0) + 100_000)  # one large message
    assert pace.budget(0.5) == 0
    assert pace.wait_s() == pytest.approx(0.5 + 16_384 / 100_000, abs=0.01)
    assert pace.budget(1.2) > 0


def test_without_a_limit_only_the_window_counts() -> None:
    pace = Pace(0)
    assert (pace.budget(0.0), pace.wait_s()) == (WINDOW_MAX, 0.0)


def test_delay_shrinks_what_is_on_its_way_and_its_end_lets_it_grow() -> None:
    pace = Pace(0)
    first = pace.window
    pace.took(0.0, 0.1, 1_000)
    assert pace.window > first
    for at in range(1, 30):
        pace.took(at, at + 2.0, 1_000)
    assert pace.window == WINDOW_MIN
    for at in range(100, 100_000):
        pace.took(at, at + 0.1, 1_000)
    assert pace.window == WINDOW_MAX


def test_a_long_way_is_no_delay() -> None:
    """600 ms to a satellite and back: what counts is what a queue adds to it."""
    pace = Pace(0)
    first = pace.window
    for at in range(20):
        pace.took(at, at + 0.6, 1_000)
    assert pace.window > first


def test_all_that_was_on_its_way_together_is_one_reason_to_shrink() -> None:
    pace = Pace(0)
    pace.took(0.0, 0.01, 1)
    before = pace.window
    for _ in range(50):
        pace.took(1.0, 1.42, 1_000)
    assert before // 2 <= pace.window < before


def test_a_narrow_link_is_filled_and_its_queue_stays_short() -> None:
    """20 kB/s with 50 ms of way: simulated packet by packet, as the flight uses the pace."""
    pace, rate = Pace(0), 20_000
    waiting: list[tuple[float, float, int]] = []  # sent, acknowledged, bytes
    delays: list[float] = []
    now_s, free_s = 0.0, 0.0
    delivered = 0
    while now_s < 60:
        while waiting and waiting[0][1] <= now_s:
            sent_s, done_s, size = waiting.pop(0)
            pace.took(sent_s, done_s, size)
            delivered += size
        while sum(size for _, _, size in waiting) + 1_000 <= pace.window:
            free_s = max(free_s, now_s) + 1_000 / rate
            waiting.append((now_s, free_s + 0.05, 1_000))
            if now_s > 3:
                delays.append(free_s - now_s)
        now_s += 0.01
    assert delivered > 0.9 * rate * 60
    assert max(delays) < 0.6
