"""Hides faces and number plates before a picture leaves the agent; where it is not sure, the whole picture.

A hidden part becomes a mosaic of a few blocks, each the mean of its pixels. A face or plate cannot be
computed back from it, as it can from a blur.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from adapters.base import Picture
from agent.inference.decoders import ModelError
from agent.inference.model_cache import ModelCache
from wire.messages import Area, Box
from wire.reasons import NO_REASON, Reason, because

if TYPE_CHECKING:
    from agent.inference.isolation.worker import Worker
    from agent.inference.manifest import Manifest
    from agent.inference.session import Model

log = logging.getLogger("edgebed.privacy")

Kind = Literal["faces", "plates"]
How = Literal["none", "parts", "whole"]
KINDS: tuple[Kind, ...] = ("faces", "plates")

FACES = frozenset({"face", "head"})
PEOPLE = frozenset({"person", "people", "pedestrian", "rider", "cyclist", "motorcyclist", "man", "woman"})
VEHICLES = frozenset(
    {"car", "bus", "truck", "van", "taxi", "vehicle", "motorcycle", "motorbike", "scooter", "trailer"}
)

_ACROSS = 4  # blocks along the longer side of a face's or plate's region
_WHOLE_ACROSS = 8  # of a whole picture: a face that fills it is four blocks wide
_LEAST_PX = 8  # of a block's side: a part smaller than a few blocks becomes one block
_FACE_MARGIN = 0.3  # of a face's size, on each side
_PERSON_MARGIN = 0.15
_UPRIGHT = 0.4  # of a standing person's box, from the top
_LOWER = 0.65  # of a vehicle's box, from the bottom
_LOOKS_AGAIN = 4  # times the face model looks at the picture after hiding
_SAME = 0.9  # share hidden already: such a part was counted before, as a person's head or as a face

_NO_DETECTOR: dict[frozenset[str], str] = {
    frozenset({"faces"}): "no-face-detector",
    frozenset({"plates"}): "no-plate-detector",
    frozenset({"faces", "plates"}): "no-part-detector",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """The boxes that a detector found in this very picture, and the labels that it can find."""

    boxes: Sequence[Box]
    labels: Collection[str]
    most: int  # largest number of boxes that it gives; with this number of boxes there may be more
    areas: Sequence[Area] = ()  # zones and lines of its slot


@dataclass(frozen=True, slots=True)
class Hidden:
    """A picture that may leave; `reason` says why if all of it is hidden."""

    picture: Picture
    how: How
    faces: int = 0
    plates: int = 0
    reason: Reason = NO_REASON

    @property
    def why(self) -> str:
        """The text of `reason`."""
        return self.reason.why


_NOT_OPEN = because("the face model is not open yet", "face-model-not-open")


class Privacy:
    """Hides the `kinds` of parts in the pictures of one device; call `open` first (it blocks).

    `faces` is the folder of a detection package with a label `face`. It looks at each picture too, and again
    at the result until it finds no more faces. The whole picture is hidden if no detector looks for one of
    the `kinds`, or if a detector fails.
    """

    def __init__(
        self, kinds: Collection[str], faces: Path | None = None, *, models: ModelCache | None = None
    ) -> None:
        self.kinds = frozenset(kinds)
        self._package = faces if "faces" in self.kinds else None
        self._models = models or ModelCache()
        self._model: Model | Worker | None = None
        self._closed: Reason | None = None  # why the face model cannot be used
        if self._package is not None:
            self._closed = _NOT_OPEN

    @property
    def opened(self) -> bool:
        """Whether the face model is open or refused, or none is needed."""
        return self._closed is None or self._closed.code != _NOT_OPEN.code

    @property
    def model(self) -> Model | Worker | None:
        """The open face model."""
        return self._model

    def open(self) -> None:
        """Load and gate the face model. A refused one is logged, and every picture is hidden as a whole."""
        if self._package is None:
            return
        from agent.inference.package import load_package  # only agents with models pay for this module

        try:
            model = self._models.model(load_package(self._package))
            if why := face_model_mismatch(model.manifest):
                raise ModelError(f"{self._package}: {why}")
        except ModelError as error:
            self.refuse(str(error))
        else:
            self._model, self._closed = model, None

    def refuse(self, why: str) -> None:
        """Use the face model no more: every picture is hidden as a whole."""
        # first, as another thread may be hiding a picture now
        self._closed = because(f"the face model is refused: {why}", "face-model-refused")
        self._model = None
        log.warning("%s", self._closed.why)

    def hide(self, picture: Picture, seen: Seen | None) -> Hidden:
        """A copy of `picture` with the parts hidden; the picture itself if there is nothing to hide. Blocks.

        `seen` is None if no detector has looked at this very picture.
        """
        if not self.kinds:
            return Hidden(picture, "none")
        masked = _MaskedPicture(picture)
        try:
            faces, plates = self._hide(masked, seen)
        except _Unsure as unsure:
            return Hidden(_all_of(picture), "whole", reason=unsure.reason)
        return Hidden(masked.picture, "parts", faces, plates)

    def _hide(self, masked: _MaskedPicture, seen: Seen | None) -> tuple[int, int]:
        """Hide all parts that are found; returns the numbers of faces and plates."""
        if self._closed is not None:
            raise _Unsure(self._closed)
        looks = [] if seen is None else [seen]
        if self._model is not None:
            looks.append(_look(self._model, masked.picture))
        self._require_all_kinds(looks, seen)
        faces, plates = (
            sum(masked.cover(kind, look) for look in looks if kind in self.kinds) for kind in KINDS
        )
        if self._model is not None:
            faces += self._look_again(self._model, masked)
        return faces, plates

    def _require_all_kinds(self, looks: Sequence[Seen], seen: Seen | None) -> None:
        """Raise `_Unsure` unless the looks together would have found every kind."""
        missing = self.kinds.difference(*(finds(each.labels) for each in looks))
        if missing and seen is None:
            raise _Unsure(because("no detector has looked at this picture", "picture-unchecked"))
        if missing:
            why = f"the detector does not look for {' or '.join(sorted(missing))}"
            raise _Unsure(because(why, _NO_DETECTOR[frozenset(missing)]))
        if any(len(each.boxes) >= each.most for each in looks):
            raise _unsure("the detector gave as many boxes as it can: there may be more")

    def _look_again(self, model: Model | Worker, masked: _MaskedPicture) -> int:
        """Hide faces that the face model finds only now, until it finds no more."""
        found = 0
        for _ in range(_LOOKS_AGAIN):
            if not (more := masked.cover("faces", _look(model, masked.picture))):
                return found
            found += more
        raise _unsure("the face model finds more faces at each look")


def finds(labels: Collection[str]) -> frozenset[Kind]:
    """The kinds of parts that boxes of these labels locate."""
    words = {label.lower() for label in labels}
    found: set[Kind] = set()
    if words & (FACES | PEOPLE):
        found.add("faces")
    if words & VEHICLES:
        found.add("plates")
    return frozenset(found)


def seen_by(manifest: Manifest, boxes: Sequence[Box]) -> Seen:
    """What a model saw in a picture; a model that is not a detector sees nothing."""
    options: Any = manifest.output
    labels = options.labels if manifest.decoder == "detection" else ()
    return Seen(boxes, labels, getattr(options, "max_boxes", 1_000))


def face_model_mismatch(manifest: Manifest) -> str:
    """Why a package cannot be the face model; "" when it can."""
    if manifest.input.kind != "frame" or manifest.decoder != "detection":
        return "a face model needs input.kind frame and the decoder detection"
    if not {label.lower() for label in manifest.output.labels} & FACES:
        return "a face model needs a label face"
    return ""


class _Unsure(Exception):
    """Not every part that must be hidden is located."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.why)
        self.reason = reason


def _unsure(why: str) -> _Unsure:
    return _Unsure(because(why, "picture-unsure"))


def _look(model: Model | Worker, picture: Picture) -> Seen:
    try:
        return seen_by(model.manifest, model.run_frame(picture).boxes)
    except ModelError as error:
        raise _Unsure(because(f"the face model failed: {error}", "face-model-failed")) from error


# --- where faces and plates are -----------------------------------------------------------------------------

_Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


class _MaskedPicture:
    """A copy of a picture, and a mask of the pixels that are hidden already."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture.copy()
        self._hidden = np.zeros(picture.shape[:2], np.bool_)

    def cover(self, kind: Kind, look: Seen) -> int:
        """Hide every part of `kind`; returns the number of parts that were not hidden before."""
        new = 0
        for region in _regions(kind, look, self.picture.shape):
            x0, y0, x1, y1 = region
            new += bool(self._hidden[y0:y1, x0:x1].mean() < _SAME)
            self._hidden[y0:y1, x0:x1] = True
            _mosaic(self.picture, region, _ACROSS)
        return new


def _regions(kind: Kind, look: Seen, shape: tuple[int, ...]) -> list[_Region]:
    """The regions of `kind` in a picture of this shape that are not empty."""
    height, width = shape[:2]
    found = []
    for box in look.boxes:
        if not all(map(math.isfinite, box.box)):
            raise _unsure("a box has numbers that are not finite")
        x, y, w, h = (share * side for share, side in zip(box.box, (width, height) * 2, strict=True))
        part = _face_part(box.label, x, y, w, h) if kind == "faces" else _plate_part(box.label, x, y, w, h)
        if part is None:
            continue
        x0, y0, x1, y1 = part
        region = (
            max(0, math.floor(x0)),
            max(0, math.floor(y0)),
            min(width, math.ceil(x1)),
            min(height, math.ceil(y1)),
        )
        if region[2] > region[0] and region[3] > region[1]:
            found.append(region)
    return found


_Part = tuple[float, float, float, float]


def _face_part(label: str, x: float, y: float, w: float, h: float) -> _Part | None:
    word = label.lower()
    if word in FACES:
        dx, dy = _FACE_MARGIN * w, _FACE_MARGIN * h
        return x - dx, y - dy, x + w + dx, y + h + dy
    if word not in PEOPLE:
        return None
    # the top of a standing person; the less of the body is in the box, the larger is the face in it
    tall = h * min(1.0, max(_UPRIGHT, w / h)) if h > 0 else 0.0
    return x - _PERSON_MARGIN * w, y - _PERSON_MARGIN * tall, x + (1 + _PERSON_MARGIN) * w, y + tall


def _plate_part(label: str, x: float, y: float, w: float, h: float) -> _Part | None:
    if label.lower() not in VEHICLES:
        return None
    return x - 0.05 * w, y + (1 - _LOWER) * h, x + 1.05 * w, y + 1.05 * h


def _all_of(picture: Picture) -> Picture:
    shown = picture.copy()
    if picture.size:
        _mosaic(shown, (0, 0, picture.shape[1], picture.shape[0]), _WHOLE_ACROSS)
    return shown


def _mosaic(picture: Picture, region: _Region, across: int) -> None:
    """Replace a region, in place, by squares that each are the mean of their pixels."""
    x0, y0, x1, y1 = region
    part = picture[y0:y1, x0:x1]
    side = max(_LEAST_PX, -(-max(part.shape[:2]) // across))
    tops, lefts = (np.arange(0, length, side) for length in part.shape[:2])
    heights, widths = np.diff(tops, append=part.shape[0]), np.diff(lefts, append=part.shape[1])
    sums = np.add.reduceat(np.add.reduceat(part, tops, axis=0, dtype=np.uint64), lefts, axis=1)
    counts = np.outer(heights, widths).astype(np.uint64)
    means = sums // counts.reshape(counts.shape + (1,) * (part.ndim - 2))
    part[:] = np.repeat(np.repeat(means, heights, axis=0), widths, axis=1)
