"""Regions: a map of classes or probabilities over the picture becomes areas, boxes and outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

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
    beyond_shares,
    sigmoid,
    slugs,
)
from agent.inference.decoders.masks import Grid, Mask, points_each
from wire.messages import Box, Field, Scalar

_MOST_LABELS = 256
_MOST_GROWN = 256  # cells by which a region grows on each side
_RESERVED = {"n", "alarm", "infer_ms", "frame"}


class RegionsOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: regions`."""

    background: Annotated[
        bool, Meta(description="A class before the labels stands for nothing; one label needs none.")
    ] = False
    sigmoid: Annotated[
        bool, Meta(description="The model gives logits of labels that are independent of each other.")
    ] = False
    multi: Annotated[
        bool, Meta(description="A cell can have several labels: those of at least `threshold`.")
    ] = False
    threshold: Annotated[
        float, Meta(gt=0, lt=1, description="With one label or multi: a cell of at least this has the label.")
    ] = 0.5
    score: Annotated[
        float, Meta(ge=0, le=1, description="Regions whose mean probability is below this are dropped.")
    ] = 0.0
    least_area: Annotated[
        float, Meta(ge=0, le=1, description="Regions below this share of the frame are dropped.")
    ] = 0.0001
    grow: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="Regions grow by area / outline times this, as PP-OCR's text does by 1.5.",
        ),
    ] = 0.0
    max_boxes: Annotated[
        int, Meta(ge=1, le=300, description="Largest number of regions; the largest are kept.")
    ] = 100
    polygon: Annotated[
        int, Meta(ge=0, le=64, description="Largest number of points of an outline; 0 for none.")
    ] = 24
    alarm: Annotated[
        list[str], Meta(max_length=64, description="Labels that raise an alarm where they have a region.")
    ] = []  # noqa: RUF012 - msgspec copies it for each object


class Regions(Decoder):
    """One map [1, classes, rows, columns], [1, rows, columns, classes] or [1, rows, columns].

    Of several classes, the largest number of a cell wins. A map of whole numbers has the classes themselves.
    """

    Options = RegionsOptions
    tunable = frozenset({"threshold", "score", "least_area"})

    def __init__(
        self, options: RegionsOptions, outputs: Sequence[Tensor], size: tuple[int, int] | None
    ) -> None:
        if size is None:
            raise ModelError("decoder regions needs an input of kind frame")
        if not 1 <= len(options.labels) <= _MOST_LABELS:
            raise ModelError(f"output.labels: regions need 1 to {_MOST_LABELS} labels")
        for word in options.alarm:
            if word not in options.labels:
                raise ModelError(f"output.alarm: {word!r} is not one of the labels")
        self._options, self._size = options, size
        self._names = slugs(options.labels)
        for reserved in _RESERVED & {*self._names}:
            raise ModelError(
                f"output.labels: label {reserved!r} clashes with a field of that name: rename it"
            )
        self._classes = len(options.labels) + options.background
        self._whole = outputs[0].dtype.startswith(("int", "uint"))
        dims = _dims(outputs[0].shape)
        fits = len(dims) == 2 if self._whole or self._classes == 1 else len(dims) == 3
        if len(outputs[0].shape) == 2 and outputs[0].shape[0] == 1:
            fits = False  # scores of the whole picture
        if len(dims) == 3 and not self._whole:
            fits = any(dim in (self._classes, -1) for dim in (dims[0], dims[2]))
        if not fits:
            raise ModelError(
                f"{self._classes} classes are a map [1, {self._classes}, rows, columns], the model's output "
                f"is {outputs[0]}: check output.labels and output.background"
            )

    def fields(self) -> dict[str, Field]:
        """`n` regions, the share of the frame that each label covers, and `alarm` where labels raise one."""
        fields = {"n": Field(t="i64", unit="1", desc="regions")}
        fields |= {name: Field(t="f32", unit="1", dec=4) for name in self._names}
        if self._options.alarm:
            fields["alarm"] = Field(t="bool")
        return fields

    def doubt(self, outputs: Outputs) -> str:
        """Why the numbers cannot be probabilities, or classes."""
        try:
            table = self._table(outputs[0])
        except ModelError as error:
            return str(error)
        if self._whole:
            most = int(table.max(initial=0))
            if most < self._classes:
                return ""
            return f"output.labels: {self._classes} classes are declared, and the map has the class {most}"
        if self._options.sigmoid or not (self._classes == 1 or self._options.multi):
            return ""
        return beyond_shares(table, "it gives logits (output.sigmoid: true)")

    def decode(self, outputs: Outputs, placement: Placement | None) -> Result:
        """Areas of the labels, and the largest regions."""
        if placement is None:
            raise ModelError("regions need the placement of the picture in the model's input")
        options, labels = self._options, self._options.labels
        table = self._table(outputs[0])
        grid = Grid((table.shape[-2], table.shape[-1]), self._size, placement)
        values: dict[str, Scalar] = {"n": 0, **dict.fromkeys(self._names, 0.0)}
        found: list[tuple[int, int, float, Mask, int, int]] = []
        for at, mask, shares in self._masks(table, grid):
            values[self._names[at]] = grid.share(int(mask.sum()))
            found += [(size, at, *rest) for size, *rest in self._parts(mask, shares, grid)]  # type: ignore[misc]
        found.sort(key=lambda each: -each[0])
        del found[options.max_boxes :]
        most = points_each(options.polygon, len(found))
        boxes = []
        for size, at, score, mask, row, column in found:
            x0, y0 = grid.place(column, row)
            x1, y1 = grid.place(column + mask.shape[1], row + mask.shape[0])
            if x1 <= x0 or y1 <= y0:
                continue
            boxes.append(
                Box(
                    label=labels[at],
                    cls=at,
                    score=round(score, 3),
                    box=(x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)),
                    polygon=grid.outline(mask, row, column, most),
                    area=grid.share(size),
                )
            )
        values["n"] = len(boxes)
        alarm = any(box.label in options.alarm for box in boxes)
        if options.alarm:
            values["alarm"] = alarm
        top = boxes[0] if boxes else None
        return Result(values, boxes, top.label if top else "", top.score if top else None, alarm)

    def _table(self, output: NDArray[Any]) -> NDArray[Any]:
        """The map as (classes, rows, columns), or (rows, columns) of whole numbers."""
        table = output
        while table.ndim > 2 and table.shape[0] == 1:
            table = table[0]
        if table.ndim == 3 and table.shape[2] == 1:
            table = table[:, :, 0]
        if table.ndim == 2:
            if self._whole:
                return table
            table = table[None]
        if table.ndim != 3:
            raise ModelError(f"the model's output has the shape {list(output.shape)}, which is not a map")
        if table.shape[0] != self._classes and table.shape[2] == self._classes:
            table = table.transpose(2, 0, 1)
        if table.shape[0] != self._classes or self._whole:
            raise ModelError(
                f"the model's output has the shape {list(output.shape)}, which is not a map of "
                f"{self._classes} classes"
            )
        return table

    def _masks(self, table: NDArray[Any], grid: Grid) -> Iterator[tuple[int, Mask, NDArray[Any] | None]]:
        """Each label that has a cell in the picture, its cells, and the probabilities if they are known."""
        options, background = self._options, int(self._options.background)
        inside = grid.nothing()
        inside[grid.rows, grid.columns] = True
        if self._whole or not (options.multi or self._classes == 1):
            known = inside if self._whole else inside & ~np.isnan(table).any(axis=0)
            winners = table if self._whole else table.argmax(axis=0)
            for number in np.unique(winners[known]).tolist():
                if background <= number < self._classes:
                    yield number - background, known & (winners == number), None
            return
        for at in range(background, self._classes):
            shares = sigmoid(table[at].astype(np.float64)) if options.sigmoid else table[at]
            mask = inside & (shares >= options.threshold)
            if mask.any():
                yield at - background, mask, shares

    def _parts(
        self, mask: Mask, shares: NDArray[Any] | None, grid: Grid
    ) -> Iterator[tuple[int, float, Mask, int, int]]:
        """The largest connected parts: cells, mean probability, mask, and its first row and column."""
        import cv2  # models of pictures need it anyway

        options = self._options
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        sizes = stats[1:, cv2.CC_STAT_AREA]
        for number in (np.argsort(-sizes, kind="stable")[: options.max_boxes] + 1).tolist():
            left, top, wide, high, size = stats[number].tolist()
            if size < 1 or grid.share(size) < options.least_area:
                break
            here = slice(top, top + high), slice(left, left + wide)
            part = numbers[here] == number
            score = (
                1.0 if shares is None else float(np.clip(shares[here][part].astype(np.float64), 0, 1).mean())
            )
            if score < options.score:
                continue
            if options.grow:
                part, top, left = self._grown(part, top, left, grid)
            yield size, score, part, top, left

    def _grown(self, part: Mask, top: int, left: int, grid: Grid) -> tuple[Mask, int, int]:
        """A region grown on each side, within the map, and its first row and column."""
        import cv2

        high, wide = part.shape
        by = round(min(_MOST_GROWN, high * wide * self._options.grow / (2 * (high + wide))))
        above, before = min(by, top), min(by, left)
        below, after = min(by, grid.shape[0] - top - high), min(by, grid.shape[1] - left - wide)
        room = np.pad(part.astype(np.uint8), ((above, below), (before, after)))
        grown = cv2.dilate(room, np.ones((2 * by + 1, 2 * by + 1), np.uint8))
        return grown > 0, top - above, left - before


def _dims(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a map without the batch, and without one class."""
    dims = shape[1:] if len(shape) > 2 and shape[0] in (1, -1) else shape
    if len(dims) == 3 and 1 in (dims[0], dims[2]):
        dims = dims[1:] if dims[0] == 1 else dims[:2]
    return dims
