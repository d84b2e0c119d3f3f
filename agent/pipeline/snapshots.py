"""The newest picture of a stream as a JPEG small enough for a message."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from adapters.base import Picture, Reading
from agent.pipeline.privacy import Hidden
from wire.clock import NS_PER_MS
from wire.errors import EdgebedError
from wire.messages import MAX_BODY, Box, Snapshot

_QUALITIES = (85, 75, 60, 45, 30)
_LONGEST = 1280  # pixels: more is for archives, not for a look


class SnapshotError(EdgebedError):
    """A picture that cannot be made into a snapshot."""


def encode(
    reading: Reading, boxes: Sequence[Box] = (), model: str = "", hidden: Hidden | None = None
) -> Snapshot:
    """A `Snapshot` whose body is at most 60,000 bytes: quality goes down first, then size. Blocks.

    `hidden` is what may be seen of the reading's picture; without it all of it may.

    Raises:
        SnapshotError: no picture, no encoder installed, or boxes that alone are too large.
    """
    if reading.picture is None or reading.picture.size == 0:
        raise SnapshotError("this reading has no picture")
    hidden = hidden or Hidden(reading.picture, "none")
    picture = hidden.picture
    height, width = picture.shape[:2]
    empty = _snapshot(reading, b"", width, height, boxes, model, hidden)
    room = (MAX_BODY - len(msgspec.json.encode(empty)) - 16) * 3 // 4  # base64
    if room < 1000:
        raise SnapshotError(f"{len(boxes)} boxes leave no room for a picture")
    jpeg, width, height = _fitting_jpeg(picture, room)
    return _snapshot(reading, jpeg, width, height, boxes, model, hidden)


def _fitting_jpeg(picture: Picture, room: int) -> tuple[bytes, int, int]:
    try:
        import cv2  # the camera extra: only who has pictures has it
    except ImportError as error:
        raise SnapshotError(
            "pictures need OpenCV, which is missing: pip install 'edgebed[camera]'"
        ) from error
    try:
        return _shrunk(cv2, picture, room)
    except cv2.error as error:
        raise SnapshotError(f"OpenCV cannot encode the picture: {error}") from error


def _shrunk(cv2: Any, picture: Picture, room: int) -> tuple[bytes, int, int]:
    scale = min(1.0, _LONGEST / max(picture.shape[:2]))
    while True:
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        shown = picture if scale == 1 else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        for quality in _QUALITIES:
            fine, jpeg = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if fine and len(jpeg) <= room:
                return jpeg.tobytes(), width, height
        if max(width, height) <= 16:
            raise SnapshotError("the picture cannot be encoded")
        scale *= 0.7


def _snapshot(
    reading: Reading,
    jpeg: bytes,
    width: int,
    height: int,
    boxes: Sequence[Box],
    model: str,
    hidden: Hidden,
) -> Snapshot:
    return Snapshot(
        ts=reading.at_ns // NS_PER_MS,
        w=width,
        h=height,
        sha256=hashlib.sha256(jpeg).hexdigest(),
        jpeg=jpeg,
        frame=reading.index,
        model=model,
        boxes=list(boxes),
        blur=hidden.how,
        faces=hidden.faces,
        plates=hidden.plates,
        why=hidden.why[:2000],
    )
