"""ONNX files that are damaged or hostile are refused, and listed weights are removed from the inputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from agent.inference.decoders import ModelError
from agent.inference.onnx_scan import edited, scan
from agent.inference.package import load_package
from agent.inference.session import Model

ONE = np.ones((1, 1), np.float32)


def refused(folder: Path) -> str:
    """The reason why the package is refused."""
    with pytest.raises(ModelError) as caught:
        Model(load_package(folder))
    return str(caught.value)


def test_garbage_is_refused(packages) -> None:
    good = packages.constant(ONE)
    for body in (b"", b"\x00" * 100, b"garbage" * 50, os.urandom(2000), good[:-20], good[: len(good) // 2]):
        text = refused(packages.write(body))
        assert "ONNX file" in text or "onnxruntime refuses it" in text


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
    assert isinstance(edited(bytes(body), scan(bytes(body)).edits), bytes)


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


def test_graphs_nested_too_deeply_are_refused(packages) -> None:
    graph = helper.make_graph([], "innermost", [], [])
    for depth in range(30):
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], ["y"], then_branch=graph)], f"g{depth}", [], []
        )
    made = helper.make_model(graph)
    assert "deeper than" in refused(packages.write(made.SerializeToString()))


def test_weights_listed_as_inputs_are_removed_from_them(packages) -> None:
    body = packages.constant(ONE)
    made = onnx.load_from_string(body)
    made.ir_version = 3
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    listed = made.SerializeToString()
    lean = onnx.load_from_string(edited(listed, scan(listed).edits))
    assert [each.name for each in lean.graph.input] == ["x"]
    assert lean.ir_version == 4
    assert list(lean.graph.node) == list(made.graph.node)
    assert Model(load_package(packages.write(listed))).run_window(np.zeros((4, 2), np.float32)).values == {
        "power": 1.0
    }


def test_a_scan_counts_operators_and_names_inputs_and_weights(packages) -> None:
    found = scan(packages.constant(ONE))
    assert found.nodes == 3
    assert found.initializers == {b"zero", b"c0"}
    assert found.inputs == {b"x"}


def test_a_file_without_listed_weights_stays_the_same(packages) -> None:
    body = packages.constant(ONE)
    assert edited(body, scan(body).edits) is body


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml", "com.microsoft"])
def test_operators_that_onnxruntime_has_are_allowed(packages, domain: str) -> None:
    nodes = [helper.make_node("Any", ["x"], ["y"], domain=domain)]
    assert scan(packages.model(nodes, inputs={"x": (1,)}, outputs={"y": (1,)})).nodes == 1
