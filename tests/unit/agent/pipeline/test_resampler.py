"""Resampling to a model's rate: constants, sines, missing values, held signals, wrong rates."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from agent.pipeline.resampler import HALF_WIDTH, Resampler, resampled

P = 20_000_000  # ns: 50 Hz


def run(values: np.ndarray, source_hz: float, *, declared_hz: float = 0, held: bool = False) -> list[float]:
    """The output rows of one signal; NaN where there is none."""
    resampler = Resampler([held], period_ns=P, source_hz=declared_hz or source_hz)
    found: list[float] = []
    for index, value in enumerate(values):
        due = resampler.add(round(index * 1e9 / source_hz), np.array([value], np.float32))
        found += [float("nan") if row is None else float(row[0]) for _, row in due]
    return found


@pytest.mark.parametrize("source_hz", [60, 173, 1000])
def test_a_constant_stays_the_same(source_hz: float) -> None:
    found = run(np.full(round(source_hz * 2), 7.0), source_hz)
    assert len(found) == pytest.approx(100 - 2 * HALF_WIDTH, abs=1)
    np.testing.assert_allclose(found, 7.0, rtol=1e-5)


def test_a_slow_sine_passes_and_a_fast_one_does_not() -> None:
    times_s = np.arange(1000) / 200
    slow, fast = (np.array(run(np.sin(2 * np.pi * hz * times_s), 200)) for hz in (10, 40))
    assert slow.std() * np.sqrt(2) == pytest.approx(1, abs=0.01)
    assert abs(fast).max() < 0.005


def test_the_first_row_is_half_a_filter_after_the_first_input() -> None:
    resampler = Resampler([False], period_ns=P, source_hz=100)
    due = [each for i in range(100) for each in resampler.add(i * P // 2, np.ones(1, np.float32))]
    assert due[0][0] == HALF_WIDTH * P
    assert [after[0] - before[0] for before, after in pairwise(due)] == [P] * (len(due) - 1)


def test_a_missing_value_reaches_as_far_as_the_filter() -> None:
    values = np.ones(400)
    values[200] = np.nan
    missing = np.flatnonzero(np.isnan(run(values, 200)))
    assert missing[-1] - missing[0] + 1 == len(missing)
    assert 2 * HALF_WIDTH - 1 <= len(missing) <= 2 * HALF_WIDTH


def test_a_held_signal_is_never_between_two_values() -> None:
    values = (np.arange(800) // 37 % 2).astype(float)
    assert set(run(values, 200, held=True)) == {0.0, 1.0}
    assert not set(run(values, 200)) <= {0.0, 1.0}


@pytest.mark.parametrize("source_hz", [60, 900])
def test_a_source_at_another_rate_than_declared_gives_no_rows(source_hz: float) -> None:
    # 60 Hz has enough rows for 50 Hz, 900 Hz overruns the buffer of 200 Hz
    found = run(np.ones(round(source_hz * 2)), source_hz, declared_hz=200)
    assert np.isnan(found[5:]).all() == (source_hz == 900)


def test_nothing_before_a_gap_is_used_after_it() -> None:
    resampler = Resampler([False], period_ns=P, source_hz=100)
    for i in range(100):
        resampler.add(i * P // 2, np.zeros(1, np.float32))
    resampler.begin()
    after = [row for i in range(200, 300) for _, row in resampler.add(i * P // 2, np.ones(1, np.float32))]
    np.testing.assert_allclose([row[0] for row in after if row is not None], 1.0, rtol=1e-5)


def test_a_recording_has_the_rows_between_the_half_widths() -> None:
    rows = np.linspace(0, 1, 201)
    found = resampled(rows, 100, 50)
    assert len(found) == 100 - 2 * HALF_WIDTH + 1
    np.testing.assert_allclose(found, rows[2 * HALF_WIDTH : 200 - 2 * HALF_WIDTH + 1 : 2], atol=1e-3)
    assert resampled(np.stack([rows, rows], axis=1), 100, 50).shape == (len(found), 2)
