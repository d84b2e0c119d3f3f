"""Models on a real onnxruntime: what fits runs from any thread, what does not is refused with the reason."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from agent.inference.onnx_scan import freed, scan
from agent.inference.package import Model, ModelError, load_package

ONE = np.ones((1, 1), np.float32)


def refused(folder: Path) -> str:
    """Why the package cannot be used, wherever that shows."""
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
    model = Model(load_package(packages.write(body, input=frame_input(), output=output)))
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


def test_missing_values_travel_as_null(packages) -> None:
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
            r"a tensor \[1, 4, 1\], the model wants x float32\[1, 4, 2\]",
        ),
        ("input", {"kind": "frame", "name": "x", "size": [32, 32]}, r"a tensor \[1, 3, 32, 32\]"),
        (
            "output",
            {"decoder": "classification", "labels": ["a", "b"]},
            r"2 labels do not fit .* y0 float32\[1, 1\]",
        ),
        ("output", {"decoder": "detection", "head": "yolox", "labels": ["a"]}, "an input of kind frame"),
        ("sha256", "a" * 64, "it is another file, or the manifest was not updated"),
        ("file", "other.onnx", "is missing"),
        ("file", "../m2/model.onnx", "not a path inside the package"),
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


def test_a_file_over_the_cap_is_not_read(packages) -> None:
    folder = packages.write(packages.constant(ONE))
    with pytest.raises(ModelError, match="bytes; 100 are allowed"):
        load_package(folder, max_bytes=100)


# -- hostile files -----------------------------------------------------------------------------------------


def test_garbage_is_refused(packages) -> None:
    good = packages.constant(ONE)
    for body in (b"", b"\x00" * 100, b"garbage" * 50, os.urandom(2000), good[:-20], good[: len(good) // 2]):
        said = refused(packages.write(body))
        assert "ONNX file" in said or "onnxruntime refuses it" in said


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_to_a_file_is_refused_or_runs(packages, data: st.DataObject) -> None:
    body = bytearray(packages.constant(ONE))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        scan(bytes(body))
    except ModelError:
        return
    assert isinstance(freed(bytes(body), scan(bytes(body))), bytes)


def test_weights_outside_the_file_are_refused(packages, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1024], np.zeros(1024))
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../secret.bin")
    nodes = [helper.make_node("ReduceSum", ["w"], ["y"], keepdims=0)]
    made = onnx.load_from_string(packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))
    made.graph.initializer.append(weights)
    assert "outside the file" in refused(packages.write(made.SerializeToString()))


def test_weights_outside_the_file_are_found_in_a_branch(packages) -> None:
    hidden = numpy_helper.from_array(ONE, "hidden")
    hidden.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph([helper.make_node("Constant", [], ["b"], value=hidden)], "branch", [], [])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    body = packages.model(nodes, inputs={"x": (1,)}, outputs={"y": (1, 1)})
    assert "outside the file" in refused(packages.write(body))


def test_operators_from_elsewhere_are_refused(packages) -> None:
    nodes = [helper.make_node("Evil", ["x"], ["y"], domain="com.example")]
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": (1, 1)})
    assert "needs operators of 'com.example'" in refused(packages.write(body))


def test_graphs_nested_without_end_are_refused(packages) -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for depth in range(30):
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], ["y"], then_branch=graph)], f"g{depth}", [], []
        )
    made = helper.make_model(graph)
    assert "deeper than" in refused(packages.write(made.SerializeToString()))


def test_outputs_of_no_end_are_refused(packages) -> None:
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


def test_a_run_that_fails_says_so(packages) -> None:
    """Shapes that only show when it runs: the reshape cannot work."""
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    body = packages.model(
        nodes,
        inputs={"x": ("n", 4, 2)},
        outputs={"y": ("m", 7)},
        constants={"to": np.array([-1, 7], np.int64)},
    )
    assert "the run failed" in refused(packages.write(body))


def test_weights_listed_as_inputs_are_no_inputs(packages) -> None:
    body = packages.constant(ONE)
    made = onnx.load_from_string(body)
    made.ir_version = 3
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    listed = made.SerializeToString()
    lean = onnx.load_from_string(freed(listed, scan(listed)))
    assert [each.name for each in lean.graph.input] == ["x"]
    assert lean.ir_version == 4
    assert list(lean.graph.node) == list(made.graph.node)
    assert Model(load_package(packages.write(listed))).run_window(np.zeros((4, 2), np.float32)).values == {
        "power": 1.0
    }
