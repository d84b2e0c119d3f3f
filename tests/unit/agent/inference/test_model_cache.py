"""A package is checked and opened once, for any number of streams that run it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.model_cache import ModelCache
from agent.inference.package import load_package


@pytest.fixture
def adding(packages) -> Path:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    return packages.write(packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))


def test_the_same_package_is_one_model(adding: Path, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "gate")
    link = tmp_path / "link"
    link.symlink_to(adding)
    model = cache.model(load_package(adding))
    assert cache.model(load_package(Path(os.path.relpath(link)))) is model
    assert model.run_window(np.ones((4, 2), np.float32)).values == {"power": 8.0}


def test_another_file_in_the_same_folder_is_another_model(packages, adding: Path, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "gate")
    before = cache.model(load_package(adding))
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)]
    packages.write(packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))
    after = cache.model(load_package(adding))
    ones = np.ones((4, 2), np.float32)
    assert (before.run_window(ones).values, after.run_window(ones).values) == ({"power": 8.0}, {"power": 1.0})


def test_a_refused_package_is_refused_at_once_the_second_time(
    adding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def hangs(*_: object, **__: object) -> None:
        asked.append(1)
        raise ModelError("it gave no answer within 90 s")

    monkeypatch.setattr(gate, "verify", hangs)
    cache = ModelCache()
    for _ in range(2):
        with pytest.raises(ModelError, match="no answer"):
            cache.model(load_package(adding))
    assert len(asked) == 1
