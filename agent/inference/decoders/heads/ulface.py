"""The head of the Ultra-Light face detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import Outputs, Tensor
from agent.inference.decoders.heads.base import Found, Head, expect, shaped


class UlFace(Head):
    """Two outputs: scores [1, n, 1 + classes], background first; corners [1, n, 4] as shares of the input."""

    word = "ulface"
    outputs = 2

    def check(self, outputs: Sequence[Tensor]) -> None:
        expect(outputs[0], "ulface", (1, -1, 1 + self.classes), self.classes)
        expect(outputs[1], "ulface", (1, -1, 4), self.classes)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        shares: NDArray[Any] = shaped(outputs[0], 3, 1, None, 1 + self.classes)[0]
        return shares

    def read(self, outputs: Outputs, least: float) -> Found:
        scores = shaped(outputs[0], 3, 1, None, 1 + self.classes)[0, :, 1:]
        corners = shaped(outputs[1], 3, 1, len(scores), 4)[0]
        best = scores.max(axis=1)
        at = np.flatnonzero(best >= least)
        width, height = self.size
        boxes = corners[at] * np.array((width, height, width, height), np.float32)
        return Found(boxes, best[at], scores[at].argmax(axis=1))
