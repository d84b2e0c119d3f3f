"""Crops of a picture: which parts, how many, and where what is found in them is in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from agent.inference.decoders import Result
from agent.pipeline.frames.crops import FIELDS, crops
from agent.pipeline.settings import CropsConfig
from wire.messages import Box

PICTURE = np.arange(100 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 200, 3)


def box(x: float, y: float, w: float, h: float, label: str = "car", **more: object) -> Box:
    return Box(label=label, cls=0, score=0.9, box=(x, y, w, h), **more)  # type: ignore[arg-type]


def test_a_crop_is_a_view_of_the_picture() -> None:
    (crop,) = crops(CropsConfig(of="d"), PICTURE, [box(0.25, 0.5, 0.1, 0.2)])
    assert np.shares_memory(crop.picture, PICTURE)
    assert np.array_equal(crop.picture, PICTURE[50:70, 50:70])
    assert crop.row().keys() == FIELDS.keys()
    assert crop.row()["crop_track"] is None


def test_the_margin_ends_at_the_edge_of_the_picture() -> None:
    (crop,) = crops(CropsConfig(of="d", margin=0.5), PICTURE, [box(0.0, 0.8, 0.2, 0.2)])
    assert crop.picture.shape == (30, 60, 3)
    assert crop.place == (0.0, 0.7, 0.3, 0.3)


def test_the_strongest_of_the_wanted_labels_that_are_large_enough_are_cut_out() -> None:
    boxes = [box(0, 0, 0.5, 0.5, "dog"), box(0, 0, 0.01, 0.5), *[box(0, 0, 0.5, 0.5)] * 9]
    found = list(crops(CropsConfig(of="d", labels=("car",), most=3), PICTURE, boxes))
    assert [crop.number for crop in found] == [2, 3, 4]
    assert list(crops(CropsConfig(of="d"), PICTURE, [])) == []


def test_a_track_is_what_stays_the_same() -> None:
    found = crops(CropsConfig(of="d"), PICTURE, [box(0, 0, 0.5, 0.5, track=7), box(0, 0, 0.5, 0.5)])
    assert [crop.key for crop in found] == [7, -2]


def test_boxes_in_a_crop_have_places_in_the_picture() -> None:
    (crop,) = crops(CropsConfig(of="d"), PICTURE, [box(0.5, 0.5, 0.5, 0.5)])
    inner = box(0.5, 0.0, 0.5, 0.5, "plate", points=[(0.5, 0.5, 1.0)], polygon=[(1.0, 1.0)], area=0.25)
    (placed,) = crop.on_frame(Result({}, [inner])).boxes
    assert placed.box == (0.75, 0.5, 0.25, 0.25)
    assert (placed.points, placed.polygon) == ([(0.75, 0.75, 1.0)], [(1.0, 1.0)])
    assert placed.area == pytest.approx(0.0625)
    assert crop.on_frame(Result({})).boxes == [crop.box], "else it is that of the crop"
