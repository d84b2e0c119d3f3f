"""Masks of boxes and classes: their share of the frame, and their outline with a bounded number of points."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Placement
from agent.inference.decoders.heads.base import shaped

_MOST_CELLS = 1024 * 1024  # of a map: limits the cost of a hostile model
_FINE, _FINE_BELOW = 4, 200  # smaller cells of masks up to this size in cells
_MOST_POINTS = 1200  # of all outlines of a result: they must fit a message

Mask = NDArray[np.bool_]


def points_each(most: int, boxes: int) -> int:
    """The largest number of points of each outline, so that those of all `boxes` fit a message."""
    return 0 if not most else max(4, min(most, _MOST_POINTS // max(1, boxes)))


class Grid:
    """A map of cells over the model's input, and where each cell is in the frame."""

    def __init__(self, shape: tuple[int, int], size: tuple[int, int], placement: Placement) -> None:
        rows, columns = self.shape = shape
        if not 0 < rows * columns <= _MOST_CELLS:
            raise ModelError(f"a map of {rows} x {columns} cells; 1 to {_MOST_CELLS} are allowed")
        self.step = size[0] / columns, size[1] / rows  # px of the input
        self._cell = self.step[0] * placement.scale_x, self.step[1] * placement.scale_y
        self._from = placement.offset_x / self.step[0], placement.offset_y / self.step[1]
        wide, high = 1 / self._cell[0], 1 / self._cell[1]  # cells of the whole frame
        # the cells whose centre is in the picture: the others are padding
        self.columns = slice(
            *(max(0, min(columns, round(at))) for at in (self._from[0], self._from[0] + wide))
        )
        self.rows = slice(*(max(0, min(rows, round(at))) for at in (self._from[1], self._from[1] + high)))

    def nothing(self) -> Mask:
        """A mask without a cell."""
        return np.zeros(self.shape, bool)

    def share(self, cells: int) -> float:
        """The share of the frame that a number of cells covers."""
        return round(min(1.0, cells * self._cell[0] * self._cell[1]), 5)

    def place(self, column: float, row: float) -> tuple[float, float]:
        """A corner of a cell as shares of the frame, within it."""
        x, y = (column - self._from[0]) * self._cell[0], (row - self._from[1]) * self._cell[1]
        return round(min(1.0, max(0.0, x)), 4), round(min(1.0, max(0.0, y)), 4)

    def outline(self, mask: Mask, row: int, column: int, most: int) -> list[tuple[float, float]]:
        """The outline of the largest part of a mask that begins at `row`, `column`; [] without one."""
        if not most or not mask.any():
            return []
        import cv2  # models of pictures need it anyway

        # an outline goes along the middle of the outer cells: smaller cells bring it to their edges
        fine = 1 if max(mask.shape) > _FINE_BELOW else _FINE
        cells = mask.astype(np.uint8).repeat(fine, axis=0).repeat(fine, axis=1)
        contours, _ = cv2.findContours(cells, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        largest = max(contours, key=cv2.contourArea)
        points: NDArray[Any] = largest
        tolerance = 0.5 * fine
        while len(points) > most:
            points = cv2.approxPolyDP(largest, tolerance, closed=True)
            tolerance *= 1.5
        around = largest.reshape(-1, 2)
        (left, top), (right, bottom) = around.min(axis=0), around.max(axis=0)
        corners = points.reshape(-1, 2).astype(np.float64)
        if len(corners) < 3 or left == right or top == bottom:
            corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
        # from the middles of the outer cells to their outer edges
        for axis, (low, high) in enumerate(((left, right), (top, bottom))):
            middle = (low + high) / 2
            grown = (high - low + 1) / (high - low) if high > low else 1.0
            corners[:, axis] = middle + 0.5 + (corners[:, axis] - middle) * grown
            if low == high:
                corners[:, axis] = np.where(_second(corners, axis), high + 1.0, float(low))
        return [self.place(column + x / fine, row + y / fine) for x, y in corners.tolist()]


def _second(corners: NDArray[np.float64], axis: int) -> Mask:
    """Which of the four corners of a rectangle are the right or lower ones."""
    return np.array([False, True, True, False] if axis == 0 else [False, False, True, True])[: len(corners)]


class MaskGrid(Grid):
    """The masks that prototypes [1, k, rows, columns] and the k coefficients of a box give."""

    def __init__(self, prototypes: NDArray[Any], size: tuple[int, int], placement: Placement) -> None:
        self._prototypes = shaped(prototypes, 4, 1)[0]
        super().__init__(self._prototypes.shape[1:], size, placement)

    def mask(
        self, box: NDArray[np.float32], coefficients: NDArray[np.float32] | None
    ) -> tuple[Mask, slice, slice]:
        """The mask within a box of px of the input, and the rows and columns that it covers."""
        if coefficients is None or len(coefficients) != len(self._prototypes):
            raise ModelError(
                f"a box has other numbers for its mask than the {len(self._prototypes)} prototypes"
            )
        (step_x, step_y), (rows, columns) = self.step, self.shape
        x0, x1 = (int(np.clip(round(float(at) / step_x), 0, columns)) for at in (box[0], box[2]))
        y0, y1 = (int(np.clip(round(float(at) / step_y), 0, rows)) for at in (box[1], box[3]))
        across = slice(max(x0, self.columns.start), max(x0, min(x1, self.columns.stop)))
        down = slice(max(y0, self.rows.start), max(y0, min(y1, self.rows.stop)))
        part = self._prototypes[:, down, across]
        logits = np.tensordot(coefficients.astype(np.float32), part.astype(np.float32), 1)
        return logits > 0, down, across
