"""Down-sampling: never more points than asked for, nothing lost in sums, gaps stay gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.store.series import Points, downsample, joined

ROW = st.tuples(st.integers(0, 10_000), st.floats(-1e3, 1e3))


def rows(found: list[tuple[int, float]], late: bool = False) -> Points:
    return Points.of_rows(
        np.array([at for at, _ in found], float),
        np.array([value for _, value in found], float),
        np.full(len(found), float(late)),
    )


@given(st.lists(ROW, max_size=300), st.integers(1, 100))
def test_nothing_is_lost_and_nothing_is_too_much(found: list[tuple[int, float]], points: int) -> None:
    series = downsample([rows(found)], 1_000, 9_000, points)
    inside = [value for at, value in found if 1_000 <= at <= 9_000]
    assert len(series.t) <= points
    assert sum(series.n) == len(inside)
    assert len({len(column) for column in (series.t, series.mean, series.min, series.max, series.n)}) == 1
    assert series.t == sorted(series.t)
    if inside:
        assert min(low for low in series.min if low is not None) == min(inside)
        assert max(high for high in series.max if high is not None) == max(inside)
        total = sum(mean * n for mean, n in zip(series.mean, series.n, strict=True) if mean is not None)
        assert total == pytest.approx(sum(inside), abs=1e-3)


def test_few_rows_come_as_they_are() -> None:
    series = downsample([rows([(at, float(at)) for at in range(0, 1000, 20)])], 0, 1000, 100)
    assert series.t == list(range(0, 1000, 20))
    assert series.mean == [float(at) for at in range(0, 1000, 20)]


def test_a_gap_is_drawn_as_a_gap() -> None:
    found = [(at, 1.0) for at in range(0, 1000, 20)] + [(at, 1.0) for at in range(3000, 4000, 20)]
    series = downsample([rows(found)], 0, 4000, 1000)
    holes = [at for at, n in zip(series.t, series.n, strict=True) if not n]
    assert len(holes) == 1
    assert 980 < holes[0] < 3000
    coarse = downsample([rows(found)], 0, 4000, 40)
    empty = [at for at, mean in zip(coarse.t, coarse.mean, strict=True) if mean is None]
    assert empty
    assert all(900 < at < 3100 for at in empty)


def test_steady_rows_leave_no_empty_bucket() -> None:
    found = [(at + at % 7, 1.0) for at in range(0, 100_000, 20)]
    for points in (10, 333, 1000, 2500, 4999):
        assert 0 not in downsample([rows(found)], 0, 100_000, points).n


def test_late_wins_where_most_rows_were_late() -> None:
    series = downsample(
        [rows([(at, 1.0) for at in range(100)], late=True), rows([(at, 1.0) for at in range(100, 200)])],
        0, 199, 10,
    )  # fmt: skip
    assert series.late == [1] * 5 + [0] * 5


def test_rollups_of_one_minute_in_two_files_become_one_point() -> None:
    def minute(number: float, n: float) -> Points:
        one = np.array([1.0])
        return Points(one * number * 60_000, one * n, one * n * 2, one, one * 3, one * 0)

    series = downsample([minute(1, 10), minute(1, 5), minute(2, 1)], 60_000, 300_000, 100, grid_ms=60_000)
    assert (series.t, series.n, series.mean) == ([60_000, 120_000], [15, 1], [2.0, 2.0])


def test_the_minute_that_holds_the_start_counts() -> None:
    one = np.array([1.0])
    series = downsample(
        [Points(one * 60_000, one, one, one, one, one * 0)], 90_000, 600_000, 10, grid_ms=60_000
    )
    assert series.n == [1]


def test_nan_is_not_a_value() -> None:
    series = downsample([rows([(1, 1.0), (2, float("nan")), (3, 3.0)])], 0, 10, 10)
    assert (series.t, series.mean) == ([1, 3], [1.0, 3.0])


def test_spans_are_joined_and_cut_to_what_was_asked_for() -> None:
    spans = [(9_000, 9_500), (0, 900), (1_000, 1_900), (500, 700), (20_000, 90_000), (95_000, 99_000)]
    assert joined(spans, 100, 50_000) == [(100, 1_900), (9_000, 9_500), (20_000, 50_000)]
    assert joined([], 0, 1) == []
