"""Detection: the boxes of a head without duplicates, mapped back to the frame; safe for any numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.inference.decoders.base import (
    Decoder,
    Labelled,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    slugs,
)
from agent.inference.decoders.heads import HEADS, Found
from wire.messages import Box, Field, Scalar

_CANDIDATES = 1000  # strongest boxes that suppression compares: limits the cost of a hostile model
_FAR = np.float32(1e6)  # px; boxes are cut there, so that areas stay finite
_ROUNDING = 0.01  # of a score of 0 to 1, in 16 bits
_COUNTED = 16  # with more labels than this, only those that `count` names are counted


class DetectionOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: detection`."""

    head: Annotated[
        Literal["yolox", "yolov8", "fastestdet", "ulface"],
        Meta(description="The layout of the output tensors."),
    ]
    score: Annotated[float, Meta(gt=0, le=1, description="Boxes below this are dropped.")] = 0.35
    iou: Annotated[
        float,
        Meta(gt=0, le=1, description="Of two boxes of a class that overlap more, the weaker is dropped."),
    ] = 0.45
    max_boxes: Annotated[
        int, Meta(ge=1, le=300, description="Largest number of boxes; the strongest are kept.")
    ] = 100
    count: Annotated[
        list[str],
        Meta(
            max_length=64,
            description="Labels whose number is published; if empty, all of up to 16 labels.",
        ),
    ] = []  # noqa: RUF012 - msgspec copies it for each object
    alarm: Annotated[
        list[str], Meta(max_length=64, description="Labels that raise an alarm when they are found.")
    ] = []  # noqa: RUF012 - as above


class Detection(Decoder):
    """Boxes of one head, mapped back to the frame, and the number of boxes of each label."""

    Options = DetectionOptions

    def __init__(
        self, options: DetectionOptions, outputs: Sequence[Tensor], size: tuple[int, int] | None
    ) -> None:
        if size is None:
            raise ModelError("decoder detection needs an input of kind frame")
        labels = options.labels
        if not labels:
            raise ModelError("output.labels: a detection needs labels or labels_file")
        for key, words in (("count", options.count), ("alarm", options.alarm)):
            for word in words:
                if word not in labels:
                    raise ModelError(f"output.{key}: {word!r} is not one of the labels")
        self._options = options
        self._head = HEADS[options.head](outputs, len(labels), size)
        counted = options.count or (labels if len(labels) <= _COUNTED else [])
        self._counted = dict(zip(counted, slugs(counted), strict=True))
        for reserved in {"n", "alarm", "infer_ms", "frame"} & {*self._counted.values()}:
            raise ModelError(f"output.count: label {reserved!r} clashes with a field of that name: rename it")
        self._alarms = frozenset(options.alarm)

    def fields(self) -> dict[str, Field]:
        """`n` boxes, the number of each counted label, and `alarm` where labels raise one."""
        every = {name: Field(t="i64", unit="1") for name in self._counted.values()}
        alarm = {"alarm": Field(t="bool")} if self._alarms else {}
        return {"n": Field(t="i64", unit="1", desc="boxes"), **every, **alarm}

    def doubt(self, outputs: Outputs) -> str:
        """Why the head is the wrong one: its shapes, its boxes, or scores that are not between 0 and 1."""
        try:
            self._head.check(
                [Tensor(f"output_{at}", str(each.dtype), each.shape) for at, each in enumerate(outputs)]
            )
        except ModelError as error:
            return str(error)
        if why := self._head.doubt(outputs):
            return why
        scores = self._head.scores(outputs)
        least, most = float(scores.min(initial=0)), float(scores.max(initial=0))
        if least >= -_ROUNDING and most <= 1 + _ROUNDING:
            return ""
        return (
            f"head {self._options.head} reads scores from {least:.4g} to {most:.4g} for a plain input, and "
            "a score is 0 to 1: the model has another head, or gives logits"
        )

    def decode(self, outputs: Outputs, placement: Placement | None) -> Result:
        """Boxes from strong to weak, within the frame; drops boxes without an area or with NaN."""
        if placement is None:
            raise ModelError("boxes need the placement of the picture in the model's input")
        options, labels = self._options, self._options.labels
        with np.errstate(all="ignore"):  # the model's numbers have no bounds; the results are checked
            found, scores, classes = _strongest(*self._head.read(outputs, options.score))
        if len(scores):
            kept = suppress(found, scores, classes, options.iou, options.max_boxes)
            found, scores, classes = found[kept], scores[kept], classes[kept]
        corners = _on_frame(found, placement)
        boxes = [
            Box(
                label=labels[cls],
                cls=cls,
                score=round(score, 3),
                box=(x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)),
            )
            for (x0, y0, x1, y1), score, cls in zip(
                corners.tolist(), scores.tolist(), classes.tolist(), strict=True
            )
            if x1 > x0 and y1 > y0
        ]
        values: dict[str, Scalar] = dict.fromkeys(("n", *self._counted.values()), 0)
        values["n"] = len(boxes)
        for box in boxes:
            name = self._counted.get(box.label)
            if name is not None:
                values[name] += 1  # type: ignore[operator]  # set to 0 above
        top = boxes[0] if boxes else None
        alarm = any(box.label in self._alarms for box in boxes)
        if self._alarms:
            values["alarm"] = alarm
        return Result(values, boxes, top.label if top else "", top.score if top else None, alarm)


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.intp], iou: float, most: int
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression within each class; boxes come strongest first and keep that order."""
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.T)
    areas = (x1 - x0) * (y1 - y0)
    wide = np.minimum(x1[:, None], x1)
    wide -= np.maximum(x0[:, None], x0)
    high = np.minimum(y1[:, None], y1)
    high -= np.maximum(y0[:, None], y0)
    shared = np.maximum(wide, 0, out=wide)
    shared *= np.maximum(high, 0, out=high)
    other = shared <= iou * (areas[:, None] + areas - shared)
    other |= classes[:, None] != classes
    alive = np.ones(len(scores), bool)
    kept: list[int] = []
    for at in range(len(scores)):
        if alive[at]:
            kept.append(at)
            if len(kept) == most:
                break
            alive &= other[at]
    return np.array(kept, np.intp)


def _strongest(boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.intp]) -> Found:
    """The strongest boxes of a finite size, at most `_CANDIDATES`, strongest first."""
    if not len(scores):
        return boxes, scores, classes
    np.minimum(boxes, _FAR, out=boxes)
    np.maximum(boxes, -_FAR, out=boxes)
    order = np.argsort(-scores, kind="stable")[:_CANDIDATES]
    boxes = boxes[order]
    # a comparison with NaN is false
    sized = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = order[sized]
    return boxes[sized], np.minimum(scores[order], np.float32(1)), classes[order]


def _on_frame(boxes: NDArray[np.float32], place: Placement) -> NDArray[np.float64]:
    corners = boxes.astype(np.float64)
    corners -= (place.offset_x, place.offset_y, place.offset_x, place.offset_y)
    corners *= (place.scale_x, place.scale_y, place.scale_x, place.scale_y)
    np.minimum(corners, 1.0, out=corners)
    np.maximum(corners, 0.0, out=corners)
    return corners.round(4)
