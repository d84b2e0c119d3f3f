"""Things keep their numbers as with ByteTrack of supervision 0.27 for the same boxes, and have limits."""

from __future__ import annotations

import numpy as np
import pytest

from agent.inference.scene_options import TrackConfig
from agent.pipeline.frames.tracking import Tracker, overlaps
from wire.clock import NS_PER_S
from wire.messages import Box

WIDTH, HEIGHT = 640, 480
FRAME_NS = NS_PER_S // 30


def box(x0: float, y0: float, x1: float, y1: float, cls: int = 0, score: float = 0.9) -> Box:
    at = (x0 / WIDTH, y0 / HEIGHT, (x1 - x0) / WIDTH, (y1 - y0) / HEIGHT)
    return Box(label=f"label {cls}", cls=cls, score=score, box=at)


def drawn(seed: int) -> list[list[tuple[int, Box]]]:
    """40 pictures of six things that move, with noise; some are out of sight for three pictures."""
    rng = np.random.default_rng(seed)
    start = np.stack([rng.uniform(50, 500, 6), np.linspace(30, 400, 6)], 1)
    speed = np.stack([rng.uniform(-4, 4, 6), rng.uniform(-1, 1, 6)], 1)
    size = np.stack([rng.uniform(40, 70, 6), rng.uniform(40, 60, 6)], 1)
    pictures = []
    for k in range(40):
        boxes = []
        for i in range(6):
            if (seed + i) % 3 == 0 and 15 <= k < 18:
                continue
            x, y = start[i] + speed[i] * k + rng.normal(0, 0.6, 2)
            w, h = size[i] / 2
            boxes.append((i, box(x - w, y - h, x + w, y + h)))
        pictures.append(boxes)
    return pictures


@pytest.mark.parametrize("seed", range(4))
def test_each_thing_keeps_its_number_as_with_bytetrack(seed: int) -> None:
    """ByteTrack numbers the six things 1 to 6 in all 40 pictures, also after they were out of sight."""
    tracker = Tracker(TrackConfig(hits=1))
    for k, picture in enumerate(drawn(seed)):
        tracker.update([each for _, each in picture], k * FRAME_NS)
        assert [each.track for _, each in picture] == [i + 1 for i, _ in picture], f"picture {k}"


def test_things_that_pass_each_other_keep_their_numbers_as_with_bytetrack() -> None:
    tracker = Tracker(TrackConfig(hits=1))
    for k in range(41):
        right, left = 100 + 5 * k, 300 - 5 * k
        boxes = [box(right - 25, 70, right + 25, 130), box(left - 25, 82, left + 25, 142)]
        tracker.update(boxes, k * FRAME_NS)
        assert [each.track for each in boxes] == [1, 2], f"picture {k}"


def test_a_number_comes_after_some_pictures_and_ends_with_its_thing() -> None:
    tracker = Tracker(TrackConfig(hits=3, keep_s=0.5))
    given = []
    for k in (0, 1, 2, 3, 40, 41, 42):  # away for more than half a second
        here = box(100, 100, 150, 150)
        tracker.update([here], k * FRAME_NS)
        given.append(here.track)
    assert [each if isinstance(each, int) else 0 for each in given] == [0, 0, 1, 1, 0, 0, 2]


def test_another_label_is_another_thing_and_a_weak_box_begins_none() -> None:
    tracker = Tracker(TrackConfig(hits=1, start=0.6))
    first = [box(100, 100, 150, 150), box(100, 100, 150, 150, cls=1), box(300, 300, 350, 350, score=0.4)]
    tracker.update(first, 0)
    again = [box(100, 100, 150, 150, cls=1, score=0.4), box(102, 100, 152, 150, score=0.4)]
    tracker.update(again, FRAME_NS)
    assert [each.track for each in first[:2]] == [1, 2]
    assert not isinstance(first[2].track, int)
    assert [each.track for each in again] == [2, 1], "a weak box continues a track"


def test_a_clock_that_was_set_back_begins_again() -> None:
    tracker = Tracker(TrackConfig(hits=1))
    for at_ns in (10 * NS_PER_S, 5 * NS_PER_S):
        here = box(100, 100, 150, 150)
        tracker.update([here], at_ns)
    assert here.track == 2


def test_the_number_of_tracks_has_a_limit() -> None:
    rng = np.random.default_rng(1)
    tracker = Tracker(TrackConfig(hits=1, keep_s=60))
    for k in range(8):
        corners = rng.uniform(0, 400, (300, 2))
        tracker.update([box(x, y, x + 5, y + 5) for x, y in corners.tolist()], k * FRAME_NS)
    assert len(tracker.tracks) == 600


def test_overlaps_of_boxes() -> None:
    left = np.array([[0.0, 0, 2, 2], [0, 0, 0, 0]])
    right = np.array([[1.0, 0, 3, 2], [5, 5, 6, 6], [0, 0, 0, 0]])
    assert overlaps(left, right) == pytest.approx(np.array([[1 / 3, 0, 0], [0, 0, 0]]))
