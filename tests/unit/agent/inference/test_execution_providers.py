"""Execution providers: the one in use is the one asked for, or the gate refuses the model."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.execution_providers import CUDA, OPENVINO, PLUGIN, REPLACED, names
from agent.inference.model_cache import ModelCache
from agent.inference.package import load_package
from agent.pipeline.settings import SlotConfig
from wire.plugins import version

NEWS2 = Path(__file__).parents[4] / "models" / "news2"


def refused(*providers: str, isolation: str = "thread", package: Path = NEWS2) -> ModelError:
    cache = ModelCache()
    try:
        with pytest.raises(ModelError) as caught:
            cache.model(load_package(package), providers, isolation)  # type: ignore[arg-type]
    finally:
        cache.close()
    return caught.value


def test_words_and_names() -> None:
    assert names(["openvino"]) == (OPENVINO, "CPUExecutionProvider")
    assert names(["cuda"]) == names([CUDA, "CPUExecutionProvider"])
    assert names(["cuda", "openvino"]) == (CUDA, "CPUExecutionProvider", OPENVINO)


def test_the_slot_asks_by_word_or_by_name() -> None:
    plain = {"package": NEWS2, "input": "bed/vitals"}
    assert msgspec.convert(plain, SlotConfig).asked == ["cpu"]
    assert msgspec.convert({**plain, "provider": "openvino"}, SlotConfig).asked == ["openvino"]
    assert msgspec.convert({**plain, "providers": [CUDA]}, SlotConfig).asked == [CUDA]
    with pytest.raises(msgspec.ValidationError, match=r"\.provider"):
        msgspec.convert({**plain, "provider": "gpu"}, SlotConfig)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_provider_that_runs_no_node_is_not_in_use(isolation: str) -> None:
    """onnxruntime lists Azure first for such a session, and its CPU runs every node."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no provider besides the CPU")
    error = refused("AzureExecutionProvider", isolation=isolation)
    assert error.reason_code == "provider-unused"
    assert error.reason_args == {"provider": "AzureExecutionProvider"}
    assert "runs none of its 10 nodes; CPUExecutionProvider does" in str(error)


def test_a_provider_that_is_not_there() -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    error = refused("cuda")
    assert error.reason_code == "provider-missing"
    assert error.reason_args == {"provider": CUDA}
    assert "install onnxruntime-gpu in an environment of its own" in str(error)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_openvino_runs_the_model_or_says_what_is_missing(isolation: str) -> None:
    if not version(PLUGIN):
        error = refused("openvino", isolation=isolation)
        assert error.reason_code == "provider-missing"
        assert str(error).endswith("is not installed: install edgebed[openvino]")
    elif not _supported():
        error = refused("openvino", isolation=isolation)
        assert error.reason_code == "provider-unused"
        assert "finds no CPU that it supports; it may need one by Intel" in str(error)
    else:
        cache = ModelCache()
        try:
            package = load_package(NEWS2)
            report = gate.verify(package, providers=names(["openvino"]))
            assert (report.provider, report.share, report.golden) == (OPENVINO, 1.0, 6)
            model = cache.model(package, ["openvino"], isolation)  # type: ignore[arg-type]
            assert model.provider == OPENVINO
            vitals = np.array([[18, 95, 0, 120, 70, 0, 37.0]], np.float32)
            here = cache.model(package, isolation="thread").run_window(vitals)
            assert model.run_window(vitals).values == here.values
        finally:
            cache.close()


def test_the_package_that_replaces_onnxruntime_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "onnxruntime_openvino-1.24.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-openvino\nVersion: 1.24.1\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    error = refused("openvino")
    assert error.reason_code == "provider-missing"
    assert f"{REPLACED} 1.24.1 replaces the module of onnxruntime and is older" in str(error)
    cache = ModelCache()
    assert cache.model(load_package(NEWS2)).provider == "CPUExecutionProvider"  # others run


def _supported() -> bool:
    """Whether the plugin offers a device; asked in the gate's way, in a process of its own."""
    import subprocess
    import sys

    code = (
        "import onnxruntime as o, onnxruntime_ep_openvino as p\n"
        "o.register_execution_provider_library('test', p.get_library_path())\n"
        "print(any(d.ep_name == p.get_ep_name() for d in o.get_ep_devices()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"
