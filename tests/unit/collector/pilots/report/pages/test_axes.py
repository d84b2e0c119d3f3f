"""Scales of the charts hold any numbers and any windows."""

from __future__ import annotations

import math

import pytest

from collector.pilots.report.pages import axes
from collector.pilots.report.pages.axes import TimeAxis


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([3.0, 47.0], (0.0, 20.0, 40.0, 60.0)),
        ([-0.32, 0.0], (-0.4, -0.3, -0.2, -0.1, 0.0)),
        ([], (-0.5, -0.25, 0.0, 0.25, 0.5)),
        ([7.0, 7.0], (6.0, 6.5, 7.0, 7.5, 8.0)),
    ],
)
def test_ticks_are_round_and_hold_all_values(values: list[float], ticks: tuple[float, ...]) -> None:
    assert axes.value_axis(values, 100).ticks == ticks


@pytest.mark.parametrize(
    "values", [[1e308, -1e308], [1.7e308, 1.7e308], [math.inf, 1.0], [1e-12, 3e-12], [5e-300], [math.nan]]
)
def test_numbers_that_are_hard_to_draw(values: list[float]) -> None:
    axis = axes.value_axis(values, 100)
    assert 3 <= len(set(axis.ticks)) <= 8
    assert all(0 <= axis.at(value) <= 100 for value in values if not math.isnan(value))


def test_windows_that_follow_each_other_are_one() -> None:
    assert TimeAxis([(100, 200), (0, 100)]).windows == [(0, 200)]
    assert TimeAxis([(0, 100), (100, 200)]).at(50) == 0.25


def test_a_gap_between_windows_is_short() -> None:
    axis = TimeAxis([(0, 100), (1_000, 1_100)])
    assert [round(axis.at(ms), 3) for ms in (0, 100, 1_000, 1_100, 5_000)] == [0.0, 0.485, 0.515, 1.0, 1.0]


def test_windows_without_a_length() -> None:
    assert TimeAxis([(5, 5), (9, 3)]).at(7) == 1.0


@pytest.mark.parametrize("values", [[0.0, 5e-324], [5e-324], [-1e-310, 1e-310], [1e-250, 2e-250]])
def test_values_that_are_nearly_nothing_have_an_axis(values: list[float]) -> None:
    axis = axes.value_axis(values, 100)
    assert axis.low < axis.high
    assert all(0 <= axis.at(value) <= 100 for value in values)
