"""Snapshots fit a message, show only what may be seen, and are sent once per picture."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections import Counter

import cv2
import numpy as np
import pytest

from adapters.base import Reading
from agent.pipeline.frames.privacy import Privacy, Seen
from agent.pipeline.frames.snapshots import NewestPicture, SnapshotError, encode
from tests.polling import until
from wire.clock import Clock
from wire.codec import encode as to_bytes
from wire.messages import MAX_BODY, Box, Snapshot

T0 = 1_760_000_000 * 10**9


def frame(index: int, value: int = 0) -> Reading:
    return Reading("frames", T0, picture=np.full((24, 32, 3), value, np.uint8), index=index)


class Camera:
    """The newest picture of `cam/frames`, and the snapshots sent of it."""

    def __init__(self, *blur: str) -> None:
        self.sent: list[Snapshot] = []
        self.counters: Counter[str] = Counter()
        self.newest = NewestPicture(
            "cam",
            "frames",
            privacy=Privacy(blur),
            clock=Clock(),
            send=lambda device, stream, body: self.sent.append(body),
            counters=self.counters,
        )


async def test_the_newest_picture_is_published_with_its_boxes() -> None:
    camera = Camera()
    box = Box(label="car", cls=0, score=0.9, box=(0.1, 0.1, 0.2, 0.2))
    camera.newest.show(frame(1, 50))
    camera.newest.show(frame(2, 200), Seen([box], ["car"], 100), "m@1")
    made = await camera.newest.publish()
    assert camera.sent == [made]
    assert (made.frame, made.model, made.boxes, made.blur) == (2, "m@1", [box], "none")
    assert made.sha256 == hashlib.sha256(made.jpeg).hexdigest()
    shown = cv2.imdecode(np.frombuffer(made.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert abs(float(shown.mean()) - 200) < 3


async def test_boxes_of_an_older_picture_are_not_shown_with_a_newer_one() -> None:
    camera = Camera()
    camera.newest.show(
        frame(1), Seen([Box(label="car", cls=0, score=1, box=(0, 0, 1, 1))], ["car"], 9), "m@1"
    )
    camera.newest.show(frame(2))
    made = await camera.newest.publish()
    assert (made.frame, made.model, made.boxes) == (2, "", [])


async def test_what_is_hidden_is_counted_and_the_reason_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = Camera("faces")
    with caplog.at_level(logging.WARNING, "edgebed.pipeline"):
        for index in range(2):
            camera.newest.show(frame(index))
            made = await camera.newest.publish()
            assert made.blur == "whole"
    assert camera.counters == {
        "snapshots": 2,
        "snapshots_hidden_whole": 2,
        "faces_hidden": 0,
        "plates_hidden": 0,
    }
    assert len(caplog.records) == 1
    assert "no detector has looked at this picture" in caplog.text


async def test_without_a_picture_there_is_nothing_to_publish() -> None:
    with pytest.raises(SnapshotError, match="cam/frames has sent no picture yet"):
        await Camera().newest.publish()


async def test_a_picture_is_sent_once_and_a_failure_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    camera = Camera()
    task = asyncio.create_task(camera.newest.run(0.01))
    camera.newest.show(frame(0))
    await until(lambda: bool(camera.sent))
    await asyncio.sleep(0.1)
    assert len(camera.sent) == 1
    camera.newest.show(Reading("frames", T0, picture=np.zeros((0, 4, 3), np.uint8), index=1))
    await until(lambda: camera.counters["snapshots_failed"] == 2)
    assert [record.getMessage() for record in caplog.records] == [
        "cam/frames: no snapshot: this reading has no picture"
    ]
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("size", [(480, 640), (2160, 3840), (1, 1), (3000, 2)])
def test_a_snapshot_fits_a_message_whatever_the_picture(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    boxes = [Box(label="car", cls=1, score=0.9, box=(0.1, 0.1, 0.2, 0.2))] * 100
    made = encode(Reading("frames", T0, picture=noise, index=7), boxes, "m@1")
    assert len(to_bytes(made)) <= MAX_BODY
    assert made.jpeg.startswith(b"\xff\xd8")
    assert math.isclose(made.w / made.h, size[1] / size[0], rel_tol=0.1) or min(size) < 10
    assert made.frame == 7


def test_outlines_make_room_for_the_picture() -> None:
    box = Box(label="x", cls=1, score=0.9, box=(0.1, 0.1, 0.2, 0.2), polygon=[(0.1234, 0.4321)] * 64)
    assert encode(frame(0), [box]).boxes == [box]
    crowded = encode(frame(0), [box] * 100)
    assert len(to_bytes(crowded)) <= MAX_BODY
    assert (len(crowded.boxes), crowded.boxes[0].polygon) == (100, [])


def test_boxes_that_leave_no_room_are_an_error() -> None:
    boxes = [Box(label="x" * 100, cls=1, score=0.9, box=(0.1, 0.1, 0.2, 0.2))] * 1000
    with pytest.raises(SnapshotError, match="1000 boxes leave no room"):
        encode(frame(0), boxes)
