"""Pacing: the fixed rate of a backlog, and a window that does not delay newer messages."""

from __future__ import annotations

import random

import pytest

from agent.uplink.pacing import WINDOW_MAX, WINDOW_MIN, Pacing


@pytest.mark.parametrize("per_s", [1_000, 100_000, 1_000_000])
def test_the_rate_is_kept_over_any_time(per_s: int) -> None:
    pacing, dice = Pacing(per_s), random.Random(per_s)
    now_s, sent = 0.0, 0
    while now_s < 60:
        if budget := pacing.budget(now_s):
            pacing.spend(budget)
            sent += budget
        now_s += min(pacing.wait_s() or 0.001, dice.uniform(0, 0.2))
    assert 0.9 * per_s * 60 <= sent <= per_s * 60 + max(per_s, 16_384)


def test_a_pause_is_not_made_up_for() -> None:
    pacing = Pacing(100_000)
    pacing.budget(0.0)
    assert pacing.budget(3_600.0) <= 50_000


def test_what_was_overdrawn_is_waited_for() -> None:
    pacing = Pacing(100_000)
    pacing.spend(pacing.budget(0.0) + 100_000)  # one large message
    assert pacing.budget(0.5) == 0
    assert pacing.wait_s() == pytest.approx(0.5 + 16_384 / 100_000, abs=0.01)
    assert pacing.budget(1.2) > 0


def test_without_a_limit_only_the_window_counts() -> None:
    pacing = Pacing(0)
    assert (pacing.budget(0.0), pacing.wait_s()) == (WINDOW_MAX, 0.0)


def test_delay_shrinks_the_window_and_its_end_lets_it_grow() -> None:
    pacing = Pacing(0)
    first = pacing.window
    pacing.took(0.0, 0.1, 1_000)
    assert pacing.window > first
    for at in range(1, 30):
        pacing.took(at, at + 2.0, 1_000)
    assert pacing.window == WINDOW_MIN
    for at in range(100, 100_000):
        pacing.took(at, at + 0.1, 1_000)
    assert pacing.window == WINDOW_MAX


def test_a_long_way_is_not_a_delay() -> None:
    """600 ms to a satellite and back: only the time that a queue adds counts."""
    pacing = Pacing(0)
    first = pacing.window
    for at in range(20):
        pacing.took(at, at + 0.6, 1_000)
    assert pacing.window > first


def test_messages_in_flight_together_shrink_the_window_once() -> None:
    pacing = Pacing(0)
    pacing.took(0.0, 0.01, 1)
    before = pacing.window
    for _ in range(50):
        pacing.took(1.0, 1.42, 1_000)
    assert before // 2 <= pacing.window < before


def test_a_narrow_link_is_filled_and_its_queue_stays_short() -> None:
    """20 kB/s with 50 ms of way: simulated packet by packet, as the in-flight window uses pacing."""
    pacing, rate = Pacing(0), 20_000
    waiting: list[tuple[float, float, int]] = []  # sent, acknowledged, bytes
    delay: list[float] = []
    now_s, free_s = 0.0, 0.0
    delivered = 0
    while now_s < 60:
        while waiting and waiting[0][1] <= now_s:
            sent_s, done_s, size = waiting.pop(0)
            pacing.took(sent_s, done_s, size)
            delivered += size
        while sum(size for _, _, size in waiting) + 1_000 <= pacing.window:
            free_s = max(free_s, now_s) + 1_000 / rate
            waiting.append((now_s, free_s + 0.05, 1_000))
            if now_s > 3:
                delay.append(free_s - now_s)
        now_s += 0.01
    assert delivered > 0.9 * rate * 60
    assert max(delay) < 0.6
