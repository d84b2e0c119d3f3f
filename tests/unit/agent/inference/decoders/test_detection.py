"""Detection heads, compared with values computed by hand, and fed with any numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.inference.decoders import ModelError, Placement, Result, Tensor
from agent.inference.decoders.detection import Detection, DetectionOptions, suppress
from agent.inference.decoders.heads import HEADS

SIZE = (64, 48)
WHOLE = Placement(0.0, 0.0, 1 / 64, 1 / 48)
LABELS = ["person", "car", "traffic light"]
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "fastestdet": [(1, 8, 6, 8)],
    "yolox": [(1, 8 * 6 + 4 * 3 + 2 * 1, 8)],
    "yolov8": [(1, 7, 63)],
    "ulface": [(1, 40, 4), (1, 40, 4)],
    "yolov5": [(1, 63, 8)],
    "end-to-end": [(1, 30, 6)],
    "detr": [(1, 20, 4), (1, 20, 4)],
    "ssd": [(1, 20, 4), (1, 20), (1, 20), (1,)],
}


def test_every_head_is_tested_here() -> None:
    assert SHAPES.keys() == HEADS.keys()


def detection(head: str, **options: Any) -> Detection:
    chosen = DetectionOptions(**{"head": head, "labels": LABELS, "score": 0.5, **options})
    return Detection(chosen, [Tensor(f"y{i}", "float32", s) for i, s in enumerate(SHAPES[head])], SIZE)


def box_of(result: Result) -> tuple[float, ...]:
    assert len(result.boxes) == 1
    return result.boxes[0].box


def test_fastestdet_reads_a_cell() -> None:
    out = np.zeros((1, 8, 6, 8), np.float32)
    out[0, 0, 2, 3] = 0.9  # row 2, column 3
    out[0, 1:5, 2, 3] = (np.arctanh(0.5), np.arctanh(-0.5), -math.log(3), 0.0)
    out[0, 6, 2, 3] = 0.8
    result = detection("fastestdet").decode([out], WHOLE)
    assert box_of(result) == pytest.approx((3.5 / 8 - 0.125, 1.5 / 6 - 0.25, 0.25, 0.5), abs=1e-3)
    assert result.boxes[0].score == pytest.approx(0.9**0.6 * 0.8**0.4, abs=1e-3)
    assert result.values == {"n": 1, "person": 0, "car": 1, "traffic_light": 0}
    assert (result.top, result.score) == ("car", result.boxes[0].score)


def test_yolox_reads_a_row_of_each_stride() -> None:
    out = np.zeros((1, 62, 8), np.float32)
    # the cell in row 1, column 2 of stride 16 comes after the 48 of stride 8
    out[0, 48 + 4 + 2] = (0.5, 0.25, math.log(1.5), math.log(0.5), 0.9, 0.1, 0.2, 0.95)
    result = detection("yolox").decode([out], WHOLE)
    x, y, w, h = 2.5 * 16, 1.25 * 16, 24, 8
    assert box_of(result) == pytest.approx(((x - w / 2) / 64, (y - h / 2) / 48, w / 64, h / 48), abs=1e-3)
    assert result.boxes[0].label == "traffic light"
    assert result.boxes[0].score == pytest.approx(0.9 * 0.95, abs=1e-3)


@pytest.mark.parametrize("turned", [False, True])
def test_yolov8_reads_columns_and_rows(turned: bool) -> None:
    out = np.zeros((1, 7, 63), np.float32)
    out[0, :, 17] = (32, 24, 16, 12, 0.7, 0.1, 0.2)
    result = detection("yolov8").decode([out.transpose(0, 2, 1) if turned else out], WHOLE)
    assert box_of(result) == pytest.approx((24 / 64, 18 / 48, 16 / 64, 12 / 48), abs=1e-4)


def test_ulface_reads_scores_behind_the_background() -> None:
    scores, corners = np.zeros((1, 40, 4), np.float32), np.zeros((1, 40, 4), np.float32)
    scores[0, 5] = (0.99, 0.0, 0.8, 0.1)
    corners[0, 5] = (0.25, 0.5, 0.75, 1.0)
    result = detection("ulface").decode([scores, corners], WHOLE)
    assert box_of(result) == pytest.approx((0.25, 0.5, 0.5, 0.5))
    assert result.boxes[0].label == "car"


def test_boxes_are_mapped_back_and_end_at_the_frame() -> None:
    out = np.zeros((1, 7, 63), np.float32)
    out[0, :, 0] = (10, 24, 40, 24, 0.9, 0, 0)  # from -10 to 30 px, the picture begins at 8
    result = detection("yolov8").decode([out], Placement(8.0, 0.0, 1 / 48, 1 / 48))
    assert box_of(result) == pytest.approx((0, 0.25, 22 / 48, 0.5), abs=1e-4)


def test_of_overlapping_boxes_of_a_class_the_strongest_stays() -> None:
    out = np.zeros((1, 7, 63), np.float32)
    out[0, :, 0] = (30, 20, 20, 20, 0.7, 0, 0)
    out[0, :, 1] = (31, 20, 20, 20, 0.9, 0, 0)
    out[0, :, 2] = (31, 21, 20, 20, 0, 0.8, 0)  # another class stays
    out[0, :, 3] = (10, 20, 8, 8, 0.6, 0, 0)  # another place stays
    result = detection("yolov8").decode([out], WHOLE)
    assert [(box.label, box.score) for box in result.boxes] == [
        ("person", 0.9),
        ("car", 0.8),
        ("person", 0.6),
    ]
    assert len(detection("yolov8", max_boxes=2).decode([out], WHOLE).boxes) == 2


@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_suppression_is_the_greedy_one(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(1, 25, (count, 2))]).astype(np.float32)
    scores = -np.sort(-rng.random(count).astype(np.float32))
    classes = rng.integers(0, 2, count)
    kept: list[int] = []
    for at in range(count):
        if all(classes[at] != classes[k] or overlap(boxes[at], boxes[k]) <= 0.45 for k in kept):
            kept.append(at)
    assert suppress(boxes, scores, classes, 0.45, 1000).tolist() == kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    inner = np.float32(max(wide, 0) * max(high, 0))
    return float(inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner))


@pytest.mark.parametrize("head", SHAPES)
@given(data=st.data())
def test_any_numbers_give_bounded_boxes(head: str, data: st.DataObject) -> None:
    anything = st.floats(width=32) | st.sampled_from([0.0, 0.9, 1.0, math.nan, math.inf, -math.inf, 3e38])
    outputs = [data.draw(hnp.arrays(np.float32, shape, elements=anything)) for shape in SHAPES[head]]
    result = detection(head, score=0.01).decode(outputs, WHOLE)
    assert result.values["n"] == len(result.boxes) <= 100
    for box in result.boxes:
        x, y, w, h = box.box
        assert 0 <= x < x + w <= 1.0001
        assert 0 <= y < y + h <= 1.0001
        assert 0.01 <= box.score <= 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"labels": []}, "needs labels"),
        ({"labels": ["a", "b"]}, "check head, labels and input.size"),
        ({"count": ["dog"]}, "output.count: 'dog' is not one of the labels"),
        ({"alarm": ["dog"]}, "output.alarm: 'dog' is not one of the labels"),
        ({"labels": ["a", "A", "b"]}, "as another label does"),
        ({"labels": ["n", "a", "b"]}, "clashes with a field"),
        ({"labels": ["사람", "a", "b"]}, "gives no field name"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        detection("yolox", **options)


@pytest.mark.parametrize("head", SHAPES)
def test_an_output_of_another_shape_is_refused(head: str) -> None:
    wrong = [np.zeros((1, 3, 3, 3, 3), np.float32)] * 2
    with pytest.raises(ModelError, match="which its head cannot read"):
        detection(head).decode(wrong, WHOLE)


def test_many_labels_are_counted_only_if_named() -> None:
    many = [f"thing {i}" for i in range(20)]
    shape = Tensor("y", "float32", (1, 24, 63))
    counted = Detection(DetectionOptions(head="yolov8", labels=many, count=["thing 3"]), [shape], SIZE)
    assert list(counted.fields()) == ["n", "thing_3"]
    assert list(Detection(DetectionOptions(head="yolov8", labels=many), [shape], SIZE).fields()) == ["n"]


def test_a_seen_label_can_raise_an_alarm() -> None:
    out = np.zeros((1, 7, 63), np.float32)
    out[0, :, 0] = (30, 20, 20, 20, 0.7, 0, 0)
    for labels, expected in ((["person"], True), (["car"], False)):
        result = detection("yolov8", alarm=labels).decode([out], WHOLE)
        assert (result.alarm, result.values["alarm"]) == (expected, expected)
    assert "alarm" not in detection("yolov8").fields()
