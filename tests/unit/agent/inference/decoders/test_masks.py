"""Outlines of masks: exact for rectangles, within a cell for the others, never too long."""

from __future__ import annotations

import numpy as np
import pytest

from agent.inference.decoders import ModelError, Placement
from agent.inference.decoders.masks import Grid, points_each

WHOLE = Placement(0.0, 0.0, 1 / 64, 1 / 48)


@pytest.fixture
def grid() -> Grid:
    return Grid((12, 16), (64, 48), WHOLE)


@pytest.mark.parametrize(("high", "wide"), [(1, 1), (1, 5), (5, 1), (3, 4), (12, 16)])
def test_a_rectangle_has_its_corners(grid: Grid, high: int, wide: int) -> None:
    found = grid.outline(np.ones((high, wide), bool), 0, 0, 8)
    right, low = round(wide / 16, 4), round(high / 12, 4)
    assert set(found) == {(0.0, 0.0), (right, 0.0), (right, low), (0.0, low)}


def test_of_several_parts_the_largest_is_drawn(grid: Grid) -> None:
    mask = np.zeros((12, 16), bool)
    mask[0, 0] = mask[4:8, 4:8] = True
    assert min(grid.outline(mask, 0, 0, 8)) == (0.25, round(4 / 12, 4))


def test_nothing_has_no_outline(grid: Grid) -> None:
    assert grid.outline(np.zeros((4, 4), bool), 0, 0, 8) == []
    assert grid.outline(np.ones((4, 4), bool), 0, 0, 0) == []
    assert grid.outline(np.ones((0, 4), bool), 0, 0, 8) == []


def test_a_comb_of_a_million_cells_gets_few_points() -> None:
    mask = np.zeros((1000, 1000), bool)
    mask[:, ::2] = mask[0] = True
    found = Grid((1000, 1000), (1000, 1000), Placement(0, 0, 1 / 1000, 1 / 1000)).outline(mask, 0, 0, 24)
    assert 3 <= len(found) <= 24


@pytest.mark.parametrize(("most", "boxes", "each"), [(24, 1, 24), (64, 100, 12), (64, 300, 4), (0, 5, 0)])
def test_points_are_shared_by_the_boxes(most: int, boxes: int, each: int) -> None:
    assert points_each(most, boxes) == each


@pytest.mark.parametrize("shape", [(0, 4), (2000, 2000)])
def test_a_map_without_cells_or_with_too_many_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="are allowed"):
        Grid(shape, (64, 48), WHOLE)
