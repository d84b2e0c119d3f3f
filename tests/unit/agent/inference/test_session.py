"""A model on a real onnxruntime: it runs from any thread, and a model that does not fit is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import CPU, Model, _reason

ONE = np.ones((1, 1), np.float32)


def refused(folder: Path) -> str:
    """The reason why the package is refused."""
    with pytest.raises(ModelError) as caught:
        Model(load_package(folder))
    return str(caught.value)


def test_a_window_gives_a_row(packages) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    model = Model(load_package(packages.write(body)))
    result = model.run_window(np.arange(8, dtype=np.float32).reshape(4, 2))
    assert result.values == {"power": 28.0}
    assert model.fields()["power"].unit == "W"
    assert model.provider == "CPUExecutionProvider"
    assert 0 < result.infer_ms < 1000


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_frame_gives_boxes(packages, frame_input: Callable[..., dict[str, Any]], batch: int | str) -> None:
    out = np.zeros((1, 5, 21), np.float32)
    out[0, :, 3] = (16, 8, 8, 8, 0.9)
    body = packages.constant(out, shape=(batch, 3, 32, 32))
    output = {"decoder": "detection", "head": "yolov8", "labels": ["person"]}
    model = Model(load_package(packages.write(body, input=frame_input(fit="stretch"), output=output)))
    result = model.run_frame(np.zeros((480, 640, 3), np.uint8))
    assert result.boxes[0].box == (0.375, 0.125, 0.25, 0.25)
    with pytest.raises(ModelError, match="a picture of shape"):
        model.run_frame(np.zeros((480, 640), np.uint8))


def test_threads_share_a_model_without_sharing_a_buffer(packages) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    model = Model(load_package(packages.write(body)))
    wrong: list[float] = []

    def work(number: int) -> None:
        window = np.full((4, 2), number, np.float32)
        wrong.extend(v for _ in range(300) if (v := model.run_window(window).values["power"]) != 8 * number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_missing_values_become_null(packages) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    model = Model(load_package(packages.write(body)))
    assert model.run_window(np.full((4, 2), np.nan, np.float32)).values == {"power": None}


WINDOW = {"kind": "window", "name": "x", "signals": ["a", "b"], "rate_hz": 1, "length": 4}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("input", {**WINDOW, "name": "z"}, "input.name is 'z', the model's input is x float32"),
        (
            "input",
            {**WINDOW, "signals": ["a"]},
            r"a tensor \[1, 4, 1\], the model needs x float32\[1, 4, 2\]",
        ),
        ("input", {"kind": "frame", "name": "x", "size": [32, 32]}, r"a tensor \[1, 3, 32, 32\]"),
        (
            "output",
            {"decoder": "classification", "labels": ["a", "b"]},
            r"2 labels do not fit .* y0 float32\[1, 1\]",
        ),
        ("output", {"decoder": "detection", "head": "yolox", "labels": ["a"]}, "an input of kind frame"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(packages, key: str, value: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Model(load_package(packages.write(packages.constant(ONE), **{key: value})))


def test_a_provider_that_is_not_there_is_refused(packages) -> None:
    package = load_package(packages.write(packages.constant(ONE)))
    with pytest.raises(ModelError, match="NoSuchExecutionProvider is not in this onnxruntime"):
        Model(package, providers=["NoSuchExecutionProvider"])


def test_a_file_that_changed_after_it_was_checked_is_refused(packages) -> None:
    folder = packages.write(packages.constant(ONE))
    package = load_package(folder)
    (folder / "model.onnx").write_bytes(packages.constant(ONE * 2))
    with pytest.raises(ModelError, match="another file"):
        Model(package)


def test_outputs_that_are_too_large_are_refused(packages) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["y"])]
    body = packages.model(
        nodes,
        inputs={"x": (1, 4, 2)},
        outputs={"y": (100_000, 1000)},
        constants={"size": np.array([100_000, 1000], np.int64)},
    )
    assert "its outputs take 400000000 bytes" in refused(packages.write(body))


def test_an_output_that_grew_is_refused_not_decoded(packages) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"]),
        helper.make_node("Cast", ["at"], ["y"], to=TensorProto.FLOAT),
    ]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": (3, "n")})
    assert "0 numbers for 1 fields" in refused(packages.write(body))


def test_a_run_that_fails_is_reported(packages) -> None:
    """The shapes are known only at run time, and the reshape cannot work."""
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    body = packages.model(
        nodes,
        inputs={"x": ("n", 4, 2)},
        outputs={"y": ("m", 7)},
        constants={"to": np.array([-1, 7], np.int64)},
    )
    assert "the run failed" in refused(packages.write(body))


def test_a_model_runs_on_the_cpu_unless_another_provider_is_named(packages) -> None:
    model = Model(load_package(packages.write(packages.constant(ONE))))
    assert (model.provider,) == CPU


def test_raw_takes_a_tensor_as_the_model_does(packages) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    window = {**WINDOW, "mean": [1.0, 1.0]}
    model = Model(load_package(packages.write(body, input=window)))
    ones = np.ones((4, 2), np.float32)
    assert model.raw(ones)[0] == 0.0, "a window is normalised"
    assert model.raw(ones[None])[0] == 8.0, "a tensor is not"


def test_products_of_8_bits_are_exact(packages) -> None:
    """255 * 127 summed 64 times: CPUs without VNNI saturate unless the option is set."""
    constants = {
        "s": np.float32(1 / 255) * np.ones((), np.float32),
        "z": np.array(0, np.uint8),
        "w": np.full((64, 16), 127, np.int8),
        "wz": np.array(0, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["y"], keepdims=1),
    ]
    body = packages.model(nodes, inputs={"x": (1, 64)}, outputs={"y": (1, 1)}, constants=constants)
    window = {**WINDOW, "signals": [f"s{i}" for i in range(64)], "length": 1, "layout": "flat"}
    model = Model(load_package(packages.write(body, input=window)))
    assert model.run_window(np.ones((1, 64), np.float32)).values == {"power": 255 * 127 * 64}
    assert model.scanned.int8
    options = model._session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.parametrize("signed", [True, False])
def test_a_product_of_whole_numbers_runs_whatever_its_signs(packages, signed: bool) -> None:
    """The static quantiser of onnxruntime gives signed activations by default (QOperator)."""
    kind = np.int8 if signed else np.uint8
    one = np.ones((), np.float32)
    zeros = {name: np.array(0, kind) for name in ("xz", "yz")}
    scales = {"xs": one, "ws": one, "ys": one * 100}
    weights = {"w": np.full((64, 16), 100, np.int8), "wz": np.array(0, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "ys", "yz"], ["all"]),
        helper.make_node("ReduceMean", ["all"], ["y"], keepdims=0),
    ]
    constants = {**zeros, **scales, **weights}
    body = packages.model(nodes, inputs={"x": (1, 64)}, outputs={"y": ()}, constants=constants)
    window = {**WINDOW, "signals": ["a"], "length": 64, "layout": "flat"}
    model = Model(load_package(packages.write(body, input=window)))
    assert model.run_window(np.ones((64, 1), np.float32)).values == {"power": 6400.0}
    assert (model.scanned.int8, model.scanned.exact) == (True, not signed)


@pytest.mark.parametrize("given", [{}, {"fit": "stretch"}])
def test_a_detector_without_a_fit_is_letterboxed_with_a_warning(
    packages,
    frame_input: Callable[..., dict[str, Any]],
    given: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = np.zeros((1, 5, 21), np.float32)
    out[0, :, 3] = (16, 16, 8, 8, 0.9)
    output = {"decoder": "detection", "head": "yolov8", "labels": ["person"]}
    body = packages.constant(out, shape=(1, 3, 32, 32))
    model = Model(load_package(packages.write(body, input=frame_input(**given), output=output)))
    # the middle quarter of the input; a letterboxed 640 x 480 fills 24 of its 32 rows
    height = 8 / 32 if given else 8 / 24
    box = model.run_frame(np.zeros((480, 640, 3), np.uint8)).boxes[0].box
    assert box == pytest.approx((0.375, 0.5 - height / 2, 0.25, height), abs=1e-3)
    assert ("input.fit is missing, so pictures are letterboxed" in caplog.text) == (not given)


MODEL_CC = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from x failed:/src/core/graph/model.cc:150 "
    "onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void (int)>&, bool) "
    "Unsupported model IR version: 99, max supported IR version: 11\n"
)
HELPER_H = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code. Status Message: /src/helper.h:47 "
    "onnxruntime::F::operator()(const A<B>&, bool) const [with T = int] shape == size was false."
)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            MODEL_CC,
            "Load model from x failed: Unsupported model IR version: 99, max supported IR version: 11",
        ),
        (HELPER_H, "Non-zero status code. Status Message: shape == size was false."),
        ("plain text", "plain text"),
        ("/src/a.cc:1 no signature", "no signature"),
        ("/src/a.cc:1 f(never closed", "f(never closed"),
        ("\x1b[2Jshout\r\n" + "x" * 1000, r"\x1b[2Jshout " + "x" * 384 + "..."),
    ],
)
def test_the_reason_comes_without_the_place_in_the_source(message: str, reason: str) -> None:
    assert _reason(RuntimeError(message)) == reason


def test_onnxruntime_sends_nothing_to_its_maker(packages: Any, tmp_path: Path) -> None:
    """From 1.29 on it keeps a device id and a queue of events in the home folder, and sends them."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()})
    script = (
        "import sys; from pathlib import Path\n"
        "from agent.inference.package import load_package; from agent.inference.session import Model\n"
        "Model(load_package(Path(sys.argv[1])))\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    subprocess.run(
        [sys.executable, "-c", script, str(packages.write(body))], env={**kept, "HOME": str(home)}, check=True
    )
    assert not list(home.rglob("*"))
