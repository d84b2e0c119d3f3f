"""Published models of pictures that find things: boxes, and areas of text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.published.case import Case, Feed, Row, pictures

_PARTS = [
    "FEMALE_GENITALIA_COVERED", "FACE_FEMALE", "BUTTOCKS_EXPOSED", "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED", "MALE_BREAST_EXPOSED", "ANUS_EXPOSED", "FEET_EXPOSED", "BELLY_COVERED",
    "FEET_COVERED", "ARMPITS_COVERED", "ARMPITS_EXPOSED", "FACE_MALE", "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED", "ANUS_COVERED", "FEMALE_BREAST_COVERED", "BUTTOCKS_COVERED",
]  # fmt: skip
_SIDE, _LEAST, _IOU = 320, 0.0003, 0.45
_SURE = 0.25  # the score that is usual
_PHOTOS = "ultralytics==8.4.190"  # a street with a bus, two men: faces, feet and arms
_TEXT = (640, 480)
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _square(picture: NDArray[Any]) -> Feed:
    """RGB, 0 to 1, in the upper left corner of a black square."""
    import cv2

    high, wide = picture.shape[:2]
    ratio = _SIDE / max(high, wide)
    part = cv2.resize(picture, (round(wide * ratio), round(high * ratio)), interpolation=cv2.INTER_LINEAR)
    whole = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    whole[: part.shape[0], : part.shape[1]] = part
    return {"images": (whole[:, :, ::-1] / 255).transpose(2, 0, 1)[None].astype(np.float32)}


def _overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    wide, high = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = max(wide, 0) * max(high, 0)
    return float(inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner))


def _parts(photos: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Parts of 640 x 480 of the photographs, at several scales, as a walking camera would see them."""
    import cv2

    made = []
    for photo in photos:
        for scale in (1.0, 0.6, 0.4):
            high, wide = int(_TEXT[1] * scale), int(_TEXT[0] * scale)
            tops = range(0, photo.shape[0] - high + 1, high)
            lefts = range(0, photo.shape[1] - wide + 1, wide)
            made += [cv2.resize(photo[y : y + high, x : x + wide], _TEXT) for y in tops for x in lefts]
    return made


def _boxes(table: NDArray[Any], least: float = _LEAST) -> Row:
    """Greedy suppression of each class, one box after another; pictures are 640 x 480 in the corner."""
    found: list[tuple[float, int, NDArray[Any]]] = []
    for x, y, w, h, *scores in table.T:
        at = int(np.argmax(scores))
        if scores[at] >= least:
            found.append((float(scores[at]), at, np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])))
    kept: list[tuple[float, int, NDArray[Any]]] = []
    for one in sorted(found, key=lambda each: -each[0]):
        if all(one[1] != other[1] or _overlap(one[2], other[2]) <= _IOU for other in kept):
            kept.append(one)
    rows = []
    for score, cls, corners in kept:
        x0, y0, x1, y1 = np.clip(corners / (_SIDE, _SIDE * 3 / 4, _SIDE, _SIDE * 3 / 4), 0, 1)
        if x1 > x0 and y1 > y0:
            rows.append([cls, score, x0, y0, x1 - x0, y1 - y0])
    return {"n": len(rows), "boxes": np.array(rows).reshape(-1, 6)}


def _stretched(picture: NDArray[Any]) -> Feed:
    """RGB, as ImageNet; the pictures have the size of the input."""
    return {"x": ((picture[:, :, ::-1] / 255 - _MEAN) / _STD).transpose(2, 0, 1)[None].astype(np.float32)}


def _pages() -> list[NDArray[Any]]:
    """Pictures with words at several places."""
    import cv2

    made = []
    for shift in (0, 40, 90):
        page = np.full((_TEXT[1], _TEXT[0], 3), 240, np.uint8)
        for at, text in enumerate(("edgebed 2026", "Gate 7", "STOP")):
            place = (30 + shift + 60 * at, 90 + 130 * at)
            cv2.putText(page, text, place, cv2.FONT_HERSHEY_SIMPLEX, 1.6 - 0.2 * at, (20, 20, 60), 3)
        made.append(page)
    return made


def _areas(shares: NDArray[Any]) -> Row:
    """Connected areas of the cells above 0.3, filled one cell after another."""
    left = shares > 0.3
    share = round(float(left.mean()), 5)
    boxes = []
    while left.any():
        start = tuple(np.argwhere(left)[0])
        left[start] = False
        waiting, cells = [start], [start]
        while waiting:
            row, column = waiting.pop()
            for r in range(max(0, row - 1), row + 2):
                for c in range(max(0, column - 1), column + 2):
                    if r < left.shape[0] and c < left.shape[1] and left[r, c]:
                        left[r, c] = False
                        waiting.append((r, c))
                        cells.append((r, c))
        (y0, x0), (y1, x1) = np.min(cells, axis=0), np.max(cells, axis=0) + 1
        score = float(np.mean([shares[at] for at in cells]))
        if len(cells) / shares.size >= 0.0001 and score >= 0.6:
            box = [x0 / _TEXT[0], y0 / _TEXT[1], (x1 - x0) / _TEXT[0], (y1 - y0) / _TEXT[1]]
            boxes.append((len(cells), [0, score, *box]))
    rows = [row for _, row in sorted(boxes, key=lambda each: -each[0])]
    return {"n": len(rows), "text": share, "boxes": np.array(rows).reshape(-1, 6)}


CASES = [
    Case(
        "nudenet (YOLOv8)",
        "nudenet==3.4.2",
        "320n.onnx",
        {
            "input": {
                "kind": "frame", "name": "images", "size": [_SIDE, _SIDE], "place": "corner", "pad": 0,
                "fit": "letterbox",
            },
            "output": {
                "decoder": "detection", "head": "yolov8", "labels": _PARTS, "score": _LEAST, "max_boxes": 300,
            },
        },
        pictures,
        _square,
        lambda outputs: _boxes(outputs["output0"][0]),
    ),
    Case(
        "nudenet (YOLOv8) on photographs",
        "nudenet==3.4.2",
        "320n.onnx",
        {
            "input": {
                "kind": "frame", "name": "images", "size": [_SIDE, _SIDE], "place": "corner", "pad": 0,
                "fit": "letterbox",
            },
            "output": {"decoder": "detection", "head": "yolov8", "labels": _PARTS, "score": _SURE},
        },
        pictures,
        _square,
        lambda outputs: _boxes(outputs["output0"][0], _SURE),
        photos=_PHOTOS,
        cut=_parts,
    ),
    Case(
        "rapidocr det (map of text)",
        "rapidocr_onnxruntime==1.4.4",
        "ch_PP-OCRv4_det_infer.onnx",
        {
            "input": {
                "kind": "frame", "name": "x", "size": list(_TEXT),
                "mean": _MEAN.tolist(), "std": _STD.tolist(),
            },
            "output": {"decoder": "regions", "labels": ["text"], "threshold": 0.3, "score": 0.6},
        },
        _pages,
        _stretched,
        lambda outputs: _areas(outputs["sigmoid_0.tmp_0"][0, 0]),
    ),
]  # fmt: skip
