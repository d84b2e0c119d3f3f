"""Heads whose output is one table, with a box in each row or in each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Outputs, Tensor
from agent.inference.decoders.heads.base import (
    Found,
    Head,
    Order,
    cells,
    classes_of,
    doubt_classes,
    unreadable,
)

_MOST_FINISHED = 1000  # boxes that a model with its own suppression gives
_MASK_LIMIT = 256  # coefficients of a mask


class TableHead(Head):
    """A table [1, numbers, n] or [1, n, numbers]: box, scores, then keypoints or what makes a mask."""

    takes = ("sigmoid", "box", "unit", "keypoints", "masks")
    lead: ClassVar[int]  # numbers before the keypoints, without those of the labels
    rows_first: ClassVar[bool] = False  # which one is meant where both fit

    def check(self, outputs: Sequence[Tensor]) -> None:
        shape = outputs[0].shape
        if self.layout.masks and self.layout.keypoints:
            raise ModelError("output.masks: a head has masks or keypoints, not both")
        if self.layout.masks and (len(outputs) < 2 or len(outputs[1].shape) != 4):
            raise ModelError(
                f"head {self.word} with masks needs a second output [1, coefficients, rows, columns]"
            )
        given = outputs[1].shape[1] if self.layout.masks else 0
        widths = self._widths(given)
        fits = len(shape) == 3 and shape[0] in (1, -1) and any(dim in widths or dim < 0 for dim in shape[1:])
        if not fits:
            dims = " or ".join(f"[1, {width}, n]" for width in sorted(widths)[:2])
            raise ModelError(
                f"head {self.word} with {self.classes} labels reads {dims}, or rows of as many numbers; the "
                f"model's output is {outputs[0]}: check head, labels and input.size"
            )

    @property
    def base(self) -> int:
        """Numbers of a box before keypoints or coefficients."""
        return self.lead + self.classes

    def _widths(self, coefficients: int) -> set[int]:
        """How many numbers a box can have."""
        base, points = self.base, self.layout.keypoints
        if points:
            return {base + 2 * points, base + 3 * points}
        if not self.layout.masks:
            return {base}
        return {base + each for each in ([coefficients] if coefficients > 0 else range(1, _MASK_LIMIT))}

    def columns(self, outputs: Outputs) -> NDArray[Any]:
        """The table as (numbers, n)."""
        output = outputs[0]
        if output.ndim != 3 or output.shape[0] != 1:
            raise unreadable(output)
        widths = self._widths(outputs[1].shape[1] if self.layout.masks and outputs[1].ndim == 4 else 0)
        table: NDArray[Any] = output[0]
        for axis in (1, 0) if self.rows_first else (0, 1):
            if table.shape[axis] in widths:
                return table if axis == 0 else table.T
        raise unreadable(output)

    def more(self, picked: NDArray[Any]) -> NDArray[np.float32] | None:
        """The numbers (n, k) behind the scores."""
        return picked[self.base :].T.astype(np.float32) if len(picked) > self.base else None

    def doubt(self, outputs: Outputs) -> str:
        return super().doubt(outputs) or self.doubt_unit(self.columns(outputs)[:4])


class YoloV8(TableHead):
    """Centre x, y, w, h in px, class scores: YOLOv8 and its followers, with keypoints or masks."""

    word = "yolov8"
    lead = 4
    order: ClassVar[Order] = "centre"

    def check(self, outputs: Sequence[Tensor]) -> None:
        super().check(outputs)
        if not (self.layout.keypoints or self.layout.masks) and is_end_to_end(outputs[0], self.size):
            raise ModelError(end_to_end(outputs[0]))

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        return self.columns(outputs)[4 : self.base]

    def read(self, outputs: Outputs, least: float) -> Found:
        columns = self.columns(outputs)
        best = columns[4 : self.base].max(axis=0)
        at = np.flatnonzero(best >= self.raw(least))
        picked = columns[:, at]
        classes = picked[4 : self.base].argmax(axis=0)
        return Found(self.placed(picked[:4]), self.shares(best[at]), classes, self.more(picked))


class YoloV5(TableHead):
    """Centre x, y, w, h in px, objectness, class scores: YOLOv5, v6 and v7; score = objectness x class."""

    word = "yolov5"
    lead = 5
    rows_first = True
    order: ClassVar[Order] = "centre"

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        return self.columns(outputs)[4 : self.base]

    def read(self, outputs: Outputs, least: float) -> Found:
        columns = self.columns(outputs)
        picked = columns[:, np.flatnonzero(columns[4] >= self.raw(least))]
        classes = picked[5 : self.base].max(axis=0)
        scores = np.minimum(self.shares(picked[4]), 1) * np.minimum(self.shares(classes), 1)
        strong = np.flatnonzero(scores >= least)
        picked = picked[:, strong]
        return Found(
            self.placed(picked[:4]), scores[strong], picked[5 : self.base].argmax(axis=0), self.more(picked)
        )


class EndToEnd(TableHead):
    """Finished detections: corners in px, score, class; YOLOv10, YOLO26 and exports with their own NMS.

    YOLOv7 gives rows [n, 7]: number of the picture, corners, class, score.
    """

    word = "end-to-end"
    lead = 6
    rows_first = True
    finished = True

    @property
    def base(self) -> int:
        return self.lead

    def check(self, outputs: Sequence[Tensor]) -> None:
        first, *rest = outputs
        if len(first.shape) == 2:
            first = Tensor(first.name, first.dtype, (1, *first.shape))
        if not _is_of_pictures(outputs[0].shape) or self.layout.keypoints or self.layout.masks:
            super().check([first, *rest])

    def columns(self, outputs: Outputs) -> NDArray[Any]:
        if _is_of_pictures(outputs[0].shape):
            return np.asarray(outputs[0].T[[1, 2, 3, 4, 6, 5]])
        if outputs[0].ndim == 2:
            return super().columns([outputs[0][None], *outputs[1:]])
        return super().columns(outputs)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        return np.asarray(self.columns(outputs)[4])

    def doubt(self, outputs: Outputs) -> str:
        return doubt_classes(self.columns(outputs)[5], self.classes, self.word) or super().doubt(outputs)

    def read(self, outputs: Outputs, least: float) -> Found:
        columns = self.columns(outputs)
        classes = classes_of(columns[5], self.classes)
        at = np.flatnonzero((columns[4] >= self.raw(least)) & (classes >= 0))
        picked = columns[:, at]
        return Found(self.placed(picked[:4]), self.shares(picked[4]), classes[at], self.more(picked))


def _is_of_pictures(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[1] == 7


def is_end_to_end(output: Tensor, size: tuple[int, int]) -> bool:
    """Whether an output can only be finished detections [1, n, 6]: corners, score and class of each box.

    A head of two classes has six numbers too, but for each cell of its grids.
    """
    shape = output.shape
    if len(shape) != 3 or shape[2] != 6 or not 0 < shape[1] <= _MOST_FINISHED or shape[1] == 6:
        return False
    return shape[1] != cells(size)


def end_to_end(output: Tensor) -> str:
    """The sentence for a model that `is_end_to_end`."""
    return (
        f"the output {output} is finished detections (corners, score and class of each box): "
        "write head: end-to-end"
    )
