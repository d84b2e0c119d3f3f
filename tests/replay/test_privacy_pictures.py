"""Faces in real photographs: what a face finder saw before, it must not find in what would be sent."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from agent.inference.package import load_package
from agent.inference.session import Model
from agent.pipeline.frames.privacy import Hidden, Privacy, seen_by
from wire.messages import Box

pytestmark = pytest.mark.field

MANIFESTS: dict[str, dict[str, Any]] = {
    "fastestdet_352": {
        "input": {"kind": "frame", "name": "input.1", "size": [352, 352], "colour": "bgr", "fit": "stretch"},
        "output": {"decoder": "detection", "head": "fastestdet", "labels_file": "coco.names", "score": 0.35},
    },
    "ulface_rfb_320": {
        "input": {"kind": "frame", "name": "input", "size": [320, 240], "scale": 1}
        | {"mean": [127, 127, 127], "std": [128, 128, 128], "fit": "stretch"},
        "output": {"decoder": "detection", "head": "ulface", "labels": ["face"], "score": 0.7, "iou": 0.3},
    },
}


@pytest.fixture
def package(field_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """One of the field models as a package, by a manifest alone."""

    def package(name: str, **output: Any) -> Path:
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        shutil.copy(field_data / "models" / f"{name}.onnx", folder)
        shutil.copy(field_data / "models" / "coco.names", folder)
        sha = hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
        head = {"name": "field", "version": "1", "licence": "see the recordings", "file": f"{name}.onnx"}
        made = {**head, "sha256": sha, **MANIFESTS[name]}
        made["output"] = {**made["output"], **output}
        (folder / "manifest.yaml").write_text(yaml.safe_dump(made))
        return folder

    return package


@pytest.fixture
def photographs(field_data: Path) -> dict[str, np.ndarray]:
    """A group, a street, and what else there is."""
    found = {path.stem: cv2.imread(str(path)) for path in sorted((field_data / "images").glob("*.jpg"))}
    assert {"faces_1", "street"} <= found.keys()
    return found


def still_found(before: list[Box], after: list[Box]) -> int:
    return sum(any(overlap(old, new) > 0.3 for new in after) for old in before)


def overlap(a: Box, b: Box) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    width, height = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    inner = max(0.0, width) * max(0.0, height)
    return inner / (aw * ah + bw * bh - inner)


def as_sent(hidden: Hidden) -> np.ndarray:
    _, jpeg = cv2.imencode(".jpg", hidden.picture, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("looks", ["the detector", "a face model", "both"])
def test_no_face_is_found_any_more(
    package: Callable[..., Path], photographs: dict[str, np.ndarray], looks: str
) -> None:
    finder = Model(load_package(package("ulface_rfb_320")))
    detector = Model(load_package(package("fastestdet_352")))
    careful = package("ulface_rfb_320", score=0.5)  # a lower score than that of the search finds more to hide
    guard = Privacy(
        ["faces"] if looks == "a face model" else ["faces", "plates"],
        None if looks == "the detector" else careful,
    )
    guard.open()
    seen_before = 0
    for name, picture in photographs.items():
        boxes = detector.run_frame(picture).boxes
        hidden = guard.hide(picture, None if looks == "a face model" else seen_by(detector.manifest, boxes))
        assert hidden.how == "parts", hidden.why
        before, after = (finder.run_frame(each).boxes for each in (picture, as_sent(hidden)))
        assert still_found(before, after) == 0, name
        assert not after, name
        seen_before += len(before)
    assert seen_before >= 60


def test_a_picture_hidden_as_a_whole_shows_nobody(
    package: Callable[..., Path], photographs: dict[str, np.ndarray]
) -> None:
    finder = Model(load_package(package("ulface_rfb_320")))
    for picture in photographs.values():
        assert not finder.run_frame(as_sent(Privacy(["faces"]).hide(picture, None))).boxes
