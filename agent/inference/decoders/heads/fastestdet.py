"""The head of FastestDet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import Outputs, Tensor, sigmoid
from agent.inference.decoders.heads.base import Found, Head, corners, expect, nothing, shaped


class FastestDet(Head):
    """One map [1, 5 + classes, rows, columns]: objectness, tanh x and y, sigmoid w and h, class shares."""

    word = "fastestdet"

    def check(self, outputs: Sequence[Tensor]) -> None:
        expect(outputs[0], "fastestdet", (1, 5 + self.classes, -1, -1), self.classes)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        planes = shaped(outputs[0], 4, 1, 5 + self.classes)[0]
        return np.concatenate([planes[:1], planes[5:]])

    def read(self, outputs: Outputs, least: float) -> Found:
        planes = shaped(outputs[0], 4, 1, 5 + self.classes)[0]
        channels, rows, columns = planes.shape
        cells = planes.reshape(channels, rows * columns)
        # score = objectness ** 0.6 * share ** 0.4 and a share is at most 1, so few cells can reach `least`
        at = np.flatnonzero(cells[0] >= least ** (1 / 0.6))
        if not len(at):
            return nothing()
        picked = cells[:, at]
        shares = picked[5:].max(axis=0)
        scores = np.minimum(picked[0], 1) ** _P6 * np.minimum(shares, 1) ** _P4
        strong = np.flatnonzero(scores >= least)
        picked, at = picked[:, strong], at[strong]
        width, height = self.size
        x = (np.tanh(picked[1]) + at % columns) * (width / columns)
        y = (np.tanh(picked[2]) + at // columns) * (height / rows)
        sides = sigmoid(picked[3:5])
        boxes = corners(x, y, sides[0] * width, sides[1] * height)
        return Found(boxes, scores[strong], picked[5:].argmax(axis=0))


_P6, _P4 = np.float32(0.6), np.float32(0.4)
