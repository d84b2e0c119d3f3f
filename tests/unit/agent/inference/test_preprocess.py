"""Tensors of pictures and windows, compared with a plain implementation."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from agent.inference.decoders import ModelError
from agent.inference.inputs import FrameInput, WindowInput
from agent.inference.preprocess import FrameTensor, WindowTensor


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (120, 200, 3), dtype=np.uint8)


def spec(**changes: Any) -> FrameInput:
    return FrameInput(**{"kind": "frame", "name": "x", "size": (64, 48), **changes})


def plainly(picture: np.ndarray, found: FrameInput) -> np.ndarray:
    width, height = found.size
    fitted = np.full((height, width, 3), found.pad, np.uint8)
    new = (width, height)
    at = (0, 0)
    if found.fit == "letterbox":
        ratio = min(width / picture.shape[1], height / picture.shape[0])
        new = (round(picture.shape[1] * ratio), round(picture.shape[0] * ratio))
        if found.place == "centre":
            at = ((width - new[0]) // 2, (height - new[1]) // 2)
    fitted[at[1] : at[1] + new[1], at[0] : at[0] + new[0]] = cv2.resize(picture, new)
    if found.colour == "grey":
        fitted = cv2.cvtColor(fitted, cv2.COLOR_BGR2GRAY)[..., None]
    elif found.colour == "rgb":
        fitted = fitted[..., ::-1]
    x = (fitted / found.scale - np.array(found.mean or 0.0)) / np.array(found.std or 1.0)
    return (x.transpose(2, 0, 1) if found.layout == "nchw" else x)[None]


@pytest.mark.parametrize("colour", ["bgr", "rgb", "grey"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("fit", [("stretch", "centre"), ("letterbox", "centre"), ("letterbox", "corner")])
def test_a_tensor_follows_the_formula(
    picture: np.ndarray, colour: str, layout: str, fit: tuple[str, str]
) -> None:
    numbers = (
        {"mean": [0.4], "std": [0.2]}
        if colour == "grey"
        else {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}
    )
    found = spec(colour=colour, layout=layout, fit=fit[0], place=fit[1], **numbers)
    tensor = FrameTensor(found)
    tensor.fill(picture)
    assert tensor.tensor.shape == found.shape
    np.testing.assert_allclose(tensor.tensor, plainly(picture, found), atol=2e-5)


def test_pictures_of_changing_size_leave_no_trace_of_each_other(picture: np.ndarray) -> None:
    found = spec(fit="letterbox")
    tensor = FrameTensor(found)
    for shown in (picture, picture[:, :50], picture[:48, :64], picture):
        tensor.fill(shown)
        np.testing.assert_allclose(tensor.tensor, plainly(shown, found), atol=2e-6)


@pytest.mark.parametrize("fit", [("stretch", "centre"), ("letterbox", "centre"), ("letterbox", "corner")])
def test_the_placement_leads_back_to_the_picture(fit: tuple[str, str]) -> None:
    picture = np.zeros((120, 200, 3), np.uint8)
    picture[30:60, 50:100] = 255
    found = spec(fit=fit[0], place=fit[1], pad=0)
    tensor = FrameTensor(found)
    place = tensor.fill(picture)
    rows, columns = np.nonzero(tensor.tensor[0, 0] > 0.5)
    left, right = ((x - place.offset_x) * place.scale_x for x in (columns.min(), columns.max() + 1))
    top, low = ((y - place.offset_y) * place.scale_y for y in (rows.min(), rows.max() + 1))
    assert (left, right, top, low) == pytest.approx((0.25, 0.5, 0.25, 0.5), abs=0.02)


def test_the_picture_is_left_as_it_was(picture: np.ndarray) -> None:
    kept = picture.copy()
    for found in (spec(size=(200, 120)), spec(colour="bgr", layout="nhwc"), spec(colour="grey")):
        FrameTensor(found).fill(picture)
    np.testing.assert_array_equal(picture, kept)


def test_bytes_go_in_as_bytes(picture: np.ndarray) -> None:
    tensor = FrameTensor(spec(size=(200, 120), colour="rgb", layout="nhwc"), "uint8")
    tensor.fill(picture)
    np.testing.assert_array_equal(tensor.tensor[0], picture[..., ::-1])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
        np.zeros((9, 9, 3)),
    ],
)
def test_an_array_that_is_not_a_picture_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ModelError, match="a picture of"):
        FrameTensor(spec()).fill(wrong)


@pytest.mark.parametrize("shape", [(1, 16_384, 3), (16_384, 1, 3)])
def test_a_picture_of_the_longest_side_is_taken_and_a_longer_one_refused(shape: tuple[int, int, int]) -> None:
    tensor = FrameTensor(spec())
    tensor.fill(np.full(shape, 255, np.uint8))
    np.testing.assert_array_equal(tensor.tensor, 1)
    longer = tuple(side + (side > 3) for side in shape)
    with pytest.raises(ModelError, match=f"a picture of shape .*{max(longer)}"):
        tensor.fill(np.zeros(longer, np.uint8))


@pytest.mark.parametrize("layout", ["time-signal", "signal-time", "flat"])
def test_a_window_is_scaled_by_signal(layout: str) -> None:
    found = WindowInput(
        kind="window",
        name="x",
        signals=["a", "b"],
        rate_hz=1,
        length=3,
        mean=[1, 10],
        std=[2, 5],
        layout=layout,
    )
    tensor = WindowTensor(found)
    window = np.array([[1, 10], [3, 15], [5, 20]], np.float32)
    tensor.fill(window)
    wanted = np.array([[0, 0], [1, 1], [2, 2]], np.float32)
    shaped = {"time-signal": wanted, "signal-time": wanted.T, "flat": wanted.reshape(-1)}[layout]
    np.testing.assert_allclose(tensor.tensor[0], shaped)
    with pytest.raises(ModelError, match="a window of shape"):
        tensor.fill(window[:2])


@pytest.mark.parametrize(
    ("resize", "wide", "high", "scaled"),
    [
        ([], 80, 40, (64, 32)),
        ([48], 80, 40, (96, 48)),
        ([40, 40], 80, 40, (40, 40)),
        ([], 20, 60, (32, 96)),
        ([], 63, 33, (61, 32)),
    ],
)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_the_centre_is_cut_out(
    resize: list[int], wide: int, high: int, scaled: tuple[int, int], layout: str, colour: str
) -> None:
    """Beside cv2.resize and a slice."""
    picture = np.random.default_rng(1).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    spec = FrameInput(
        kind="frame", name="x", size=(32, 32), fit="crop", resize=resize, layout=layout, colour=colour
    )
    frames = FrameTensor(spec)
    place = frames.fill(picture)
    left, top = (scaled[0] - 32) // 2, (scaled[1] - 32) // 2
    cut = cv2.resize(picture, scaled)[top : top + 32, left : left + 32] / 255
    cut = cut[:, :, ::-1] if colour == "rgb" else cut
    assert frames.tensor[0] == pytest.approx(cut.transpose(2, 0, 1) if layout == "nchw" else cut, abs=1e-6)
    # the middle of the tensor is the middle of the picture
    middle = (16 - place.offset_x) * place.scale_x, (16 - place.offset_y) * place.scale_y
    assert middle == pytest.approx((0.5, 0.5), abs=0.02)


def test_a_thread_of_a_picture_has_no_centre_to_cut_out() -> None:
    frames = FrameTensor(FrameInput(kind="frame", name="x", size=(320, 320), fit="crop"))
    with pytest.raises(ModelError, match="too long and thin"):
        frames.fill(np.zeros((16_000, 2, 3), np.uint8))
