"""The street scene: a pure function of (seed, index) whose number survives a camera's compression."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from simulators.plants.scene import LABELS, Scene, stamp


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(12)


def test_a_picture_depends_on_seed_and_index_alone(scene: Scene) -> None:
    forwards = [scene.frame(i) for i in (3, 400)]
    again = Scene(12)
    backwards = [again.frame(i) for i in (400, 3)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not np.array_equal(forwards[0], Scene(13).frame(3))


def test_neighbouring_pictures_move_a_little(scene: Scene) -> None:
    moved = cv2.absdiff(scene.frame(20), scene.frame(21)).max(axis=2) > 40
    assert 0.0005 < moved.mean() < 0.2


@pytest.mark.parametrize("index", [0, 1, 4711, 2**32 - 1])
@pytest.mark.parametrize("size", [(640, 480), (320, 240), (1280, 720)])
def test_the_number_survives_jpeg_at_quality_70(index: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(index)
    picture = stamp(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8), index)
    ok, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 70])
    assert ok
    assert Scene.read_number(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) == index


def test_the_number_survives_scaling(scene: Scene) -> None:
    small = cv2.resize(scene.frame(99), (320, 240), interpolation=cv2.INTER_AREA)
    assert Scene.read_number(small) == 99


@pytest.mark.parametrize("picture", [np.full((480, 640, 3), 128, np.uint8), np.zeros((4, 4, 3), np.uint8)])
def test_a_picture_without_a_number_says_so(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="number"):
        Scene.read_number(picture)


def test_a_damaged_number_does_not_pass(scene: Scene) -> None:
    picture = scene.frame(5)
    picture[8:16, 8:16] = 255 - picture[8:16, 8:16]
    with pytest.raises(ValueError, match="checksum"):
        Scene.read_number(picture)


def test_truth_is_what_is_drawn(scene: Scene) -> None:
    """Between two pictures, pixels change inside the boxes of one of them, hardly elsewhere."""
    first, second = 30, 36
    changed = cv2.absdiff(scene.frame(first), scene.frame(second)).max(axis=2) > 60
    changed[:32] = False  # the number
    inside = np.zeros(changed.shape, bool)
    boxes = scene.truth(first) + scene.truth(second)
    assert boxes
    for label, x, y, w, h in boxes:
        assert label in LABELS
        assert x >= 0
        assert y >= 0
        assert x + w <= 640
        assert y + h <= 480
        inside[int(y) - 2 : int(y + h) + 3, int(x) - 4 : int(x + w) + 5] = True
    assert (changed & inside).sum() > 5 * (changed & ~inside).sum()


def test_counts_are_those_of_the_truth_and_vary(scene: Scene) -> None:
    seen = [scene.counts(i) for i in range(0, 600, 20)]
    assert all(set(counts) == set(LABELS) for counts in seen)
    assert scene.counts(40)["car"] == sum(label == "car" for label, *_ in scene.truth(40))
    assert len({counts["person"] for counts in seen}) > 2
    assert len({counts["car"] for counts in seen}) > 2


@pytest.mark.parametrize("arguments", [{"width": 10}, {"height": 100_000}, {"fps": 0}])
def test_impossible_scenes_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="possible"):
        Scene(1, **arguments)
