"""Crops: the parts of a picture in which a detector found something, for another model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import TYPE_CHECKING

from msgspec import UNSET, structs

from adapters.base import Picture
from agent.pipeline.settings import CropsConfig
from wire.messages import Box, Field, Scalar

if TYPE_CHECKING:
    from agent.inference.decoders import Result

_ROUNDING = 1e-6  # px

FIELDS: dict[str, Field] = {
    "crop": Field(t="i64", desc="number of the box in its picture, the strongest is 0"),
    "crop_of": Field(t="str", desc="what the detector found there"),
    "crop_track": Field(t="i64", desc="its track"),
    **{f"crop_{side}": Field(t="f32", unit="1", dec=4, desc="share of the frame") for side in "xywh"},
}


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A part of a picture: a view, not a copy; `place` is [x, y, w, h] as shares of the frame."""

    number: int
    box: Box
    picture: Picture
    place: tuple[float, float, float, float]

    @property
    def key(self) -> int:
        """What stays the same from picture to picture: the track, or else the number."""
        return -1 - self.number if self.box.track is UNSET else self.box.track

    def row(self) -> dict[str, Scalar]:
        """Its fields of a row."""
        track = None if self.box.track is UNSET else self.box.track
        sides = {f"crop_{side}": at for side, at in zip("xywh", self.box.box, strict=True)}
        return {"crop": self.number, "crop_of": self.box.label, "crop_track": track, **sides}

    def on_frame(self, result: Result) -> Result:
        """The result with places as shares of the frame; without boxes it has that of the crop."""
        boxes = [self._placed(box) for box in result.boxes]
        return replace(result, boxes=boxes or [self.box])

    def _placed(self, box: Box) -> Box:
        left, top, wide, high = self.place
        x, y, w, h = box.box
        return structs.replace(
            box,
            box=(round(left + x * wide, 4), round(top + y * high, 4), round(w * wide, 4), round(h * high, 4)),
            points=[(round(left + x * wide, 4), round(top + y * high, 4), s) for x, y, s in box.points],
            polygon=[(round(left + x * wide, 4), round(top + y * high, 4)) for x, y in box.polygon],
            area=UNSET if box.area is UNSET else round(box.area * wide * high, 5),
        )


def crops(config: CropsConfig, picture: Picture, boxes: list[Box]) -> Iterator[Crop]:
    """The crops of a picture, of the strongest boxes first, `config.most` at most."""
    high, wide = picture.shape[:2]
    wanted = [(at, box) for at, box in enumerate(boxes) if not config.labels or box.label in config.labels]
    left = config.most
    for number, box in wanted:
        x, y, w, h = box.box
        x0, x1 = (x - config.margin * w) * wide, (x + (1 + config.margin) * w) * wide
        y0, y1 = (y - config.margin * h) * high, (y + (1 + config.margin) * h) * high
        columns = slice(max(0, floor(x0 + _ROUNDING)), min(wide, ceil(x1 - _ROUNDING)))
        rows = slice(max(0, floor(y0 + _ROUNDING)), min(high, ceil(y1 - _ROUNDING)))
        across, down = columns.stop - columns.start, rows.stop - rows.start
        if min(across, down) < config.least_px:
            continue
        place = columns.start / wide, rows.start / high, across / wide, down / high
        yield Crop(number, box, picture[rows, columns], place)
        left -= 1
        if not left:
            return
