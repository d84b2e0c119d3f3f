"""Rows into windows: contiguous, on the model's rate, never across a gap."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.windows import Windows

P = 20_000_000  # ns at 50 Hz
T0 = 1_760_000_000 * 10**9


def windows(length: int = 10, hop: int = 5, source_hz: float | None = 50) -> tuple[Windows, Counter[str]]:
    counters: Counter[str] = Counter()
    made = Windows(["a", "b"], rate_hz=50, length=length, hop=hop, source_hz=source_hz, counters=counters)
    return made, counters


def feed(made: Windows, times: list[int]) -> list[NDArray[np.float32]]:
    found = [made.add(at, {"b": -float(at - T0) / P, "a": float(at - T0) / P}) for at in times]
    return [window for window in found if window is not None]


def test_windows_are_contiguous_in_order_and_every_hop_rows() -> None:
    made, counters = windows()
    found = feed(made, [T0 + i * P for i in range(30)])
    assert [window[:, 0].tolist() for window in found] == [
        list(range(start, start + 10)) for start in (0, 5, 10, 15, 20)
    ]
    assert all(window.shape == (10, 2) and window.dtype == np.float32 for window in found)
    assert np.array_equal(found[0][:, 1], -found[0][:, 0])
    assert not counters
    found[0][:] = 99
    assert feed(made, [T0 + i * P for i in range(30, 35)])[0].max() == 34, "a window is the caller's to keep"


def test_one_missing_row_is_filled_and_two_are_a_gap() -> None:
    made, counters = windows()
    found = feed(made, [T0 + i * P for i in range(12) if i != 4])
    assert found[0][:, 0].tolist() == list(range(10))
    assert counters == {"filled": 1}
    made, counters = windows()
    found = feed(made, [T0 + i * P for i in range(22) if i not in (7, 8)])
    assert counters == {"gaps": 1}
    assert [window[:, 0].tolist() for window in found] == [list(range(9, 19))], "no window spans the gap"


def test_jitter_of_the_stamps_is_no_gap() -> None:
    rng = np.random.default_rng(1)
    times = [T0 + i * P + int(rng.uniform(-0.2, 0.2) * P) for i in range(100)]
    made, counters = windows()
    assert len(feed(made, times)) == 19
    assert not counters


def test_repeated_rows_are_left_out_and_going_back_begins_anew() -> None:
    made, counters = windows()
    assert not feed(made, [T0, T0, *[T0 + i * P for i in range(1, 9)]])
    assert counters == {"repeated": 1}
    assert not feed(made, [T0 - P * 50 + i * P for i in range(9)])
    assert counters == {"repeated": 1, "gaps": 1}
    assert len(feed(made, [T0 - P * 41])) == 1


def test_a_missing_value_makes_no_window() -> None:
    made, counters = windows()
    for i in range(30):
        window = made.add(T0 + i * P, {"a": 1.0, "b": None if i == 12 else 2.0})
        assert window is None or np.isfinite(window).all()
    assert counters == {"incomplete": 2}


def test_a_faster_stream_is_brought_to_the_rate() -> None:
    made, counters = windows(source_hz=120)
    found = feed(made, [T0 + i * 10**9 // 120 for i in range(60)])
    assert len(found) >= 2
    assert np.allclose(found[0][:, 0], np.arange(10), atol=1e-5)
    assert not counters


def test_a_stream_that_comes_at_another_rate_than_declared_is_not_inferred() -> None:
    made, counters = windows(source_hz=None)
    assert not feed(made, [T0 + i * P // 2 for i in range(60)])
    assert counters["wrong_rate"] == 11


@pytest.mark.parametrize("hop", [1, 10])
def test_every_row_is_in_length_over_hop_windows(hop: int) -> None:
    made, _ = windows(hop=hop)
    found = feed(made, [T0 + i * P for i in range(100)])
    assert len(found) == (91 if hop == 1 else 10)
