"""The head of YOLOv8 and its followers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Outputs, Tensor
from agent.inference.decoders.heads.base import Found, Head, cells, corners, expect, shaped

_SHARES = 2.0  # boxes whose numbers are all below this are shares of the input, not pixels
_MOST_FINISHED = 1000  # boxes that a model with its own suppression gives


class YoloV8(Head):
    """Columns [1, 4 + classes, n], or rows [1, n, 4 + classes]: centre x, y, w, h in px, class scores."""

    def check(self, outputs: Sequence[Tensor]) -> None:
        shape = outputs[0].shape
        if len(shape) != 3 or not any(dim in (4 + self.classes, -1) for dim in shape[1:]):
            expect(outputs[0], "yolov8", (1, 4 + self.classes, -1), self.classes)
        if is_end_to_end(outputs[0], self.size):
            raise ModelError(end_to_end(outputs[0]))

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        return self._columns(outputs)[4:]

    def doubt(self, outputs: Outputs) -> str:
        largest = float(np.abs(self._columns(outputs)[:4]).max(initial=0))
        if not 0 < largest <= _SHARES:
            return ""
        return (
            f"head yolov8 reads boxes in pixels of the input, and no number of a box is above {largest:.3g}: "
            "they are shares of the input, as RT-DETR gives them"
        )

    def _columns(self, outputs: Outputs) -> NDArray[Any]:
        found = outputs[0]
        if found.ndim == 3 and found.shape[1] != 4 + self.classes and found.shape[2] == 4 + self.classes:
            found = found.transpose(0, 2, 1)
        columns: NDArray[Any] = shaped(found, 3, 1, 4 + self.classes)[0]
        return columns

    def read(self, outputs: Outputs, least: float) -> Found:
        columns = self._columns(outputs)
        best = columns[4:].max(axis=0)
        at = np.flatnonzero(best >= least)
        picked = columns[:, at]
        return corners(*picked[:4]), best[at], picked[4:].argmax(axis=0)


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
        f"the output {output} is finished detections (corners, score and class of each box), which no head "
        "reads: export the model without its last step (Ultralytics: end2end=False, nms=False)"
    )
