"""Heads in ONNX files that the test makes: gate, session and decoder give the boxes that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.inference import gate
from agent.inference.package import load_package
from agent.inference.session import Model

SIDE = 64
FRAME = {"kind": "frame", "name": "x", "size": [SIDE, SIDE]}
LABELS = ["person", "car", "dog"]
# of pictures of 128 x 64: the letterbox leaves 16 px above and below
CENTRE, CORNERS = (32, 32, 16, 16), (24, 24, 40, 40)
PLACE = (0.375, 0.25, 0.25, 0.5)


def columns(*numbers: float, head: int = 8) -> NDArray[Any]:
    out = np.zeros((1, len(numbers), 84), np.float32)
    out[0, :, head] = numbers
    return out


def finished(*more: float) -> NDArray[Any]:
    out = np.zeros((1, 40, 6 + len(more)), np.float32)
    out[0, 3] = (*CORNERS, 0.9, 1, *more)
    return out


def lists() -> list[NDArray[Any]]:
    boxes, scores, classes = np.zeros((1, 9, 4)), np.zeros((1, 9)), np.zeros((1, 9))
    boxes[0, 0], scores[0, 0], classes[0, 0] = np.array(CORNERS) / SIDE, 0.9, 1
    return [boxes, scores, classes, np.ones((1, 1))]


def queries() -> list[NDArray[Any]]:
    logits, boxes = np.full((1, 9, 4), -9.0), np.zeros((1, 9, 4))
    logits[0, :, 3] = 9
    logits[0, 4] = np.log((0.03, 0.9, 0.03, 0.04))
    boxes[0, 4] = np.array(CENTRE) / SIDE
    return [logits, boxes]


def masks() -> list[NDArray[Any]]:
    prototypes = np.full((1, 2, 16, 16), -9.0)
    prototypes[0, 0, 6:10, 6:10] = 9
    return [columns(*CENTRE, 0, 0.9, 0, 1, 0), prototypes]


@pytest.mark.parametrize(
    ("outputs", "options"),
    [
        ([columns(*CENTRE, 0, 0.9, 0)], {"head": "yolov8"}),
        ([columns(*CENTRE, 1, 0, 0.9, 0).transpose(0, 2, 1)], {"head": "yolov5"}),
        ([columns(*CENTRE, 1, 0, 0.9, 0)], {"head": "yolov5"}),
        ([finished()], {"head": "end-to-end"}),
        ([finished().transpose(0, 2, 1)], {"head": "end-to-end"}),
        ([finished(32, 32, 0.9)], {"head": "end-to-end", "keypoints": ["nose"]}),
        ([columns(*CENTRE, 0, 0.9, 0, 32, 32, 0.9)], {"head": "yolov8", "keypoints": ["nose"]}),
        (masks(), {"head": "yolov8", "masks": True}),
        (queries(), {"head": "detr"}),
        (lists(), {"head": "ssd"}),
    ],
)
def test_the_box_that_was_written_is_found(
    packages: Any, outputs: list[NDArray[Any]], options: dict[str, Any]
) -> None:
    body = packages.constant(*outputs, shape=(1, 3, SIDE, SIDE))
    output = {"decoder": "detection", "labels": LABELS, "score": 0.5, **options}
    folder: Path = packages.write(body, input=FRAME, output=output)
    package = load_package(folder)
    gate.inspect(package, ["CPUExecutionProvider"])
    result = Model(package).run_frame(np.zeros((64, 128, 3), np.uint8))
    (box,) = result.boxes
    assert box.label == "car"
    assert box.score == pytest.approx(0.9, abs=2e-3)
    assert box.box == pytest.approx(PLACE, abs=1e-3)
    if "keypoints" in options:
        assert (result.values["nose_x"], result.values["nose_y"]) == (0.5, 0.5)
    if "masks" in options:
        assert box.area == pytest.approx(0.125, abs=1e-3)
        assert {tuple(point) for point in box.polygon} == {
            (0.375, 0.25),
            (0.625, 0.25),
            (0.625, 0.75),
            (0.375, 0.75),
        }
