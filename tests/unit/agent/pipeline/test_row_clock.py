"""Jitter and bursts are not missing rows, and missing rows are found in spite of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from msgspec import UNSET
from numpy.typing import NDArray

from agent.inference.inputs import WindowInput
from agent.pipeline.row_clock import RowClock
from agent.pipeline.windows import Window, Windows
from wire.messages import Field, Quality, Stream

T0 = 1_760_000_000 * 10**9
LENGTH, HOP, ROWS = 100, 25, 4_000


def signal(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * 0.7 * at_s) + 0.3 * np.sin(2 * np.pi * 2.9 * at_s + 1)


def stamps(hz: float, jitter: float, rng: np.random.Generator, burst: int = 1) -> NDArray[np.float64]:
    """The times in s at which rows of `hz` come: early or late by a share of the period, or in bursts."""
    rows = np.arange(ROWS)
    if burst > 1:
        return (rows // burst + 1) * burst / hz + (rows % burst) * 1e-4
    found: NDArray[np.float64] = (rows + rng.uniform(-jitter, jitter, ROWS)) / hz
    return found


def windows_of(
    hz: float, at_s: NDArray[np.float64], values: NDArray[np.float64], *, declared: bool = True
) -> tuple[list[tuple[int, Window]], Counter[str]]:
    """Each window with the row that completed it."""
    counters: Counter[str] = Counter()
    spec = WindowInput(kind="window", name="x", signals=["a"], rate_hz=hz, length=LENGTH, hop=HOP)
    stream = Stream(fields={"a": Field()}, rate_hz=hz if declared else UNSET)
    made = Windows(spec, stream, counters)
    found = [
        (row, window)
        for row, (at, value) in enumerate(zip(at_s, values, strict=True))
        if (window := made.add(T0 + round(at * 1e9), {"a": float(value)})) is not None
    ]
    return found, counters


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("hz", "jitter"), [(50, 0.4), (1, 0.4), (250, 0.4), (50, 0.1), (50, 0.49)])
def test_jitter_costs_no_window_and_the_rows_stay_in_order(hz: float, jitter: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = signal(np.arange(ROWS) / 50)
    found, counters = windows_of(hz, stamps(hz, jitter, rng), values)
    assert len(found) >= 0.95 * ((ROWS - LENGTH) // HOP + 1)
    assert counters["gaps"] == counters["wrong_rate"] == 0
    assert counters["filled"] <= 0.005 * ROWS, "no row is missing"
    exact = [
        np.array_equal(window.rows[:, 0], values[row - LENGTH + 1 : row + 1].astype(np.float32))
        for row, window in found
        if window.quality is Quality.GOOD
    ]
    assert all(exact)
    assert len(exact) > 0.8 * len(found)


@pytest.mark.parametrize("seed", range(3))
def test_values_at_jittered_times_are_within_the_jitter_of_the_even_ones(seed: int) -> None:
    """Rows that were measured at their jittered times, against the signal at even times."""
    at_s = stamps(50, 0.4, np.random.default_rng(seed))
    found, _ = windows_of(50, at_s, signal(at_s))
    slope = 2 * np.pi * (0.7 + 0.3 * 2.9)
    for row, window in found:
        if window.quality is Quality.GOOD:
            even = signal(np.arange(row - LENGTH + 1, row + 1) / 50)
            assert np.abs(window.rows[:, 0] - even).max() <= slope * 0.4 / 50 + 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("jitter", [0.0, 0.2, 0.4])
def test_lost_rows_are_filled_in_spite_of_jitter(jitter: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    at_s, values = stamps(50, jitter, rng), signal(np.arange(ROWS) / 50)
    kept = np.ones(ROWS, dtype=bool)
    kept[np.arange(150, ROWS, 150)] = False  # each window but a few has a lost row
    found, counters = windows_of(50, at_s[kept], values[kept])
    lost = int((~kept).sum())
    assert len(found) >= 0.95 * ((ROWS - LENGTH) // HOP + 1)
    assert 0.9 * lost <= counters["filled"] <= 1.1 * lost + 5
    rows = np.flatnonzero(kept)
    worst = []
    for row, window in found:
        true = values[rows[row] - LENGTH + 1 : rows[row] + 1]
        worst.append(np.abs(window.rows[:, 0] - true).max())
    # a window that is one row off is off by as much as the signal changes from row to row
    step = np.abs(np.diff(values)).max()
    assert np.mean(np.array(worst) <= 1.01 * step) >= 0.9
    assert all(each <= 2.1 * step for each in worst)


@pytest.mark.parametrize("burst", [2, 5, 10])
def test_rows_that_come_in_bursts_give_windows_that_are_uncertain(burst: int) -> None:
    values = signal(np.arange(ROWS) / 50)
    found, counters = windows_of(50, stamps(50, 0, np.random.default_rng(0), burst), values)
    assert len(found) >= 0.95 * ((ROWS - LENGTH) // HOP + 1)
    assert counters["wrong_rate"] == 0
    for row, window in found:
        assert np.array_equal(window.rows[:, 0], values[row - LENGTH + 1 : row + 1].astype(np.float32))
    if burst > 3:  # such times do not show one missing row
        assert {window.quality for _, window in found} == {Quality.UNCERTAIN}


def test_a_gap_is_a_gap_also_with_jitter() -> None:
    rng = np.random.default_rng(7)
    at_s = stamps(50, 0.4, rng)
    at_s[2_000:] += 0.2
    found, counters = windows_of(50, at_s, np.arange(ROWS, dtype=float))
    assert counters["gaps"] == 1
    assert not any(2_000 <= row < 2_000 + LENGTH - 1 for row, _ in found), "no window crosses it"


@pytest.mark.parametrize("hz", [10, 20, 25, 30, 45, 46, 54, 60, 100, 1_000])
def test_another_rate_gives_no_window(hz: float) -> None:
    rng = np.random.default_rng(1)
    for jitter in (0.0, 0.3):
        found, _ = windows_of(50, stamps(hz, jitter, rng), np.arange(ROWS, dtype=float), declared=False)
        assert len(found) <= 0.02 * ROWS / HOP, (hz, jitter)


@pytest.mark.parametrize("factor", [0.96, 1.04])
def test_a_rate_within_five_per_cent_is_followed(factor: float) -> None:
    at_s = stamps(50 * factor, 0.4, np.random.default_rng(2))
    found, counters = windows_of(50, at_s, np.arange(ROWS, dtype=float))
    assert len(found) >= 0.95 * ((ROWS - LENGTH) // HOP + 1)
    assert counters["filled"] <= 0.01 * ROWS


def test_the_clock_follows_the_rate_and_counts_missing_rows() -> None:
    clock = RowClock(10.0)
    clock.begin(0)
    assert [clock.take(at) for at in range(10, 310, 10)] == [0] * 30
    assert (clock.settled, clock.bursts, clock.mostly_missing) == (True, False, False)
    assert clock.take(320) == 1
    assert clock.take(360) == 3
    clock.begin(1000)
    assert not clock.settled
