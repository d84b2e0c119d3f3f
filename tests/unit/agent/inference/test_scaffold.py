"""A drafted manifest is valid: the model loads with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.inference import gate_process
from agent.inference.decoders import ModelError
from agent.inference.package import Package, load_package
from agent.inference.scaffold import draft, draft_in_child, quoted
from agent.inference.session import Model
from tests.unit.agent.conftest import Packages
from wire.yaml12 import compose


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


AWKWARD = [
    *(
        "0",
        "1",
        "-1",
        "1e3",
        "0x10",
        "1_000",
        "1:30",
        "null",
        "~",
        "yes",
        "no",
        "on",
        "true",
        "y",
        ".inf",
        ".nan",
    ),
    *(
        "x: y",
        "- x",
        "a #b",
        "#b",
        "{a}",
        "[a]",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "'a",
        '"a',
        "a\\b",
    ),
    *("a\nb", "\x1b[2J\r\n", "\t", " a ", "입력", "\u2028", "\ufeff", "\x85", "\U0001f600", "---", "..."),
]


def drafted(packages: Packages, folder: Path, name: str, file: str = "model.onnx") -> Package:
    nodes = [onnx.helper.make_node("Identity", [name], ["result"])]
    body = packages.model(nodes, inputs={name: (1, 2)}, outputs={"result": (1, 2)})
    (folder / file).write_bytes(body)
    text = draft(folder / file)
    assert all(line.isprintable() for line in text.splitlines())
    (folder / "manifest.yaml").write_text(text)
    return load_package(folder)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_draft_of_an_awkward_name_loads_and_means_that_name(
    packages: Packages, tmp_path: Path, name: str
) -> None:
    package = drafted(packages, tmp_path, name)
    assert package.manifest.input.name == name
    Model(package)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_any_text_is_quoted_so_that_every_reader_reads_it(name: str) -> None:
    assert yaml.safe_load(f"a: {quoted(name)}") == {"a": name}
    assert compose(f"a: {quoted(name)}")[0].plain() == {"a": name}
    assert quoted(name).isprintable()


@pytest.mark.parametrize("file", ["0.onnx", "123", "null", "모델.onnx", "a b.onnx", "x: y.onnx", "-.onnx"])
def test_a_draft_of_an_awkward_file_loads(packages: Packages, tmp_path: Path, file: str) -> None:
    package = drafted(packages, tmp_path, "x", file)
    assert package.manifest.file == file
    Model(package)


def test_a_draft_is_refused_with_a_sentence(packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="up to 256 characters"):
        drafted(packages, tmp_path, "x" * 300)
    with pytest.raises(ModelError, match="up to 256 characters"):
        drafted(packages, tmp_path, "x", "a\nb.onnx")
    os.mkfifo(tmp_path / "fifo.onnx")
    with pytest.raises(ModelError, match="is not a regular file"):
        draft(tmp_path / "fifo.onnx")


def test_finished_detections_are_drafted_as_such(packages: Packages, tmp_path: Path) -> None:
    (tmp_path / "end.onnx").write_bytes(packages.constant(np.zeros((1, 300, 6)), shape=(1, 3, 64, 64)))
    assert "head: end-to-end" in draft(tmp_path / "end.onnx")


def test_a_file_that_takes_long_to_load_ends_with_its_child(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime folds the constants of a file when it loads it: here products of large matrices.

    The limit is CPU time, which a busy machine does not use up for the child.
    """
    monkeypatch.setattr(gate_process, "CPU_S", 2)
    monkeypatch.setattr("agent.inference.scaffold._WALL_S", 600.0)
    make = onnx.helper.make_node
    nodes = [make("Expand", ["one", "shape"], ["m0"])]
    nodes += [make("MatMul", [f"m{at}", f"m{at}"], [f"m{at + 1}"]) for at in range(40)]
    nodes += [make("ReduceMean", ["m40"], ["mean"], keepdims=0), make("Add", ["x", "mean"], ["y"])]
    body = packages.model(
        nodes,
        inputs={"x": (1, 2)},
        outputs={"y": (1, 2)},
        constants={"one": np.ones((1, 1), np.float32), "shape": np.array([5000, 5000])},
    )
    (tmp_path / "long.onnx").write_bytes(body)
    with pytest.raises(ModelError, match=r"long\.onnx: it used more than 2 s of CPU") as caught:
        draft_in_child(tmp_path / "long.onnx")
    assert caught.value.reason_code == "model-gate-timeout"


def test_a_draft_of_the_child_is_the_draft(packages: Packages, tmp_path: Path) -> None:
    file = tmp_path / "a.onnx"
    file.write_bytes(packages.constant(np.zeros((1, 2)), shape=(1, 100, 6)))
    assert draft_in_child(file) == draft(file)
    file.write_text("hello")
    for make in (draft, draft_in_child):
        with pytest.raises(ModelError) as caught:
            make(file)
        assert str(caught.value) == f"{file}: is not an ONNX file: it is not a protobuf message"


def test_a_draft_is_refused_where_its_package_would_be(packages: Packages, tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [1, 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "text.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="its type must be one of float32, float64, float16"):
        draft(tmp_path / "text.onnx")
