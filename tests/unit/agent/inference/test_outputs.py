"""Outputs by name, labels that come first, and maps of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import CPU, Model

WINDOW = {
    "kind": "window",
    "name": "x",
    "signals": ["a", "b", "c"],
    "rate_hz": 1,
    "length": 1,
    "layout": "flat",
}
ROWS = np.array([[[0.1, 2.0, 0.3]], [[3.0, 0.5, 0.0]], [[0.0, 0.5, 1.0]]], np.float32)
FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, [])


def classifier(classes: list[Any], *, zipmap: bool) -> bytes:
    """As scikit-learn and LightGBM export it: the label first, then the shares of the classes."""
    text = isinstance(classes[0], str)
    kind = TensorProto.STRING if text else TensorProto.INT64
    names = {"classlabels_strings" if text else "classlabels_int64s": classes}
    nodes = [
        helper.make_node("Softmax", ["x"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["best"], axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["classes", "best"], ["label"], domain="ai.onnx.ml"),
    ]
    table = helper.make_tensor("classes", kind, [len(classes)], [c.encode() if text else c for c in classes])
    label = helper.make_tensor_value_info("label", kind, None)
    label.type.tensor_type.shape.dim.add().dim_param = "N"
    scores = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(classes)])
    if zipmap:
        nodes.append(helper.make_node("ZipMap", ["probabilities"], ["maps"], domain="ai.onnx.ml", **names))
        scores = helper.make_value_info(
            "maps", helper.make_sequence_type_proto(helper.make_map_type_proto(kind, FLOAT))
        )
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(classes)])]
    graph = helper.make_graph(nodes, "test", inputs, [label, scores], [table])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        ([0, 1, 2], ["idle", "cut", "jam"]),
        ([0, 1, 2], ["0", "1", "2"]),
        ([10, 20, 30], ["10", "20", "30"]),
        (["cut", "idle", "jam"], ["cut", "idle", "jam"]),
    ],
)
def test_a_classifier_with_the_label_first_gives_its_classes(
    packages, classes: list[Any], labels: list[str], zipmap: bool
) -> None:
    body = classifier(classes, zipmap=zipmap)
    output = {"decoder": "classification", "labels": labels, "scores": labels[0].isalpha()}
    folder = packages.write(body, input=WINDOW, output=output)
    gate.inspect(load_package(folder), CPU)
    model, session = Model(load_package(folder)), onnxruntime.InferenceSession(body)
    for row in ROWS:
        found = model.run_window(row)
        label, scores = session.run(None, {"x": row})
        shares = list(scores[0].values()) if zipmap else scores[0].tolist()
        assert found.top == labels[classes.index(label[0])]
        assert found.score == pytest.approx(max(shares))


def test_maps_with_names_are_read_by_name(packages) -> None:
    """The order of the labels in the manifest is not that of the classes in the file."""
    body = classifier(["cut", "idle", "jam"], zipmap=True)
    output = {"decoder": "classification", "labels": ["jam", "cut", "idle"], "scores": True}
    model = Model(load_package(packages.write(body, input=WINDOW, output=output)))
    shares = np.exp(ROWS[0, 0]) / np.exp(ROWS[0, 0]).sum()
    assert model.run_window(ROWS[0]).values == {
        "label": "idle",
        "score": pytest.approx(shares[1]),
        "jam": pytest.approx(shares[2]),
        "cut": pytest.approx(shares[0]),
        "idle": pytest.approx(shares[1]),
    }


@pytest.mark.parametrize(
    ("classes", "labels"), [(["cut", "idle", "jam"], ["a", "b", "c"]), ([0, 1, 2], ["a", "b"])]
)
def test_labels_that_are_not_the_classes_are_refused(packages, classes: Any, labels: list[str]) -> None:
    output = {"decoder": "classification", "labels": labels}
    folder = packages.write(classifier(classes, zipmap=True), input=WINDOW, output=output)
    with pytest.raises(ModelError, match=f"must be the model's 3 classes: {', '.join(map(str, classes))}"):
        gate.inspect(load_package(folder), CPU)


def two(packages, *, first: str = "wanted", kind: int = TensorProto.FLOAT) -> bytes:
    """Two outputs of one number: the sum, and the product."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("ReduceProd", ["x"], ["other"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["wanted"], to=kind),
    ]
    outputs = {"wanted": (), "other": ()} if first == "wanted" else {"other": (), "wanted": ()}
    return packages.model(nodes, inputs={"x": (1, 3)}, outputs=outputs, types={"wanted": kind})


@pytest.mark.parametrize("first", ["wanted", "other"])
@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64]
)
def test_an_output_is_read_by_name(packages, first: str, kind: int) -> None:
    output = {"decoder": "regression", "fields": {"power": {}}, "tensors": ["wanted"]}
    folder = packages.write(two(packages, first=first, kind=kind), input=WINDOW, output=output)
    assert Model(load_package(folder)).run_window(np.ones((1, 3), np.float32)).values == {"power": 3.0}
    (folder / "golden").mkdir()
    np.savez(folder / "golden/a.npz", input=np.ones((1, 3), np.float32), output_0=np.array(3))
    assert gate.inspect(load_package(folder), CPU).golden == 1, "output_0 is the first that is read"


def test_outputs_are_read_in_the_order_of_the_manifest(packages) -> None:
    fields = {"product": {}, "sum": {}}
    output = {"decoder": "regression", "fields": fields, "tensors": ["other", "wanted"]}
    model = Model(load_package(packages.write(two(packages), input=WINDOW, output=output)))
    assert model.run_window(np.full((1, 3), 2, np.float32)).values == {"product": 8.0, "sum": 6.0}


def test_an_output_that_is_not_there_is_refused_with_those_that_are(packages) -> None:
    output = {"decoder": "regression", "fields": {"power": {}}, "tensors": ["none"]}
    folder = packages.write(two(packages), input=WINDOW, output=output)
    with pytest.raises(
        ModelError, match=r"output\.tensors names 'none', the model's outputs are wanted, other"
    ):
        Model(load_package(folder))


def test_an_output_that_no_decoder_reads_may_be_anything(packages) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0),
        helper.make_node("SequenceConstruct", ["x"], ["s"]),
        helper.make_node("Optional", ["x"], ["o"]),
    ]
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 3]))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [
            helper.make_value_info("s", sequence),
            helper.make_value_info("o", optional),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    output = {"decoder": "regression", "fields": {"power": {}}}
    for name, shown in (("s", "seq"), ("o", "optional")):
        folder = packages.write(body.SerializeToString(), input=WINDOW, output={**output, "tensors": [name]})
        with pytest.raises(ModelError, match=f"output '{name}' is {shown}.*not a tensor: name the outputs"):
            Model(load_package(folder))
    named = packages.write(body.SerializeToString(), input=WINDOW, output={**output, "tensors": ["y"]})
    assert Model(load_package(named)).run_window(np.ones((1, 3), np.float32)).values == {"power": 3.0}


def test_a_state_that_is_not_numbers_is_refused(packages) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "before"], ["y"]),
        helper.make_node("Cast", ["y"], ["text"], to=TensorProto.STRING),
    ]
    body = packages.model(
        nodes,
        inputs={"x": (1, 3), "before": ()},
        outputs={"y": (), "text": ()},
        types={"text": TensorProto.STRING},
    )
    output = {"decoder": "regression", "fields": {"power": {}}}
    folder = packages.write(body, input={**WINDOW, "state": {"before": "text"}}, output=output)
    with pytest.raises(ModelError, match=r"output 'text' is tensor\(string\), not numbers"):
        Model(load_package(folder))
