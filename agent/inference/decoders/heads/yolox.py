"""The head of YOLOX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Outputs, Tensor
from agent.inference.decoders.heads.base import STRIDES, Found, Head, Layout, corners, expect, nothing, shaped


class YoloX(Head):
    """Rows [1, n, 5 + classes] of strides 8, 16, 32, undecoded: x, y, log w, log h, objectness, classes."""

    word = "yolox"
    takes = ("sigmoid",)

    def __init__(self, outputs: Sequence[Tensor], layout: Layout, size: tuple[int, int]) -> None:
        width, height = size
        grids, steps = [], []
        for stride in STRIDES:
            y, x = np.mgrid[0 : height // stride, 0 : width // stride]
            grids.append(np.stack([x.reshape(-1), y.reshape(-1)], axis=1))
            steps.append(np.full(x.size, stride))
        self._grid = np.concatenate(grids).astype(np.float32)
        self._step = np.concatenate(steps).astype(np.float32)
        super().__init__(outputs, layout, size)

    def check(self, outputs: Sequence[Tensor]) -> None:
        expect(outputs[0], "yolox", (1, len(self._step), 5 + self.classes), self.classes)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        rows: NDArray[Any] = shaped(outputs[0], 3, 1, None, 5 + self.classes)[0]
        return rows[:, 4:]

    def read(self, outputs: Outputs, least: float) -> Found:
        rows = shaped(outputs[0], 3, 1, None, 5 + self.classes)[0]
        if len(rows) != len(self._step):
            raise ModelError(f"the model gave {len(rows)} rows where {len(self._step)} were declared")
        at = np.flatnonzero(rows[:, 4] >= self.raw(least))
        if not len(at):
            return nothing()
        picked = rows[at]
        best = self.shares(picked[:, 5:].max(axis=1))
        scores = np.minimum(self.shares(picked[:, 4]), 1) * np.minimum(best, 1)
        strong = np.flatnonzero(scores >= least)
        picked, at = picked[strong], at[strong]
        step = self._step[at]
        x, y = (picked[:, 0] + self._grid[at, 0]) * step, (picked[:, 1] + self._grid[at, 1]) * step
        w, h = (np.exp(np.minimum(picked[:, side], 12)) * step for side in (2, 3))
        return Found(corners(x, y, w, h), scores[strong], picked[:, 5:].argmax(axis=1))
