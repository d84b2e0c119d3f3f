"""Maps become areas and outlines, compared with what the test drew."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.inference.decoders import ModelError, Placement, Tensor
from agent.inference.decoders.regions import Regions, RegionsOptions
from agent.inference.decoders.testing import DecoderContract

SIZE = (64, 48)
WHOLE = Placement(0.0, 0.0, 1 / 64, 1 / 48)


def made(output: NDArray[Any], **options: Any) -> Regions:
    return Regions(
        RegionsOptions(**{"labels": ["road"], **options}),
        [Tensor("y", str(output.dtype), output.shape)],
        SIZE,
    )


def drawn() -> NDArray[Any]:
    """12 x 16 cells of 4 px: a square of 4 x 4 at 0.9, and one of 2 x 2 at 0.6."""
    out = np.zeros((1, 1, 12, 16), np.float32)
    out[0, 0, 2:6, 4:8] = 0.9
    out[0, 0, 9:11, 12:14] = 0.6
    return out


class TestRegionsOfOneLabel(DecoderContract):
    decoder = Regions
    good_options: ClassVar = {"labels": ["road"]}
    bad_options: ClassVar = [
        ({"labels": []}, "1 to 256 labels"),
        ({"labels": ["n"]}, "clashes with a field"),
        ({"labels": ["road"], "alarm": ["sea"]}, "'sea' is not one of the labels"),
    ]
    outputs: ClassVar = [Tensor("map", "float32", (1, 1, 12, 16))]
    bad_outputs: ClassVar = [([Tensor("map", "float32", (1, 5))], "check output.labels")]
    size = SIZE
    placement = WHOLE
    examples: ClassVar = [([drawn()], {"n": 2, "road": 20 / 192})]


class TestRegionsOfClasses(DecoderContract):
    decoder = Regions
    good_options: ClassVar = {"labels": ["road", "grass"], "background": True, "alarm": ["grass"]}
    bad_options: ClassVar = []
    outputs: ClassVar = [Tensor("map", "float32", (-1, 3, -1, -1))]
    bad_outputs: ClassVar = [([Tensor("map", "float32", (1, 4, 12, 16))], "3 classes are a map")]
    size = SIZE
    placement = WHOLE
    examples: ClassVar = [
        (
            [np.eye(3, dtype=np.float32)[:, None, :][None]],
            {"n": 2, "road": 1 / 3, "grass": 1 / 3, "alarm": True},
        )
    ]


@pytest.mark.parametrize("shape", [(1, 12, 16), (12, 16), (1, 12, 16, 1)])
def test_a_map_of_probabilities_gives_regions(shape: tuple[int, ...]) -> None:
    out = drawn().reshape(shape)
    result = made(out).decode([out], WHOLE)
    large, small = result.boxes
    assert large.box == pytest.approx((0.25, 2 / 12, 0.25, 4 / 12), abs=1e-4)
    assert (large.score, large.area) == (0.9, pytest.approx(16 / 192, abs=1e-4))
    assert set(large.polygon) == {(0.25, 0.1667), (0.5, 0.1667), (0.5, 0.5), (0.25, 0.5)}
    assert small.area == pytest.approx(4 / 192, abs=1e-4)
    assert len(made(out, score=0.7).decode([out], WHOLE).boxes) == 1
    assert len(made(out, least_area=0.05).decode([out], WHOLE).boxes) == 1


@pytest.mark.parametrize("last", [False, True])
def test_of_several_classes_the_largest_wins(last: bool) -> None:
    out = np.zeros((1, 3, 12, 16), np.float32)
    out[0, 0] = 5.0  # logits: nothing
    out[0, 2, :, 8:] = 7.0
    out[0, 1, 0, 0] = math.nan  # a cell without a class
    given = out.transpose(0, 2, 3, 1) if last else out
    result = made(given, labels=["road", "grass"], background=True).decode([given], WHOLE)
    assert result.values == {"n": 1, "road": 0.0, "grass": 0.5}
    assert result.top == "grass"


def test_a_map_of_classes_is_read() -> None:
    out = np.zeros((1, 12, 16), np.int64)
    out[0, :3] = 1
    result = made(out, labels=["sky", "sea"]).decode([out], WHOLE)
    assert result.values == {"n": 2, "sky": 0.75, "sea": 0.25}
    out[0, 0, 0] = 9
    assert "the map has the class 9" in made(out, labels=["sky", "sea"]).doubt([out])


def test_cells_can_have_several_labels() -> None:
    out = np.full((1, 2, 12, 16), -9.0, np.float32)
    out[0, 0, :6] = out[0, 1, 3:9] = 9.0
    result = made(out, labels=["road", "wet"], multi=True, sigmoid=True).decode([out], WHOLE)
    assert result.values == {"n": 2, "road": 0.5, "wet": 0.5}


def test_padding_does_not_count_and_places_follow_the_letterbox() -> None:
    out = np.ones((1, 1, 12, 16), np.float32)
    result = made(out).decode([out], Placement(8.0, 0.0, 1 / 48, 1 / 48))
    assert result.values["road"] == 1.0
    assert result.boxes[0].box == (0.0, 0.0, 1.0, 1.0)


def test_of_a_cropped_picture_the_share_is_of_the_whole_one() -> None:
    out = np.ones((1, 1, 12, 16), np.float32)
    result = made(out).decode([out], Placement(-32.0, 0.0, 1 / 128, 1 / 48))  # the middle half
    assert result.values["road"] == 0.5
    assert result.boxes[0].box == (0.25, 0.0, 0.5, 1.0)


def test_regions_grow_as_text_does() -> None:
    out = np.zeros((1, 1, 48, 64), np.float32)
    out[0, 0, 20:28, 20:44] = 0.9  # 8 x 24 px: grows by 8 * 24 * 1.5 / (2 * 32) = 4.5
    result = made(out, grow=1.5).decode([out], WHOLE)
    assert result.boxes[0].box == pytest.approx((16 / 64, 16 / 48, 32 / 64, 16 / 48), abs=1e-3)
    assert result.values["road"] == pytest.approx(8 * 24 / (48 * 64), abs=1e-4)


def test_logits_are_doubted() -> None:
    out = np.full((1, 1, 12, 16), -4.0, np.float32)
    assert "sigmoid: true" in made(out).doubt([out])
    assert made(out, sigmoid=True).doubt([out]) == ""


def test_a_ragged_map_gives_bounded_regions() -> None:
    rng = np.random.default_rng(5)
    out = rng.random((1, 1, 480, 640)).astype(np.float32)
    decoder = Regions(
        RegionsOptions(labels=["road"], least_area=0, polygon=64, threshold=0.6),
        [Tensor("y", "float32", out.shape)],
        (640, 480),
    )
    result = decoder.decode([out], Placement(0.0, 0.0, 1 / 640, 1 / 480))
    assert len(result.boxes) == 100
    assert sum(len(box.polygon) for box in result.boxes) <= 1200


def test_a_map_beyond_the_limit_is_refused() -> None:
    out = np.zeros((1, 1, 2048, 1024), np.float32)
    with pytest.raises(ModelError, match="are allowed"):
        made(out).decode([out], WHOLE)
