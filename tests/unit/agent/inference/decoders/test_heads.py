"""Heads of other families: boxes, keypoints and masks are those that the test wrote into the outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.inference.decoders import ModelError, Placement, Result, Tensor
from agent.inference.decoders.detection import Detection, DetectionOptions

SIZE = (64, 48)
WHOLE = Placement(0.0, 0.0, 1 / 64, 1 / 48)
LABELS = ["person", "car", "dog"]
BOX = (24 / 64, 18 / 48, 16 / 64, 12 / 48)  # of CENTRE and CORNERS
CENTRE, CORNERS = (32, 24, 16, 12), (24, 18, 40, 30)


def made(head: str, outputs: list[NDArray[Any]], names: tuple[str, ...] = (), **options: Any) -> Detection:
    labels = options.pop("labels", LABELS)
    chosen = DetectionOptions(head=head, labels=labels, score=options.pop("score", 0.5), **options)
    tensors = [
        Tensor(names[at] if names else f"y{at}", str(each.dtype), each.shape)
        for at, each in enumerate(outputs)
    ]
    return Detection(chosen, tensors, SIZE)


def decoded(head: str, *outputs: NDArray[Any], **options: Any) -> Result:
    decoder = made(head, list(outputs), **options)
    assert decoder.doubt(outputs) == ""
    return decoder.decode(outputs, WHOLE)


def only(result: Result) -> tuple[str, float, tuple[float, ...]]:
    (box,) = result.boxes
    return box.label, box.score, box.box


def logit(score: float) -> float:
    return math.log(score / (1 - score))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("logits", [False, True])
def test_yolov5_multiplies_objectness_and_class(turned: bool, logits: bool) -> None:
    out = np.full((1, 63, 8), -20.0 if logits else 0.0, np.float32)
    scores = [0.9, 0.1, 0.8, 0.2]
    out[0, 7] = (*CENTRE, *(map(logit, scores) if logits else scores))
    result = decoded("yolov5", out.transpose(0, 2, 1) if turned else out, sigmoid=logits)
    assert only(result) == ("car", pytest.approx(0.72, abs=1e-3), pytest.approx(BOX, abs=1e-4))


@pytest.mark.parametrize("shape", ["rows", "columns", "no batch", "yolov7"])
def test_finished_detections_are_taken_as_they_are(shape: str) -> None:
    """Boxes that overlap stay: the model itself has removed duplicates."""
    rows = np.zeros((20, 6), np.float32)
    rows[0] = (*CORNERS, 0.9, 1)
    rows[1] = (25, 18, 41, 30, 0.8, 1)
    rows[2] = (*CORNERS, 0.3, 0)  # too weak
    out = {
        "rows": rows[None],
        "columns": rows.T[None],
        "no batch": rows,
        "yolov7": np.concatenate([np.zeros((20, 1), np.float32), rows[:, [0, 1, 2, 3, 5, 4]]], axis=1),
    }[shape]
    result = decoded("end-to-end", out)
    assert [(box.label, box.score) for box in result.boxes] == [("car", 0.9), ("car", 0.8)]
    assert result.boxes[0].box == pytest.approx(BOX, abs=1e-4)
    assert len(decoded("end-to-end", out, nms="class").boxes) == 1


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "shares", "one output"])
def test_detr_reads_logits_and_boxes_as_shares(kind: str) -> None:
    boxes = np.zeros((1, 20, 4), np.float32)
    boxes[0, 5] = (0.5, 0.5, 0.25, 0.25)
    scores = np.zeros((1, 20, 3), np.float32)
    scores[0, 5] = (0.1, 0.2, 0.7)
    if kind == "softmax":
        nothing = np.zeros((1, 20, 4), np.float32)
        nothing[0, :, 3] = 9
        nothing[0, 5] = np.log((0.08, 0.12, 0.7, 0.1))
        result = decoded("detr", nothing, boxes)
    elif kind == "sigmoid":
        raw = np.full((1, 20, 3), -9, np.float32)
        raw[0, 5] = [logit(0.1), logit(0.2), logit(0.7)]
        result = decoded("detr", boxes, raw, sigmoid=True)  # the order of the outputs does not matter
    elif kind == "shares":
        result = decoded("detr", scores, boxes)
    else:
        result = decoded("detr", np.concatenate([boxes, scores], axis=2))
    assert only(result) == ("dog", pytest.approx(0.7, abs=1e-3), pytest.approx((0.375, 0.375, 0.25, 0.25)))


@pytest.mark.parametrize("kind", ["tensorflow", "tensorrt", "torchvision", "openvino"])
def test_ssd_reads_lists(kind: str) -> None:
    shares = np.array(CORNERS, np.float32) / (64, 48, 64, 48)
    scores = np.zeros((1, 20), np.float32)
    scores[0, :3] = (0.9, 0.2, 0.95)  # the third is beyond the number of boxes
    classes = np.zeros((1, 20), np.float32)
    classes[0, 0] = 2
    boxes = np.zeros((1, 20, 4), np.float32)
    boxes[0, 2] = (0, 0, 1, 1)
    if kind == "tensorflow":
        boxes[0, 0] = shares[[1, 0, 3, 2]]
        names = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
        result = decoded("ssd", boxes, classes, scores, np.float32([2]), names=names, box="corners-yx")
    elif kind == "tensorrt":
        boxes[0, 0] = CORNERS
        result = decoded("ssd", np.int32([[2]]), boxes, scores, classes.astype(np.int32), unit="pixels")
    elif kind == "torchvision":
        boxes[0, 0] = CORNERS
        result = decoded("ssd", boxes[0, :2], classes[0, :2].astype(np.int64), scores[0, :2], unit="pixels")
    else:
        table = np.zeros((1, 1, 5, 7), np.float32)
        table[0, 0, 0] = (0, 2, 0.9, *shares)
        table[0, 0, 1:, 0] = -1
        table[0, 0, 1:, 2:] = 1
        result = decoded("ssd", table)
    assert only(result) == ("dog", 0.9, pytest.approx(BOX, abs=1e-4))


def test_a_head_can_have_other_boxes_than_usual() -> None:
    out = np.zeros((1, 7, 63), np.float32)
    out[0, :, 17] = (*(np.array(CORNERS) / (64, 48, 64, 48)), 0.7, 0.1, 0.2)
    result = decoded("yolov8", out, box="corners", unit="shares")
    assert only(result) == ("person", 0.7, pytest.approx(BOX, abs=1e-4))


def test_suppression_can_look_at_all_classes() -> None:
    out = np.zeros((1, 7, 63), np.float32)
    out[0, :, 0] = (*CENTRE, 0.7, 0, 0)
    out[0, :, 1] = (*CENTRE, 0, 0.9, 0)
    found = {nms: len(decoded("yolov8", out, nms=nms).boxes) for nms in ("class", "agnostic", "none")}
    assert found == {"class": 2, "agnostic": 1, "none": 2}


@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("head", ["yolov8", "end-to-end"])
def test_keypoints_are_points_of_the_box_and_fields(head: str, numbers: int) -> None:
    points = [(32.0, 24.0, 0.9), (16.0, 12.0, 0.3)]
    flat = [each for point in points for each in point[:numbers]]
    if head == "yolov8":
        out = np.zeros((1, 7 + len(flat), 63), np.float32)
        out[0, :, 4] = (*CENTRE, 0.9, 0, 0, *flat)
        out[0, :, 9] = (10, 10, 8, 8, 0.8, 0, 0, *flat)  # a weaker box gives no field
    else:
        out = np.zeros((1, 40, 6 + len(flat)), np.float32)
        out[0, 4] = (*CORNERS, 0.9, 0, *flat)
    result = decoded(head, out, keypoints=["nose", "left eye"])
    found = result.boxes[0].points
    assert found == [
        (0.5, 0.5, 0.9 if numbers == 3 else 1.0),
        (0.25, 0.25, 0.3 if numbers == 3 else 1.0),
    ]
    sure = numbers == 2
    assert result.values["nose_x"] == result.values["nose_y"] == 0.5
    assert (result.values["left_eye_x"], result.values["left_eye_y"]) == (
        (0.25, 0.25) if sure else (None, None)
    )


def test_keypoints_follow_the_letterbox() -> None:
    out = np.zeros((1, 10, 63), np.float32)
    out[0, :, 0] = (32, 24, 16, 12, 0.9, 0, 0, 8, 0, 0.9)
    result = made("yolov8", [out], keypoints=["nose"]).decode([out], Placement(8.0, 0.0, 1 / 48, 1 / 48))
    assert result.boxes[0].points == [(0.0, 0.0, 0.9)]


def masked(**options: Any) -> Result:
    """A box of the whole input; its mask is 4 x 6 of 12 x 16 cells, an L-shaped one, beside another box's."""
    prototypes = np.full((1, 2, 12, 16), -5.0, np.float32)
    prototypes[0, 0, 2:6, 4:10] = 5
    prototypes[0, 0, 2:4, 4:7] = -5
    prototypes[0, 1, 8:12, 12:16] = 5
    out = np.zeros((1, 9, 63), np.float32)
    out[0, :, 0] = (32, 24, 64, 48, 0.9, 0, 0, 1, 0)
    out[0, :, 1] = (56, 40, 16, 16, 0, 0.8, 0, 0, 1)
    return decoded("yolov8", out, prototypes, masks=True, **options)


def test_masks_give_areas_and_outlines() -> None:
    result = masked()
    first, second = result.boxes
    assert first.area == pytest.approx((24 - 6) / 192, abs=1e-4)
    assert second.area == pytest.approx(16 / 192, abs=1e-4)
    assert (result.values["person_area"], result.values["car_area"]) == (first.area, second.area)
    assert result.values["dog_area"] == 0.0
    square = {(0.75, round(8 / 12, 4)), (1.0, round(8 / 12, 4)), (1.0, 1.0), (0.75, 1.0)}
    assert set(second.polygon) == square
    assert len(first.polygon) >= 6
    assert polygon_area(first.polygon) == pytest.approx(18 / 192, rel=0.15)
    assert masked(polygon=0).boxes[0].polygon == []


def polygon_area(points: list[tuple[float, float]]) -> float:
    x, y = np.array(points).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def test_outlines_are_bounded_however_ragged_a_mask_is() -> None:
    rng = np.random.default_rng(3)
    prototypes = rng.normal(0, 5, (1, 2, 160, 160)).astype(np.float32)
    out = np.zeros((1, 9, 63), np.float32)
    out[0, :4] = np.array([32, 24, 64, 48])[:, None]
    out[0, 4] = 0.9
    out[0, 7:] = rng.normal(0, 1, (2, 63))
    result = decoded("yolov8", out, prototypes, masks=True, nms="none", polygon=64)
    assert len(result.boxes) == 63
    assert sum(len(box.polygon) for box in result.boxes) <= 1200


@pytest.mark.parametrize(
    ("head", "shapes", "options", "reason"),
    [
        ("yolov5", [(1, 63, 7)], {}, "head yolov5 with 3 labels reads"),
        ("end-to-end", [(1, 63, 7)], {}, "head end-to-end with 3 labels reads"),
        ("yolov8", [(1, 12, 63)], {"keypoints": ["a", "b"]}, "reads \\[1, 11, n\\] or \\[1, 13, n\\]"),
        ("yolov8", [(1, 9, 63)], {"masks": True}, "needs a second output"),
        ("yolov8", [(1, 9, 63), (1, 3, 8, 8)], {"masks": True}, "reads \\[1, 10, n\\]"),
        ("yolov8", [(1, 9, 63), (1, 2, 8, 8)], {"masks": True, "keypoints": ["a"]}, "not both"),
        ("detr", [(1, 20, 5), (1, 20, 4)], {}, "head detr with 3 labels reads"),
        ("detr", [(1, 20, 3)], {}, "head detr with 3 labels reads"),
        ("ssd", [(1, 20, 4), (1, 20)], {}, "head ssd reads boxes"),
        ("fastestdet", [(1, 8, 6, 8)], {"sigmoid": True}, "output.sigmoid: the head fastestdet"),
        ("ulface", [(1, 9, 4), (1, 9, 4)], {"keypoints": ["a"]}, "output.keypoints: the head ulface"),
        ("yolov8", [(1, 13, 63)], {"keypoints": ["a", "A"]}, "as another label does"),
        (
            "yolov8",
            [(1, 9, 63), (1, 2, 8, 8)],
            {"masks": True, "labels": ["a", "a area", "b"]},
            "clashes with a field",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    head: str, shapes: list[tuple[int, ...]], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        made(head, [np.zeros(shape, np.float32) for shape in shapes], **options)


def finished(cls: float, score: float = 0.9) -> list[NDArray[Any]]:
    return [np.tile(np.float32([*CORNERS, score, cls]), (1, 30, 1))]


@pytest.mark.parametrize(
    ("head", "outputs", "options", "reason"),
    [
        ("end-to-end", finished(7), {}, "3 are given, and the model finds the class 7"),
        ("end-to-end", finished(1e9), {}, "3 are given, and the model finds the class 1000000000"),
        ("end-to-end", finished(0.5), {}, "reads the number of a class, and finds 0.5"),
        ("end-to-end", finished(1, 40.0), {}, "reads scores from 0 to 40"),
        ("end-to-end", [np.tile(np.float32([0.1, 0.1, 0.6, 0.6, 0.9, 1]), (1, 30, 1))], {}, "unit: shares"),
        ("yolov5", [np.full((1, 63, 8), -4.0, np.float32)], {}, "sigmoid: true"),
        ("yolov5", [np.full((1, 63, 8), 0.5, np.float32)], {"sigmoid": True}, "leave it out"),
        ("yolov8", [np.full((1, 7, 63), 0.5, np.float32)], {}, "unit: shares"),
        (
            "detr",
            [np.zeros((1, 20, 3), np.float32), np.full((1, 20, 4), 300.0, np.float32)],
            {},
            "unit: pixels",
        ),
        (
            "ssd",
            [np.zeros((1, 9, 4), np.float32), np.zeros((1, 9), np.float32), np.full((1, 9), 91, np.int64)],
            {},
            "finds the class 91",
        ),
    ],
)
def test_a_head_is_doubted(
    head: str, outputs: list[NDArray[Any]], options: dict[str, Any], reason: str
) -> None:
    doubt = made(head, outputs, **options).doubt(outputs)
    assert reason in doubt
    assert "\n" not in doubt


HOSTILE = (0.0, 0.9, -1.0, 1e9, 3e38, math.inf, -math.inf, math.nan)
OF_HEADS: dict[str, tuple[list[tuple[int, ...]], dict[str, Any]]] = {
    "yolov5": ([(1, 63, 8)], {"sigmoid": True}),
    "end-to-end": ([(1, 63, 12)], {"keypoints": ["a", "b"]}),
    "yolov8": ([(1, 9, 63), (1, 2, 12, 16)], {"masks": True, "nms": "none"}),
    "detr": ([(1, 63, 4), (1, 63, 4)], {}),
    "ssd": ([(1, 63, 4), (1, 63), (1, 63), (1,)], {"unit": "pixels"}),
}


@pytest.mark.parametrize("head", OF_HEADS)
@pytest.mark.parametrize("seed", range(8))
def test_any_numbers_give_bounded_results(head: str, seed: int) -> None:
    shapes, options = OF_HEADS[head]
    rng = np.random.default_rng(seed)
    outputs = [rng.choice(HOSTILE, shape).astype(np.float32) for shape in shapes]
    decoder = made(head, outputs, score=0.01, **options)
    assert isinstance(decoder.doubt(outputs), str)
    result = decoder.decode(outputs, WHOLE)
    assert result.values.keys() == decoder.fields().keys()
    assert result.values["n"] == len(result.boxes) <= 100
    for box in result.boxes:
        x, y, w, h = box.box
        assert 0 <= x < x + w <= 1.0001
        assert 0 <= y < y + h <= 1.0001
        assert 0.01 <= box.score <= 1
        assert all(0 <= number <= 1 for point in (*box.points, *box.polygon) for number in point)


def test_a_million_finished_detections_take_the_strongest() -> None:
    out = np.tile(np.float32([*CORNERS, 0.6, 1]), (1, 1_000_000, 1))
    out[0, 777_777] = (0, 0, 8, 8, 0.95, 2)
    result = decoded("end-to-end", out)
    assert (result.top, len(result.boxes)) == ("dog", 100)
