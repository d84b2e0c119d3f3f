"""A drafted manifest is valid: the model loads with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.scaffold import draft
from agent.inference.session import Model


@pytest.mark.parametrize(
    ("shape", "outputs", "decoder", "head"),
    [
        ((1, 3, 64, 64), [(1, 8, 4, 4)], "detection", "fastestdet"),
        ((1, 3, 64, 64), [(1, 84, 7)], "detection", "yolox"),
        ((1, 3, 64, 64), [(1, 7, 84)], "detection", "yolov8"),
        ((1, 3, 64, 64), [(1, 90, 2), (1, 90, 4)], "detection", "ulface"),
        ((1, 64, 64, 3), [(1, 8, 4, 4)], "detection", "fastestdet"),
        ((1, 1, 28, 28), [(1, 10)], "classification", ""),
        ((1, 100, 6), [(1, 2)], "regression", ""),
        ((1, 13), [(1, 1)], "regression", ""),
    ],
)
def test_a_draft_loads(
    packages, tmp_path: Path, shape: tuple[int, ...], outputs: list[tuple[int, ...]], decoder: str, head: str
) -> None:
    file = tmp_path / "My Model.onnx"
    file.write_bytes(packages.constant(*(np.zeros(output) for output in outputs), shape=shape))
    (tmp_path / "manifest.yaml").write_text(draft(file))
    model = Model(load_package(tmp_path))
    assert model.manifest.name == "my-model"
    assert model.manifest.decoder == decoder
    assert getattr(model.manifest.output, "head", "") == head


def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("hello")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        draft(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="is missing"):
        draft(tmp_path / "y.onnx")
