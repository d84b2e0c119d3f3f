"""Files as scikit-learn, LightGBM and torch export them: drafted, they give what those libraries give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.inference import gate
from agent.inference.package import load_package
from agent.inference.session import CPU, Model
from edgebed.model_tools.draft import draft_folder

EXPORTS = Path(__file__).parents[3] / "fixtures/exports"
EXPECTED: dict[str, Any] = json.loads((EXPORTS / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_drafted_export_gives_what_its_library_gives(tmp_path: Path, name: str) -> None:
    shutil.copy(EXPORTS / f"{name}.onnx", tmp_path)
    wanted = EXPECTED[name]
    assert draft_folder(tmp_path, force=False) == ["manifest.yaml"]
    package = load_package(tmp_path)
    assert package.manifest.decoder == wanted["decoder"]
    gate.inspect(package, CPU)
    model = Model(package)
    spec = package.manifest.input
    for at, (window, value) in enumerate(zip(wanted["windows"], wanted["values"], strict=True)):
        row = dict(model.run_window(np.array(window), "stream", spec.length + at * spec.hop).values)
        if "labels" in wanted:
            assert row["label"] == wanted["labels"][at]
        given = row["score"] if "score" in row else row["value_1"]
        assert given == pytest.approx(value, rel=1e-4, abs=1e-5), f"window {at}"
