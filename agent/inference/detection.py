"""Detection heads: raw output tensors to boxes, without duplicates; safe for any numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.inference.decoders import Decoder, Labelled, ModelError, Outputs, Placement, Result, Tensor, slugs
from wire.messages import Box, Field, Scalar

Found = tuple[
    NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]
]  # boxes [n,4] xyxy px, scores, classes

_CANDIDATES = 1000  # strongest boxes that suppression compares: limits the cost of a hostile model
_MOST_FINISHED = 1000  # boxes that a model with its own suppression gives
_SHARES = 2.0  # boxes whose numbers are all below this are shares of the input, not pixels
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


# -- heads -------------------------------------------------------------------------------------------------


class Head:
    """One layout of output tensors; `read` returns boxes (n, 4) as x0, y0, x1, y1 in px of the input."""

    outputs: ClassVar[int] = 1  # number of output tensors

    def __init__(self, outputs: Sequence[Tensor], classes: int, size: tuple[int, int]) -> None:
        self.classes = classes
        self.size = size
        if len(outputs) < type(self).outputs:
            raise ModelError(f"this head needs {type(self).outputs} outputs, the model has {len(outputs)}")
        self.check(outputs)

    def check(self, outputs: Sequence[Tensor]) -> None:
        """Raise ModelError if a declared shape does not fit this head."""
        raise NotImplementedError

    def read(self, outputs: Outputs, least: float) -> Found:
        """Boxes with a score of at least `least`; drops boxes with NaN among their scores."""
        raise NotImplementedError

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        """Every number that is between 0 and 1 if the model has this head."""
        raise NotImplementedError

    def doubt(self, outputs: Outputs) -> str:  # noqa: ARG002 - for subclasses
        """Why the boxes for a plain input cannot be those of this head; "" if they can."""
        return ""


class FastestDet(Head):
    """One map [1, 5 + classes, rows, columns]: objectness, tanh x and y, sigmoid w and h, class shares."""

    def check(self, outputs: Sequence[Tensor]) -> None:
        _expect(outputs[0], "fastestdet", (1, 5 + self.classes, -1, -1), self.classes)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        planes = _shaped(outputs[0], 4, 1, 5 + self.classes)[0]
        return np.concatenate([planes[:1], planes[5:]])

    def read(self, outputs: Outputs, least: float) -> Found:
        planes = _shaped(outputs[0], 4, 1, 5 + self.classes)[0]
        channels, rows, columns = planes.shape
        cells = planes.reshape(channels, rows * columns)
        # score = objectness ** 0.6 * share ** 0.4 and a share is at most 1, so few cells can reach `least`
        at = np.flatnonzero(cells[0] >= least ** (1 / 0.6))
        if not len(at):
            return _nothing()
        picked = cells[:, at]
        shares = picked[5:].max(axis=0)
        scores = np.minimum(picked[0], 1) ** _P6 * np.minimum(shares, 1) ** _P4
        strong = np.flatnonzero(scores >= least)
        picked, at = picked[:, strong], at[strong]
        width, height = self.size
        x = (np.tanh(picked[1]) + at % columns) * (width / columns)
        y = (np.tanh(picked[2]) + at // columns) * (height / rows)
        sides = _sigmoid(picked[3:5])
        return _corners(x, y, sides[0] * width, sides[1] * height), scores[strong], picked[5:].argmax(axis=0)


_P6, _P4 = np.float32(0.6), np.float32(0.4)


class YoloX(Head):
    """Rows [1, n, 5 + classes] of strides 8, 16, 32, undecoded: x, y, log w, log h, objectness, classes."""

    strides = (8, 16, 32)

    def __init__(self, outputs: Sequence[Tensor], classes: int, size: tuple[int, int]) -> None:
        width, height = size
        grids, steps = [], []
        for stride in self.strides:
            y, x = np.mgrid[0 : height // stride, 0 : width // stride]
            grids.append(np.stack([x.reshape(-1), y.reshape(-1)], axis=1))
            steps.append(np.full(x.size, stride))
        self._grid = np.concatenate(grids).astype(np.float32)
        self._step = np.concatenate(steps).astype(np.float32)
        super().__init__(outputs, classes, size)

    def check(self, outputs: Sequence[Tensor]) -> None:
        _expect(outputs[0], "yolox", (1, len(self._step), 5 + self.classes), self.classes)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        rows: NDArray[Any] = _shaped(outputs[0], 3, 1, None, 5 + self.classes)[0]
        return rows[:, 4:]

    def read(self, outputs: Outputs, least: float) -> Found:
        rows = _shaped(outputs[0], 3, 1, None, 5 + self.classes)[0]
        if len(rows) != len(self._step):
            raise ModelError(f"the model gave {len(rows)} rows where {len(self._step)} were declared")
        at = np.flatnonzero(rows[:, 4] >= least)
        if not len(at):
            return _nothing()
        picked = rows[at]
        scores = np.minimum(picked[:, 4], 1) * np.minimum(picked[:, 5:].max(axis=1), 1)
        strong = np.flatnonzero(scores >= least)
        picked, at = picked[strong], at[strong]
        step = self._step[at]
        x, y = (picked[:, 0] + self._grid[at, 0]) * step, (picked[:, 1] + self._grid[at, 1]) * step
        w, h = (np.exp(np.minimum(picked[:, side], 12)) * step for side in (2, 3))
        return _corners(x, y, w, h), scores[strong], picked[:, 5:].argmax(axis=1)


class YoloV8(Head):
    """Columns [1, 4 + classes, n], or rows [1, n, 4 + classes]: centre x, y, w, h in px, class scores."""

    def check(self, outputs: Sequence[Tensor]) -> None:
        shape = outputs[0].shape
        if len(shape) != 3 or not any(dim in (4 + self.classes, -1) for dim in shape[1:]):
            _expect(outputs[0], "yolov8", (1, 4 + self.classes, -1), self.classes)
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
        columns: NDArray[Any] = _shaped(found, 3, 1, 4 + self.classes)[0]
        return columns

    def read(self, outputs: Outputs, least: float) -> Found:
        columns = self._columns(outputs)
        best = columns[4:].max(axis=0)
        at = np.flatnonzero(best >= least)
        picked = columns[:, at]
        return _corners(*picked[:4]), best[at], picked[4:].argmax(axis=0)


class UlFace(Head):
    """Two outputs: scores [1, n, 1 + classes], background first; corners [1, n, 4] as shares of the input."""

    outputs = 2

    def check(self, outputs: Sequence[Tensor]) -> None:
        _expect(outputs[0], "ulface", (1, -1, 1 + self.classes), self.classes)
        _expect(outputs[1], "ulface", (1, -1, 4), self.classes)

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        shares: NDArray[Any] = _shaped(outputs[0], 3, 1, None, 1 + self.classes)[0]
        return shares

    def read(self, outputs: Outputs, least: float) -> Found:
        scores = _shaped(outputs[0], 3, 1, None, 1 + self.classes)[0, :, 1:]
        corners = _shaped(outputs[1], 3, 1, len(scores), 4)[0]
        best = scores.max(axis=1)
        at = np.flatnonzero(best >= least)
        width, height = self.size
        boxes = corners[at] * np.array((width, height, width, height), np.float32)
        return boxes, best[at], scores[at].argmax(axis=1)


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


def cells(size: tuple[int, int]) -> int:
    """The number of cells of the grids of strides 8, 16 and 32 over an input of `size`."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in YoloX.strides)


HEADS: dict[str, type[Head]] = {"fastestdet": FastestDet, "yolox": YoloX, "yolov8": YoloV8, "ulface": UlFace}


def _expect(output: Tensor, head: str, wanted: tuple[int, ...], classes: int) -> None:
    """Raise ModelError unless the shapes agree in every dimension that both declare."""
    shape = output.shape
    if len(shape) != len(wanted) or any(
        have != want and -1 not in (have, want) for have, want in zip(shape, wanted, strict=True)
    ):
        dims = ", ".join("?" if dim < 0 else str(dim) for dim in wanted)
        raise ModelError(
            f"head {head} with {classes} labels reads [{dims}], the model's output is {output}: "
            "check head, labels and input.size"
        )


def _shaped(output: NDArray[Any], dims: int, *wanted: int | None) -> NDArray[Any]:
    """Return the output; ModelError if it has another shape than the head reads."""
    shape = output.shape
    if len(shape) != dims or any(w is not None and w != shape[at] for at, w in enumerate(wanted)):
        raise ModelError(f"the model's output has the shape {list(shape)}, which its head cannot read")
    return output


def _corners(x: Any, y: Any, w: Any, h: Any) -> NDArray[np.float32]:
    boxes = np.empty((len(x), 4), np.float32)
    half_w, half_h = w * 0.5, h * 0.5
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = x - half_w, y - half_h, x + half_w, y + half_h
    return boxes


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _nothing() -> Found:
    return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.intp)
