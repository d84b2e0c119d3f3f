"""Heads that give boxes in one output, and scores or classes in others: DETR, SSD and EfficientNMS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Outputs, Tensor
from agent.inference.decoders.heads.base import (
    Found,
    Head,
    Order,
    Unit,
    classes_of,
    doubt_classes,
    unreadable,
)


class Detr(Head):
    """Scores [1, n, labels] and boxes [1, n, 4], or both in [1, n, 4 + labels]; centre, w, h as shares.

    With one more score than labels, the scores are logits, and the last one means that there is nothing.
    """

    word = "detr"
    takes = ("sigmoid", "box", "unit")
    finished = True
    order: ClassVar[Order] = "centre"
    unit: ClassVar[Unit] = "shares"

    def check(self, outputs: Sequence[Tensor]) -> None:
        shapes = [output.shape for output in outputs[:2]]
        if not self._parts(shapes):
            raise ModelError(
                f"head detr with {self.classes} labels reads scores [1, n, {self.classes}] or "
                f"[1, n, {self.classes + 1}] and boxes [1, n, 4], or [1, n, {4 + self.classes}]; the model's "
                f"outputs are {', '.join(map(str, outputs[:2]))}"
            )

    def _parts(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int] | None:
        """Which output has the scores, and which the boxes; None if they do not fit."""
        if any(len(shape) != 3 or shape[0] not in (1, -1) for shape in shapes):
            return None
        scores = (self.classes, self.classes + 1, -1)
        if len(shapes) == 1:
            return (0, 0) if shapes[0][2] in (4 + self.classes, -1) else None
        for at, other in ((0, 1), (1, 0)):
            if shapes[at][2] in scores and shapes[other][2] in (4, -1):
                return at, other
        return None

    def _read(self, outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any], bool]:
        """Boxes (n, 4), scores (n, k), and whether those are logits with one for nothing."""
        parts = self._parts([output.shape for output in outputs[:2]])
        if parts is None:
            raise unreadable(outputs[0])
        if len(outputs) == 1:
            return outputs[0][0, :, :4], outputs[0][0, :, 4:], False
        scores, boxes = outputs[parts[0]][0], outputs[parts[1]][0]
        if len(scores) != len(boxes):
            raise unreadable(boxes)
        return boxes, scores, scores.shape[1] == self.classes + 1

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        _, scores, logits = self._read(outputs)
        return np.zeros(0) if logits else scores

    def doubt(self, outputs: Outputs) -> str:
        return super().doubt(outputs) or self.doubt_unit(self._read(outputs)[0])

    def read(self, outputs: Outputs, least: float) -> Found:
        boxes, raw, logits = self._read(outputs)
        if logits and not self.layout.sigmoid:
            scores = _softmax_rows(raw.astype(np.float64))[:, :-1].astype(np.float32)
        else:
            scores = self.shares(raw)[:, : self.classes]
        best = scores.max(axis=1, initial=-np.inf)
        at = np.flatnonzero(best >= least)
        return Found(self.placed(boxes[at].T), best[at], scores[at].argmax(axis=1))


class Ssd(Head):
    """Finished detections: boxes [1, n, 4], scores [1, n], classes [1, n], and perhaps how many there are.

    TensorFlow's SSD, NVIDIA's EfficientNMS and torchvision give them. One output [1, 1, n, 7] has the number
    of the picture, class, score and corners.
    """

    word = "ssd"
    takes = ("sigmoid", "box", "unit")
    finished = True
    unit: ClassVar[Unit] = "shares"

    def __init__(self, outputs: Sequence[Tensor], layout: Any, size: tuple[int, int]) -> None:
        self._at: list[int] = []  # which outputs have boxes, scores, classes, and their number
        super().__init__(outputs, layout, size)

    def check(self, outputs: Sequence[Tensor]) -> None:
        if len(outputs) == 1 and len(outputs[0].shape) == 4 and outputs[0].shape[3] in (7, -1):
            return
        found = self._at or _parts(outputs)
        if len(found) < 3 or len(outputs) <= max(found):
            raise ModelError(
                "head ssd reads boxes [1, n, 4], scores [1, n], classes [1, n] and perhaps their number [1], "
                f"or [1, 1, n, 7]; the model's outputs are {', '.join(map(str, outputs[:4]))}"
            )
        self._at = found

    def _read(self, outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Boxes (n, 4), scores (n) and classes (n)."""
        if not self._at:
            table = outputs[0]
            if table.ndim != 4 or table.shape[3] != 7 or table.shape[:2] != (1, 1):
                raise unreadable(table)
            rows = table[0, 0]
            rows = rows[rows[:, 0] >= 0]  # -1 ends the list
            return rows[:, 3:7], rows[:, 2], rows[:, 1]
        if len(outputs) <= max(self._at):
            raise unreadable(outputs[0])
        boxes, scores, classes = (outputs[at] for at in self._at[:3])
        if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
            raise unreadable(boxes)
        boxes, scores, classes = boxes.reshape(-1, 4), scores.reshape(-1), classes.reshape(-1)
        if not len(boxes) == len(scores) == len(classes):
            raise unreadable(scores)
        many = len(boxes)
        if len(self._at) > 3:
            given = outputs[self._at[3]].reshape(-1)
            many = int(min(max(given[0], 0), many)) if given.size == 1 and np.isfinite(given[0]) else 0
        return boxes[:many], scores[:many], classes[:many]

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        return self._read(outputs)[1]

    def doubt(self, outputs: Outputs) -> str:
        boxes, _, classes = self._read(outputs)
        return (
            super().doubt(outputs)
            or doubt_classes(classes, self.classes, self.word)
            or self.doubt_unit(boxes)
        )

    def read(self, outputs: Outputs, least: float) -> Found:
        boxes, scores, numbers = self._read(outputs)
        classes = classes_of(numbers, self.classes)
        at = np.flatnonzero((scores >= self.raw(least)) & (classes >= 0))
        scores = self.shares(scores[at]).astype(np.float32)
        return Found(self.placed(boxes[at].T), scores, classes[at])


def _parts(outputs: Sequence[Tensor]) -> list[int]:
    """The indices of boxes, scores, classes, and of their number if there is one; [] if they do not fit.

    Whole numbers are classes; where neither or both are whole, the names decide, then the order.
    """
    boxes = [at for at, each in enumerate(outputs) if len(each.shape) in (2, 3) and each.shape[-1] == 4]
    if not boxes:
        return []
    rest = [at for at in range(len(outputs)) if at != boxes[0]]
    single = [at for at in rest if math.prod(outputs[at].shape) == 1 and -1 not in outputs[at].shape]
    if len(rest) > 2 and not single:  # [batch, 1], with an open batch
        single = [at for at in rest if outputs[at].shape in ((-1, 1), (-1,)) or "num" in outputs[at].name]
    count = single[:1] if len(rest) > 2 else []
    lists = [at for at in rest if at not in count][:2]
    if len(lists) < 2:
        return []
    first, second = lists
    whole = [not outputs[at].dtype.startswith(("float", "double")) for at in lists]
    named = [any(word in outputs[at].name.lower() for word in ("class", "label")) for at in lists]
    turned = whole[0] if whole[0] != whole[1] else named[0] and not named[1]
    return [boxes[0], *((second, first) if turned else (first, second)), *count]


def _softmax_rows(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of each row; NaN in a row with a number that is not finite."""
    with np.errstate(all="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    shares[~np.isfinite(logits).all(axis=1)] = np.nan
    return shares
