"""Detection: the boxes of a head without duplicates, mapped back to the frame; safe for any numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.inference.decoders.base import (
    Decoder,
    Label,
    Labelled,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    slugs,
)
from agent.inference.decoders.heads import HEADS, Found, Layout
from agent.inference.decoders.masks import MaskGrid, points_each
from agent.inference.scene_options import Anchor, Ignored, Lines, SceneOptions, Track, Zones
from wire.config import Mistake
from wire.messages import Box, Field, Scalar

_CANDIDATES = 1000  # strongest boxes that suppression compares: limits the cost of a hostile model
_FAR = np.float32(1e6)  # px; boxes are cut there, so that areas stay finite
_ROUNDING = 0.01  # of a score of 0 to 1, in 16 bits
_COUNTED = 16  # with more labels than this, only those that `count` names are counted


class DetectionOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: detection`."""

    head: Annotated[
        Literal["yolox", "yolov8", "yolov5", "end-to-end", "detr", "ssd", "fastestdet", "ulface"],
        Meta(description="The layout of the output tensors."),
    ]
    score: Annotated[float, Meta(gt=0, le=1, description="Boxes below this are dropped.")] = 0.35
    sigmoid: Annotated[bool, Meta(description="The model gives logits: scores are made of them.")] = False
    box: Annotated[
        Literal["", "centre", "corners", "corners-yx"],
        Meta(
            description="Centre x, y, width, height; x, y of two corners; or y, x of them. "
            "Default: that of the head."
        ),
    ] = ""
    unit: Annotated[
        Literal["", "pixels", "shares"],
        Meta(description="Boxes are in pixels or in shares of the input. Default: that of the head."),
    ] = ""
    nms: Annotated[
        Literal["", "class", "agnostic", "none"],
        Meta(
            description="Boxes that overlap are duplicates within a class, whatever their class, or never. "
            "Default: class; none for end-to-end, detr and ssd."
        ),
    ] = ""
    iou: Annotated[
        float,
        Meta(gt=0, le=1, description="Of two boxes of a class that overlap more, the weaker is dropped."),
    ] = 0.45
    max_boxes: Annotated[
        int, Meta(ge=1, le=300, description="Largest number of boxes; the strongest are kept.")
    ] = 100
    keypoints: Annotated[
        list[Label],
        Meta(max_length=64, description="Names of the keypoints of a pose, in the model's order."),
    ] = []  # noqa: RUF012 - msgspec copies it for each object
    keypoint_score: Annotated[
        float, Meta(ge=0, le=1, description="A keypoint below this gives no field.")
    ] = 0.5
    masks: Annotated[
        bool, Meta(description="The model gives a mask for each box, from prototypes in its second output.")
    ] = False
    polygon: Annotated[
        int, Meta(ge=0, le=64, description="Largest number of points of a mask's outline; 0 for none.")
    ] = 24
    count: Annotated[
        list[str],
        Meta(
            max_length=64,
            description="Labels whose number is published; if empty, all of up to 16 labels.",
        ),
    ] = []  # noqa: RUF012 - as above
    alarm: Annotated[
        list[str], Meta(max_length=64, description="Labels that raise an alarm when they are found.")
    ] = []  # noqa: RUF012 - as above

    track: Track = None
    zones: Zones = {}  # noqa: RUF012 - as above
    lines: Lines = {}  # noqa: RUF012 - as above
    ignore: Ignored = ()
    anchor: Anchor = "foot"

    @property
    def counted(self) -> list[str]:
        """The labels whose number is published."""
        return self.count or (self.labels if len(self.labels) <= _COUNTED else [])

    @property
    def own_fields(self) -> set[str]:
        """The fields of a row beside the numbers of the counted labels.

        Raises:
            ModelError: a label or keypoint gives no field name.
        """
        own = {"n", "alarm", "infer_ms", "frame"}
        own |= {f"{name}_{axis}" for name in slugs(self.keypoints) for axis in "xy"}
        return own | ({f"{name}_area" for name in slugs(self.counted)} if self.masks else set())

    def scene_mistakes(self, scene: SceneOptions) -> Iterable[Mistake]:
        """What of a scene does not fit the labels and fields."""
        try:
            fields = self.own_fields | {*slugs(self.counted)}
        except ModelError:
            return ()  # the decoder says why
        return scene.mistakes(self.labels, fields)


class Detection(Decoder):
    """Boxes of one head, mapped back to the frame, and the number of boxes of each label."""

    Options = DetectionOptions
    tunable = frozenset({"score", "iou", "keypoint_score"})

    @classmethod
    def mistakes(cls, options: DetectionOptions) -> Iterable[Mistake]:
        """Zones and lines that do not fit the labels, or have names of other fields."""
        return options.scene_mistakes(
            SceneOptions(**{key: getattr(options, key) for key in SceneOptions.__struct_fields__})
        )

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
        self._options, self._size = options, size
        layout = Layout(
            len(labels), options.sigmoid, options.box, options.unit, len(options.keypoints), options.masks
        )
        self._head = HEADS[options.head](outputs, layout, size)
        self._counted = dict(zip(options.counted, slugs(options.counted), strict=True))
        self._alarms = frozenset(options.alarm)
        self._points = slugs(options.keypoints)
        self._nms = options.nms or ("none" if self._head.finished else "class")
        for reserved in options.own_fields & {*self._counted.values()}:
            raise ModelError(f"output.count: label {reserved!r} clashes with a field of that name: rename it")

    def fields(self) -> dict[str, Field]:
        """`n` boxes, the number of each counted label, and `alarm` where labels raise one.

        With masks, the share of the frame that each counted label covers; with keypoints, those of the
        strongest box as shares of the frame.
        """
        fields = {"n": Field(t="i64", unit="1", desc="boxes")}
        fields |= {name: Field(t="i64", unit="1") for name in self._counted.values()}
        if self._alarms:
            fields["alarm"] = Field(t="bool")
        if self._options.masks:
            fields |= {f"{name}_area": Field(t="f32", unit="1", dec=4) for name in self._counted.values()}
        for name in self._points:
            fields |= {f"{name}_{axis}": Field(t="f32", unit="1", dec=4) for axis in "xy"}
        return fields

    def doubt(self, outputs: Outputs) -> str:
        """Why the head is the wrong one: its shapes, its boxes, or scores that are not between 0 and 1."""
        try:
            self._head.check(
                [Tensor(f"output_{at}", str(each.dtype), each.shape) for at, each in enumerate(outputs)]
            )
            with np.errstate(all="ignore"):
                if why := self._head.doubt(outputs):
                    return why
                scores = self._head.scores(outputs)
        except ModelError as error:
            return str(error)
        least, most = float(scores.min(initial=0)), float(scores.max(initial=0))
        if self._options.sigmoid or (least >= -_ROUNDING and most <= 1 + _ROUNDING):
            return ""
        return (
            f"head {self._options.head} reads scores from {least:.4g} to {most:.4g} for a plain input, and "
            "a score is 0 to 1: the model has another head, or gives logits (output.sigmoid: true)"
        )

    def decode(self, outputs: Outputs, placement: Placement | None) -> Result:
        """Boxes from strong to weak, within the frame; drops boxes without an area or with NaN."""
        if placement is None:
            raise ModelError("boxes need the placement of the picture in the model's input")
        options, labels = self._options, self._options.labels
        with np.errstate(all="ignore"):  # the model's numbers have no bounds; the results are checked
            found = _strongest(self._head.read(outputs, options.score))
            if self._nms == "none":
                found = found.pick(np.arange(min(options.max_boxes, len(found.scores))))
            elif len(found.scores):
                classes = found.classes if self._nms == "class" else np.zeros_like(found.classes)
                found = found.pick(
                    suppress(found.boxes, found.scores, classes, options.iou, options.max_boxes)
                )
            corners = _on_frame(found.boxes, placement)
            sized = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
            found, corners = found.pick(sized), corners[sized]
            boxes = [
                Box(
                    label=labels[cls],
                    cls=cls,
                    score=round(score, 3),
                    box=(x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)),
                )
                for (x0, y0, x1, y1), score, cls in zip(
                    corners.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
                )
            ]
            values: dict[str, Scalar] = {"n": len(boxes), **dict.fromkeys(self._counted.values(), 0)}
            for box in boxes:
                name = self._counted.get(box.label)
                if name is not None:
                    values[name] += 1  # type: ignore[operator]  # set to 0 above
            alarm = any(box.label in self._alarms for box in boxes)
            if self._alarms:
                values["alarm"] = alarm
            if options.masks:
                values |= self._add_masks(found, boxes, outputs[1], placement)
            if self._points:
                values |= self._add_points(found, boxes, placement)
        top = boxes[0] if boxes else None
        return Result(values, boxes, top.label if top else "", top.score if top else None, alarm)

    def _add_masks(
        self, found: Found, boxes: Sequence[Box], prototypes: NDArray[Any], placement: Placement
    ) -> dict[str, Scalar]:
        """Put area and outline into the boxes; returns the share of the frame that each label covers."""
        grid = MaskGrid(prototypes, self._size, placement)
        covered: dict[str, NDArray[np.bool_]] = {}
        most = points_each(self._options.polygon, len(boxes))
        for at, box in enumerate(boxes):
            mask, rows, columns = grid.mask(
                found.boxes[at], found.more[at] if found.more is not None else None
            )
            box.area = grid.share(int(mask.sum()))
            box.polygon = grid.outline(mask, rows.start, columns.start, most)
            if (name := self._counted.get(box.label)) is not None:
                covered.setdefault(name, grid.nothing())[rows, columns] |= mask
        shares = {name: grid.share(int(each.sum())) for name, each in covered.items()}
        return {f"{name}_area": shares.get(name, 0.0) for name in self._counted.values()}

    def _add_points(self, found: Found, boxes: Sequence[Box], placement: Placement) -> dict[str, Scalar]:
        """Put the keypoints into the boxes; returns those of the strongest box."""
        values: dict[str, Scalar] = dict.fromkeys(f"{name}_{axis}" for name in self._points for axis in "xy")
        if not boxes or found.more is None:
            return values
        points = found.more.reshape(len(boxes), len(self._points), -1).astype(np.float64)
        if (self._options.unit or self._head.unit) == "shares":
            points[:, :, :2] *= self._size
        points[:, :, 0] = (points[:, :, 0] - placement.offset_x) * placement.scale_x
        points[:, :, 1] = (points[:, :, 1] - placement.offset_y) * placement.scale_y
        scores = points[:, :, 2] if points.shape[2] > 2 else np.ones(points.shape[:2])
        scores = np.where(np.isfinite(points).all(axis=2), np.clip(scores, 0, 1), 0.0)
        at = np.clip(np.nan_to_num(points[:, :, :2]), 0, 1).round(4)
        for box, places, sure in zip(boxes, at.tolist(), scores.round(3).tolist(), strict=True):
            box.points = [(x, y, s) for (x, y), s in zip(places, sure, strict=True)]
        for name, (x, y, sure) in zip(self._points, boxes[0].points, strict=True):
            if sure >= self._options.keypoint_score and sure > 0:
                values |= {f"{name}_x": x, f"{name}_y": y}
        return values


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


def _strongest(found: Found) -> Found:
    """The strongest boxes of a finite size, at most `_CANDIDATES`, strongest first."""
    if not len(found.scores):
        return found
    order = np.argsort(-found.scores, kind="stable")[:_CANDIDATES]
    found = found.pick(order)
    boxes = np.clip(found.boxes, -_FAR, _FAR)
    # a comparison with NaN is false
    sized = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return found._replace(boxes=boxes, scores=np.minimum(found.scores, np.float32(1))).pick(sized)


def _on_frame(boxes: NDArray[np.float32], place: Placement) -> NDArray[np.float64]:
    corners = boxes.astype(np.float64)
    corners -= (place.offset_x, place.offset_y, place.offset_x, place.offset_y)
    corners *= (place.scale_x, place.scale_y, place.scale_x, place.scale_y)
    np.minimum(corners, 1.0, out=corners)
    np.maximum(corners, 0.0, out=corners)
    return corners.round(4)
