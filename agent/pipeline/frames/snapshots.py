"""The newest picture of each frame stream, and the snapshots (JPEG in a message) made of it."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from adapters.base import Picture, Reading
from agent.pipeline.frames.privacy import Hidden, Privacy, Seen
from agent.pipeline.model_threads import in_thread
from wire.clock import NS_PER_MS, Clock
from wire.errors import EdgebedError
from wire.messages import MAX_BODY, Area, Box, Snapshot

log = logging.getLogger("edgebed.pipeline")

_LOOK_S = 0.1  # between two looks for the first picture
_QUALITIES = (85, 75, 60, 45, 30)
_LONGEST = 1280  # pixels of the longer side: a snapshot is for a look, not for an archive


class SnapshotError(EdgebedError):
    """A picture that cannot be made into a snapshot."""


class NewestPicture:
    """Keeps the newest picture of one frame stream and publishes snapshots of it.

    `privacy` hides faces and plates before `send` gets a snapshot. `counters` counts snapshots and what was
    hidden.
    """

    def __init__(
        self,
        device: str,
        stream: str,
        *,
        privacy: Privacy,
        clock: Clock,
        send: Callable[[str, str, Snapshot], None],
        counters: Counter[str],
    ) -> None:
        self.reading: Reading | None = None
        self._device = device
        self._stream = stream
        self._privacy = privacy
        self._clock = clock
        self._send = send
        self._counters = counters
        self._seen: Seen | None = None  # what a model found in `reading`
        self._model = ""
        self._sent: Reading | None = None
        self._failure_logged = False
        self._why_whole = ""  # why the last picture was hidden as a whole

    def show(self, reading: Reading, seen: Seen | None = None, model: str = "") -> None:
        """Replace the newest picture; `seen` is what `model` found in this very picture."""
        self.reading, self._seen, self._model = reading, seen, model

    async def publish(self) -> Snapshot:
        """Make a snapshot of the newest picture, send it and return it.

        Raises:
            EdgebedError: there is no picture yet, or it cannot be encoded.
        """
        if (reading := self.reading) is None:
            raise SnapshotError(f"{self._device}/{self._stream} has sent no picture yet")
        made = await in_thread(
            f"faces-{self._device}",
            partial(_hide_and_encode, self._privacy, reading, self._seen, self._model),
        )
        self._sent = reading
        self._count(made)
        self._send(self._device, self._stream, made)
        return made

    async def run(self, every_s: float) -> None:
        """Publish every `every_s` until cancelled; a picture is published once."""
        while True:
            began_ns, reading = self._clock.monotonic_ns(), self.reading
            if reading is not None and reading is not self._sent:
                try:
                    await self.publish()
                except EdgebedError as error:
                    self._counters["snapshots_failed"] += 1
                    if not self._failure_logged:
                        log.warning("%s/%s: no snapshot: %s", self._device, self._stream, error)
                    self._failure_logged = True
            spent_s = (self._clock.monotonic_ns() - began_ns) / 1e9
            await self._clock.sleep(_LOOK_S if reading is None else every_s - spent_s)

    def _count(self, made: Snapshot) -> None:
        self._counters["snapshots"] += 1
        self._counters["snapshots_hidden_whole"] += made.blur == "whole"
        self._counters["faces_hidden"] += made.faces or 0
        self._counters["plates_hidden"] += made.plates or 0
        if made.why and made.why != self._why_whole:
            log.warning("%s/%s: pictures are hidden as a whole: %s", self._device, self._stream, made.why)
        self._why_whole = made.why


def encode(
    reading: Reading,
    boxes: Sequence[Box] = (),
    model: str = "",
    hidden: Hidden | None = None,
    areas: Sequence[Area] = (),
) -> Snapshot:
    """Make a `Snapshot` with a body of at most 60,000 bytes: quality is reduced first, then size. Blocks.

    `hidden` is the picture that may be seen; without it the reading's own picture is used.

    Raises:
        SnapshotError: the reading has no picture, OpenCV is not installed, or the boxes alone are too large.
    """
    if reading.picture is None or reading.picture.size == 0:
        raise SnapshotError("this reading has no picture")
    hidden = hidden or Hidden(reading.picture, "none")
    picture = hidden.picture
    height, width = picture.shape[:2]
    empty = _snapshot(reading, b"", width, height, boxes, model, hidden, areas)
    if len(msgspec.json.encode(empty)) > MAX_BODY // 2:  # outlines leave too little room for the picture
        boxes, areas = [msgspec.structs.replace(box, points=[], polygon=[]) for box in boxes], ()
        empty = _snapshot(reading, b"", width, height, boxes, model, hidden)
    room = (MAX_BODY - len(msgspec.json.encode(empty)) - 16) * 3 // 4  # base64 makes 4 bytes of 3
    if room < 1000:
        raise SnapshotError(f"{len(boxes)} boxes leave no room for a picture")
    jpeg, width, height = fitting_jpeg(picture, room)
    return _snapshot(reading, jpeg, width, height, boxes, model, hidden, areas)


def _hide_and_encode(privacy: Privacy, reading: Reading, seen: Seen | None, model: str) -> Snapshot:
    """Hide faces and plates of the picture and encode it. Blocks."""
    if reading.picture is None:
        raise SnapshotError("this reading has no picture")
    hidden = privacy.hide(reading.picture, seen)
    if seen is None:
        return encode(reading, (), model, hidden)
    return encode(reading, seen.boxes, model, hidden, seen.areas)


def fitting_jpeg(picture: Picture, room: int) -> tuple[bytes, int, int]:
    """A JPEG of at most `room` bytes, its width and its height."""
    try:
        import cv2  # comes with the camera extra, which agents without pictures lack
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
            encoded, jpeg = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if encoded and len(jpeg) <= room:
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
    areas: Sequence[Area] = (),
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
        areas=list(areas),
        blur=hidden.how,
        faces=hidden.faces,
        plates=hidden.plates,
        **hidden.reason.fields(),
    )
