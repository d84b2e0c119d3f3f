"""Real models with a manifest only, on real pictures and clips, against an independent decoder's boxes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from agent.inference import gate
from agent.inference.inputs import FrameInput
from agent.inference.package import load_package
from agent.inference.session import Model
from edgebed.model_tools.draft import draft_folder

pytestmark = pytest.mark.field

MANIFESTS: dict[str, dict[str, Any]] = {
    "fastestdet_352": {
        "input": {"kind": "frame", "name": "input.1", "size": [352, 352], "colour": "bgr", "fit": "stretch"},
        "output": {"decoder": "detection", "head": "fastestdet", "labels_file": "coco.names", "score": 0.5},
    },
    "yolox_nano_custom_devonscott": {
        "input": {"kind": "frame", "name": "images", "size": [416, 416], "colour": "bgr", "scale": 1}
        | {"fit": "letterbox", "place": "corner"},
        "output": {"decoder": "detection", "head": "yolox", "labels": ["weed a", "weed b", "weed c"]},
    },
    "ulface_rfb_320": {
        "input": {"kind": "frame", "name": "input", "size": [320, 240], "scale": 1}
        | {"mean": [127, 127, 127], "std": [128, 128, 128], "fit": "stretch"},
        "output": {"decoder": "detection", "head": "ulface", "labels": ["face"], "score": 0.7, "iou": 0.3},
    },
    "mnist_ekuiper": {
        "input": {"kind": "frame", "name": "Input3", "size": [28, 28], "colour": "grey", "scale": 1},
        "output": {
            "decoder": "classification",
            "labels": [str(digit) for digit in range(10)],
            "softmax": True,
        },
    },
}

Boxes = list[tuple[int, Sequence[float]]]  # class, corners in px


@pytest.fixture
def model(field_data: Path, tmp_path: Path) -> Callable[[str], Model]:
    """Opens one of the field models through a manifest written here."""

    def model(name: str) -> Model:
        file = f"{name}.onnx"
        shutil.copy(field_data / "models" / file, tmp_path)
        shutil.copy(field_data / "models" / "coco.names", tmp_path)
        sha = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        head = {"name": "field", "version": "1", "licence": "see the recordings", "file": file, "sha256": sha}
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({**head, **MANIFESTS[name]}))
        return Model(load_package(tmp_path))

    return model


def golden(field_data: Path, name: str) -> Any:
    return json.loads((field_data / "golden" / name).read_text())


@pytest.mark.parametrize("name", MANIFESTS)
def test_outputs_are_those_of_the_reference(
    model: Callable[[str], Model], field_data: Path, name: str
) -> None:
    reference = golden(field_data, "raw_outputs_seed42.json")[f"{name}.onnx"]
    (shape,) = reference["inputs"].values()
    tensor = np.random.default_rng(42).random(shape).astype(np.float32)
    outputs = model(name).raw(tensor)
    for output, wanted in zip(outputs, reference["outputs"], strict=True):
        assert list(output.shape) == wanted["shape"]
        assert output.mean() == pytest.approx(wanted["mean"], rel=1e-3, abs=1e-5)
        assert output.std() == pytest.approx(wanted["std"], rel=1e-3)
        np.testing.assert_allclose(output.reshape(-1)[:4], wanted["first"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_drafted_manifest_reads_the_same_head(field_data: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(field_data / "models" / f"{name}.onnx", tmp_path)
    draft_folder(tmp_path, force=False)
    package = load_package(tmp_path)
    gate.verify(package)
    wanted = MANIFESTS[name]
    found = package.manifest
    assert found.decoder == wanted["output"]["decoder"]
    assert getattr(found.output, "head", None) == wanted["output"].get("head")
    assert isinstance(found.input, FrameInput)
    assert list(found.input.size) == wanted["input"]["size"]


@pytest.mark.parametrize("name", ["fastestdet_352", "ulface_rfb_320"])
def test_boxes_in_pictures(model: Callable[[str], Model], field_data: Path, name: str) -> None:
    reference = golden(field_data, "detections_images.json")
    opened = model(name)
    hits = total = 0
    for file, wanted in reference.items():
        picture = cv2.imread(str(field_data / "images" / file))
        right, asked = agreement(found(opened, picture), wanted[name], picture)
        hits, total = hits + right, total + asked
    assert total >= 2
    assert hits >= 0.95 * total


def test_boxes_in_every_25th_picture_of_the_clips(model: Callable[[str], Model], field_data: Path) -> None:
    opened = model("fastestdet_352")
    hits = total = 0
    for clip, frames in golden(field_data, "detections_videos_every25.json").items():
        for index, picture in every_25th(field_data / "videos" / clip):
            right, asked = agreement(found(opened, picture), frames[str(index)]["fastestdet_352"], picture)
            hits, total = hits + right, total + asked
    assert total > 300
    assert hits >= 0.95 * total


def test_yolox_and_mnist_see_a_picture(model: Callable[[str], Model], field_data: Path) -> None:
    picture = cv2.imread(str(field_data / "images" / "street.jpg"))
    for box in model("yolox_nano_custom_devonscott").run_frame(picture).boxes:
        assert 0 <= box.box[0] <= 1
    blank = np.zeros((40, 40, 3), np.uint8)
    cv2.line(blank, (20, 6), (20, 34), (255, 255, 255), 3)
    assert model("mnist_ekuiper").run_frame(blank).top == "1"


def every_25th(clip: Path) -> Iterator[tuple[int, np.ndarray]]:
    capture = cv2.VideoCapture(str(clip))
    try:
        index = 0
        while capture.grab():
            if index % 25 == 0:
                yield index, capture.retrieve()[1]
            index += 1
    finally:
        capture.release()


def found(model: Model, picture: np.ndarray) -> Boxes:
    high, wide = picture.shape[:2]
    boxes: Boxes = []
    for box in model.run_frame(picture).boxes:
        x, y, w, h = box.box
        boxes.append((box.cls, (x * wide, y * high, (x + w) * wide, (y + h) * high)))
    return boxes


def agreement(boxes: Boxes, reference: list[Any], picture: np.ndarray) -> tuple[int, int]:
    """Of the reference boxes of score >= 0.6: those found (same class, IoU above 0.5), and all.

    The reference's boxes may leave the picture; the decoder's boxes end at its edge.
    """
    high, wide = picture.shape[:2]
    hits = total = 0
    for cls, score, (x0, y0, x1, y1) in reference:
        if score >= 0.6:
            inside = (max(0, x0), max(0, y0), min(wide, x1), min(high, y1))
            hits += any(other == cls and iou(corners, inside) > 0.5 for other, corners in boxes)
            total += 1
    return hits, total


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    inner = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)
