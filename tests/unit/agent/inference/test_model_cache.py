"""A package is checked and opened once, for any number of streams that run it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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


def test_anything_that_a_decoder_raises_is_a_refusal(adding: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object, **__: object) -> None:
        raise AttributeError("no \x1b[2J attribute\n")

    monkeypatch.setattr(gate, "verify", raises)
    with pytest.raises(ModelError) as caught:
        ModelCache().model(load_package(adding))
    assert str(caught.value).endswith(r"it cannot be opened: AttributeError: no \x1b[2J attribute\n")
    assert caught.value.reason_code == "model-refused"


def test_two_threads_that_ask_at_the_same_time_wait_for_one_gate(
    adding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, verify = [], gate.verify

    def counted(*args: Any, **more: Any) -> Any:
        asked.append(1)
        return verify(*args, **more)

    monkeypatch.setattr(gate, "verify", counted)
    cache, package = ModelCache(), load_package(adding)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: cache.model(package), range(4)))
    assert len(asked) == 1
    assert all(model is models[0] for model in models)


def test_a_cache_that_is_stopped_opens_nothing_more(adding: Path, tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "gate")
    cache.stop()
    with pytest.raises(ModelError, match="the gate was stopped"):
        cache.model(load_package(adding))
    assert not (tmp_path / "gate").exists()
