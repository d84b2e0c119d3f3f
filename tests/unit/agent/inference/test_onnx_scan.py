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

from agent.inference import onnx_scan
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


def test_weights_outside_the_file_are_found_under_a_number_that_other_readers_cut(packages) -> None:
    """onnxruntime reads 32 bits of the number of a field: a scan that reads more sees another field."""
    made = onnx.load_from_string(packages.constant(ONE))
    weights = made.graph.initializer[0]
    entry = onnx.StringStringEntryProto(key="location", value="model.onnx").SerializeToString()
    name, dims = weights.name, list(weights.dims)
    del made.graph.initializer[0]
    tensor = onnx.TensorProto(name=name, dims=dims, data_type=TensorProto.FLOAT).SerializeToString()
    for key, content in ((13 << 3 | 2, onnx_scan.varint(len(entry)) + entry), (14 << 3, b"\x01")):
        tensor += bytes([key | 0x80, 0x80, 0x80, 0x80, 0x10]) + content
    graph = made.graph.SerializeToString() + field(5, tensor)
    made.ClearField("graph")
    text = refused(packages.write(made.SerializeToString() + field(7, graph)))
    assert "is not an ONNX file: it is not a protobuf message" in text


def test_a_file_that_looks_like_another_format_is_loaded_as_it_was_scanned(packages) -> None:
    """onnxruntime takes a file with ORTM at the fifth byte for its own format, which the scan cannot read."""
    body = b"\x12\x06aaORTM" + packages.constant(ONE)
    assert onnx.load_from_string(body).producer_name == "aaORTM"
    Model(load_package(packages.write(body)))


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


def field(number: int, body: bytes) -> bytes:
    """A protobuf record with a message or text."""
    out = bytearray()
    for value in (number << 3 | 2, len(body)):
        out += onnx_scan.varint(value)
    return bytes(out) + body


HOSTILE = {
    "whole numbers of an attribute": lambda n: field(7, field(1, field(5, b"\x40\x01" * n))),
    "whole numbers of no message": lambda n: b"\x40\x01" * n,
    "texts of an attribute": lambda n: field(7, field(1, field(5, b"\x4a\x02ab" * n))),
    "numbers of a tensor": lambda n: field(7, field(5, b"\x25\x00\x00\x80\x3f" * n)),
    "operators": lambda n: field(7, b"\x0a\x00" * n),
    "tensors": lambda n: field(7, b"\x2a\x00" * n),
    "named tensors": lambda n: field(7, b"\x2a\x03\x42\x01a" * n),
    "inputs": lambda n: field(7, b"\x5a\x03\x0a\x01a" * n),
    "functions": lambda n: b"\xca\x01\x00" * n,
    "records of high numbers": lambda n: b"\x80\x02\x01" * n,
    "outputs of operators": lambda n: field(7, field(1, b"\x12\x01a" * n)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_of_tiny_records_is_read_once_and_within_a_limit(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the records that are looked at one by one: the others cost a hundredth of them."""
    looked: list[int] = []
    record = onnx_scan._Walk._record

    def counted(walk: onnx_scan._Walk, at: int) -> int:
        looked.append(at)
        return record(walk, at)

    monkeypatch.setattr(onnx_scan._Walk, "_record", counted)
    monkeypatch.setattr(onnx_scan, "_MAX_RECORDS", 1000)
    try:
        scan(HOSTILE[case](100_000))
    except ModelError as error:
        assert str(error).isprintable()
    assert len(looked) <= 1000
    assert looked == sorted(set(looked)), "no record is read twice"


def test_a_scan_reads_what_is_behind_a_run_of_short_records(packages) -> None:
    """Short records of other fields stand around what is looked for, in a file that is valid all the same."""
    made = onnx.load_from_string(packages.constant(ONE))
    for node in made.graph.node:
        node.attribute.append(helper.make_attribute("filler", [1] * 3000))
        node.attribute.append(helper.make_attribute("texts", ["ab"] * 3000))
    hidden = numpy_helper.from_array(ONE, "hidden")
    hidden.external_data.add(key="location", value="/etc/passwd")
    assert scan(made.SerializeToString()).nodes == 3
    made.graph.node[-1].attribute.append(helper.make_attribute("value", hidden))
    with pytest.raises(ModelError, match="outside the file"):
        scan(made.SerializeToString())


def test_weights_outside_the_file_are_found_in_a_function_and_in_training(packages) -> None:
    hidden = numpy_helper.from_array(ONE, "hidden")
    hidden.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["b"], value=hidden)
    made = onnx.load_from_string(packages.constant(ONE))
    made.functions.append(helper.make_function("own", "f", [], ["b"], [node], [helper.make_opsetid("", 17)]))
    other = onnx.load_from_string(packages.constant(ONE))
    other.training_info.add().algorithm.node.append(node)
    for each in (made, other):
        with pytest.raises(ModelError, match="outside the file"):
            scan(each.SerializeToString())


def test_an_operator_of_a_function_that_the_file_defines_is_allowed(packages) -> None:
    made = onnx.load_from_string(packages.constant(ONE))
    inner = helper.make_node("Identity", ["a"], ["b"])
    made.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], [inner], [helper.make_opsetid("", 17)])
    )
    made.graph.node.append(helper.make_node("f", ["x"], ["z"], domain="own"))
    assert scan(made.SerializeToString()).nodes == 5
    made.graph.node.append(helper.make_node("f", ["x"], ["w"], domain="\x1b[2J"))
    with pytest.raises(ModelError) as caught:
        scan(made.SerializeToString())
    assert str(caught.value) == r"needs operators of '\x1b[2J', which this agent does not load"


def test_operators_of_8_bits_are_found(packages) -> None:
    nodes = [helper.make_node("MatMulInteger", ["x", "x"], ["y"])]
    assert scan(packages.model(nodes, inputs={"x": (1,)}, outputs={"y": (1,)})).int8
    assert not scan(packages.constant(ONE)).int8
