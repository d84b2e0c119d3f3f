"""Frozen cameras are found, and still scenes with sensor noise are not taken for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import av
import numpy as np
import pytest

from adapters.base import Picture
from adapters.camera.frozen import FrozenCheck

LIMIT_S = 30.0
FPS = 5
SIZE = (160, 120)
RNG = np.random.default_rng(7)
SCENE = np.kron(RNG.integers(30, 220, (12, 16, 3), np.uint8), np.ones((10, 10, 1), np.uint8))


def encoded(pictures: int, scene: Callable[[int], Picture], crf: int = 23) -> Iterator[tuple[Picture, int]]:
    """Pictures after an H.264 encoder, with their number of changes; a keyframe every two seconds."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = *SIZE, "yuv420p"
    encoder.framerate, encoder.gop_size = FPS, 2 * FPS
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(crf)}
    decoder = av.CodecContext.create("h264", "r")
    for number in range(pictures):
        frame = av.VideoFrame.from_ndarray(scene(number), format="bgr24")
        frame.pts = number
        for packet in encoder.encode(frame):
            for shown in decoder.decode(packet):
                yield shown.to_ndarray(format="bgr24"), number


def seen(check: FrozenCheck, pictures: Iterator[tuple[Picture, int]]) -> list[bool]:
    return [check.see(picture, changes, number / FPS) for number, (picture, changes) in enumerate(pictures)]


def noisy(sigma: float) -> Callable[[int], Picture]:
    def scene(_: int) -> Picture:
        return np.clip(SCENE + RNG.normal(0, sigma, SCENE.shape), 0, 255).astype(np.uint8)

    return scene


def moving(number: int) -> Picture:
    """Something small that comes again every four seconds."""
    picture = SCENE.copy()
    x = 8 * (number % 20)
    picture[50:60, x : x + 8] = 255
    return picture


@pytest.mark.parametrize(
    ("scene", "crf"),
    [(noisy(1.0), 23), (noisy(2.0), 35), (noisy(4.0), 40), (moving, 23)],
    ids=["noise-1", "noise-2", "noise-4", "moving"],
)
def test_live_pictures_are_not_frozen(scene: Callable[[int], Picture], crf: int) -> None:
    assert not any(seen(FrozenCheck(LIMIT_S, 0.0), encoded(100 * FPS, scene, crf)))


@pytest.mark.parametrize("crf", [18, 23, 35])
def test_the_same_picture_through_an_encoder_is_frozen_and_ends(crf: int) -> None:
    def scene(number: int) -> Picture:
        return SCENE if number < 80 * FPS else moving(number)

    found = seen(FrozenCheck(LIMIT_S, 0.0), encoded(90 * FPS, scene, crf))
    first = found.index(True)
    assert LIMIT_S * FPS <= first <= (LIMIT_S + 20) * FPS
    assert all(found[first : 80 * FPS])
    assert not any(found[82 * FPS :])


def test_a_packet_that_is_sent_again_and_again_is_frozen_whatever_the_decoder_makes_of_it() -> None:
    check = FrozenCheck(LIMIT_S, 0.0)
    found = seen(check, ((noisy(9.0)(0), 1) for _ in range(40 * FPS)))
    assert found.index(True) == LIMIT_S * FPS


def test_equal_pixels_are_frozen() -> None:
    found = seen(FrozenCheck(LIMIT_S, 0.0), ((SCENE, number) for number in range(40 * FPS)))
    assert LIMIT_S * FPS <= found.index(True) <= (LIMIT_S + 2) * FPS
