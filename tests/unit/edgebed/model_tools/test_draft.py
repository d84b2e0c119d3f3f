"""A drafted manifest is valid: the model loads with it, and passes the gate once its TODOs are filled."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.inference import gate, gate_process
from agent.inference.decoders import ModelError
from agent.inference.manifest import Manifest
from agent.inference.package import Package, load_package
from agent.inference.session import Model
from edgebed.model_tools.draft import draft, draft_folder, draft_in_child
from edgebed.model_tools.manifest_text import quoted
from tests.unit.agent.conftest import Packages
from wire.errors import ConfigError
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
        ((1, 64, 2), [(1, 64, 2)], "reconstruction", ""),
        ((1, 16), [(1, 16)], "reconstruction", ""),
        ((1, 64, 2), [(1, 32, 4)], "regression", ""),
        ((1, 100, 6), [(1, 300)], "embedding", ""),
        ((1, 3, 64, 64), [(1, 2, 64, 64)], "regions", ""),
        ((1, 3, 64, 64), [(1, 32, 32, 5)], "regions", ""),
        ((1, 3, 64, 64), [(1, 1, 64, 64)], "regions", ""),
    ],
)
def test_a_draft_loads(
    packages, tmp_path: Path, shape: tuple[int, ...], outputs: list[tuple[int, ...]], decoder: str, head: str
) -> None:
    file = tmp_path / "My Model.onnx"
    file.write_bytes(packages.constant(*(np.zeros(output) for output in outputs), shape=shape))
    (tmp_path / "manifest.yaml").write_text(draft(file).text)
    model = Model(load_package(tmp_path))
    assert model.manifest.name == "my-model"
    assert model.manifest.decoder == decoder
    assert getattr(model.manifest.output, "head", "") == head


def recurrent(packages: Packages, after: tuple[str, str]) -> bytes:
    """A forecaster of two signals with two states, as torch exports an LSTM."""
    nodes = [onnx.helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    nodes += [onnx.helper.make_node("Identity", [name], [to]) for name, to in zip("hc", after, strict=True)]
    inputs = {"x": (1, 16, 2), "h": (1, 1, 8), "c": (1, 1, 8)}
    outputs = {"y": (), after[0]: (1, 1, 8), after[1]: (1, 1, 8)}
    return packages.model(nodes, inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("after", [("hn", "cn"), ("getitem_1", "getitem_2")])
def test_a_state_goes_round_whatever_its_outputs_are_called(
    packages: Packages, tmp_path: Path, after: tuple[str, str]
) -> None:
    (tmp_path / "model.onnx").write_bytes(recurrent(packages, after))
    text = draft(tmp_path / "model.onnx").text
    (tmp_path / "manifest.yaml").write_text(text)
    found = load_package(tmp_path).manifest
    assert found.input.state == dict(zip("hc", after, strict=True))
    assert ("guessed from shapes" in text) == (after[0] == "getitem_1")
    assert (found.decoder, found.input.rate_hz) == ("regression", 1), "it hears no sound"
    Model(load_package(tmp_path))


def test_a_model_file_is_called_as_its_folder_and_long_lists_have_a_line_each(
    packages: Packages, tmp_path: Path
) -> None:
    folder = tmp_path / "Pump Watch"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(packages.constant(np.full((1, 9), 3.0)))
    text = draft(folder / "model.onnx").text
    assert 'name: "pump-watch"' in text
    assert max(map(len, text.splitlines())) < 160
    assert len(yaml.safe_load(text)["output"]["fields"]) == 9


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
    text = draft(folder / file).text
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
    nothing = packages.constant(np.zeros((1, 3, 7, 300)), shape=(1, 3, 64, 64))
    (tmp_path / "x.onnx").write_bytes(nothing)
    with pytest.raises(ModelError, match=r"x\.onnx: no decoder reads its outputs"):
        draft(tmp_path / "x.onnx")
    batch = packages.constant(np.zeros((8, 2)), shape=(8, 100, 6))
    (tmp_path / "batch.onnx").write_bytes(batch)
    with pytest.raises(ModelError, match="takes 8 at a time: export it with a batch of 1"):
        draft(tmp_path / "batch.onnx")


def test_finished_detections_are_drafted_as_such(packages: Packages, tmp_path: Path) -> None:
    (tmp_path / "end.onnx").write_bytes(packages.constant(np.zeros((1, 300, 6)), shape=(1, 3, 64, 64)))
    assert "head: end-to-end" in draft(tmp_path / "end.onnx").text


def test_a_file_that_takes_long_to_load_ends_with_its_child(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime folds the constants of a file when it loads it: here products of large matrices.

    The limit is CPU time, which a busy machine does not use up for the child.
    """
    monkeypatch.setattr(gate_process, "CPU_S", 2)
    monkeypatch.setattr("edgebed.model_tools.draft._WALL_S", 600.0)
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


# -- families: what their exporters write --------------------------------------------------------------------


def _file(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int | str]]],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray] | None = None,
    notes: dict[str, str] | None = None,
) -> bytes:
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [onnx.helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        outputs,
        [onnx.numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    made = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.helper.set_model_props(made, notes or {})
    body: bytes = made.SerializeToString()
    return body


FLOAT, INT64, STRING = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.STRING
make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info


def ultralytics(task: str, output: tuple[int, ...], names: str, **notes: str) -> bytes:
    """As Ultralytics writes it: notes in Python's own spelling, open height and width."""
    notes = {"task": task, "stride": "32", "imgsz": "[96, 64]", "batch": "1", "names": names, **notes}
    nodes = [make("ReduceMean", ["images"], ["mean"], keepdims=0), make("Mul", ["mean", "zero"], ["nothing"])]
    nodes.append(make("Add", ["table", "nothing"], ["output0"]))
    table = np.full(output, 0.3, np.float32)
    if output[-1] == 6:
        table[...] = [5, 5, 30, 30, 0.3, 1]  # finished detections: corners, score, class
    elif task != "classify":
        table[:, :4] = 30  # boxes in pixels
    inputs = {"images": (FLOAT, [1, 3, "height", "width"])}
    constants = {"zero": np.zeros((), np.float32), "table": table}
    return _file(nodes, inputs, [info("output0", FLOAT, output)], constants, notes)


def forest(*, zipmap: bool, classes: list[str]) -> bytes:
    """As skl2onnx writes a classifier: the label first, then shares, or a map of them; rows are open."""
    linear = make(
        "LinearClassifier",
        ["X"],
        ["label", "shares"],
        domain="ai.onnx.ml",
        coefficients=[float(at % 5 - 2) for at in range(4 * len(classes))],
        intercepts=[0.0] * len(classes),
        classlabels_strings=classes,
        post_transform="SOFTMAX",
    )
    outputs = [info("label", STRING, ["N"]), info("shares", FLOAT, ["N", len(classes)])]
    nodes = [linear]
    if zipmap:
        nodes.append(make("ZipMap", ["shares"], ["maps"], domain="ai.onnx.ml", classlabels_strings=classes))
        kind = onnx.helper.make_map_type_proto(STRING, onnx.helper.make_tensor_type_proto(FLOAT, None))
        outputs[1] = onnx.helper.make_value_info("maps", onnx.helper.make_sequence_type_proto(kind))
    return _file(nodes, {"X": (FLOAT, ["N", 4])}, outputs)


def voice() -> bytes:
    """As silero writes its VAD: sound, a state that goes round, and the sample rate."""
    nodes = [
        make("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1),
        make("Cast", ["sr"], ["rate"], to=FLOAT),
        make("Div", ["mean", "rate"], ["scaled"]),
        make("Sigmoid", ["scaled"], ["output"]),
        make("Add", ["state", "scaled"], ["stateN"]),
    ]
    inputs = {"input": (FLOAT, ["B", "T"]), "state": (FLOAT, [2, "B", 8]), "sr": (INT64, [])}
    return _file(nodes, inputs, [info("output", FLOAT, ["B", 1]), info("stateN", FLOAT, ["a", "b", "c"])])


def columns() -> bytes:
    """As skl2onnx writes a pipeline of a table: an input for each column."""
    nodes = [make("Concat", ["Speed (km/h)", "slope", "2nd"], ["variable"], axis=1)]
    inputs = {name: (FLOAT, [None, 1]) for name in ("Speed (km/h)", "slope", "2nd")}
    return _file(nodes, inputs, [info("variable", FLOAT, [None, 3])])


def outliers() -> bytes:
    """As skl2onnx writes a one-class SVM: a label of 1 or -1, and a score below 0 for outliers."""
    nodes = [
        make("ReduceSum", ["X", "axis"], ["scores"]),
        make("Sign", ["scores"], ["signs"]),
        make("Cast", ["signs"], ["label"], to=INT64),
    ]
    outputs = [info("label", INT64, ["N", 1]), info("scores", FLOAT, ["N", 1])]
    return _file(nodes, {"X": (FLOAT, ["N", 4])}, outputs, {"axis": np.array([1])})


COCO = str({0: "person", 1: 'a "big" car', 2: "문\x1b[31m"})
FAMILIES = {
    "detect": (ultralytics("detect", (1, 7, 126), COCO), "detection"),
    "pose": (ultralytics("pose", (1, 14, 126), "{0: 'person'}", kpt_shape="[3, 3]"), "detection"),
    "end-to-end": (ultralytics("detect", (1, 300, 6), COCO), "detection"),
    "classify": (ultralytics("classify", (1, 3), COCO), "classification"),
    "zipmap": (forest(zipmap=True, classes=["calm", "rough", "storm"]), "classification"),
    "shares": (forest(zipmap=False, classes=["null", "1", "x: y"]), "classification"),
    "voice": (voice(), "classification"),
    "columns": (columns(), "regression"),
    "outliers": (outliers(), "anomaly"),
}


def _filled(folder: Path) -> Package:
    """The package of a draft whose TODOs are taken as they are guessed."""
    text = (folder / "manifest.yaml").read_text()
    (folder / "manifest.yaml").write_text(re.sub(r" # TODO:.*", "", text))
    return load_package(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_filled_draft_passes_the_gate(tmp_path: Path, family: str) -> None:
    body, decoder = FAMILIES[family]
    (tmp_path / "model.onnx").write_bytes(body)
    assert draft_folder(tmp_path, force=False) == ["manifest.yaml"]
    package = _filled(tmp_path)
    assert package.manifest.decoder == decoder
    gate.verify(package)


def test_a_draft_has_what_the_file_says(tmp_path: Path) -> None:
    def said(family: str) -> Manifest:
        (tmp_path / "model.onnx").write_bytes(FAMILIES[family][0])
        draft_folder(tmp_path, force=True)
        return _filled(tmp_path).manifest

    found = said("detect")
    assert (found.input.size, found.input.fit, found.output.head) == ((64, 96), "letterbox", "yolov8")
    assert found.output.labels == ["person", 'a "big" car', "문\\x1b[31m"]
    assert said("classify").input.fit == "crop"
    assert said("pose").output.keypoints == ["point-0", "point-1", "point-2"]
    assert said("end-to-end").output.head == "end-to-end"
    assert said("shares").output.labels == ["null", "1", "x: y"]
    assert said("zipmap").output.labels == ["calm", "rough", "storm"]
    found = said("voice")
    assert (found.input.state, found.input.constants) == ({"state": "stateN"}, {"sr": 16_000})
    assert found.input.rate_hz == 16_000
    assert said("columns").input.signals == ["speed_km_h", "slope", "input_3"]
    assert said("outliers").output.sign == -1


@pytest.mark.parametrize(
    "names",
    ["{" * 200_000, "[" * 90 + "]" * 90, "__import__('os')", "{0: 'a', 7: 'b'}", "\0", "{0: 1, 1: 1, 2: 1}"],
)
def test_notes_that_are_not_names_give_no_names(tmp_path: Path, names: str) -> None:
    (tmp_path / "model.onnx").write_bytes(ultralytics("detect", (1, 7, 126), names))
    draft_folder(tmp_path, force=False)
    labels = _filled(tmp_path).manifest.output.labels
    assert labels[0] == "class-0"


def _test_data(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    (folder / name).mkdir()
    for file, array in arrays.items():
        tensor = onnx.numpy_helper.from_array(array)
        if array.dtype == np.int64:  # as other writers do it: a list instead of raw bytes
            flat = array.reshape(-1).tolist()
            tensor = onnx.helper.make_tensor("x", INT64, array.shape, flat)
        (folder / name / f"{file}.pb").write_bytes(tensor.SerializeToString())


def test_test_data_become_golden_vectors(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(voice())
    sound, state = np.full((1, 512), 8000, np.float32), np.zeros((2, 1, 8), np.float32)
    rate = np.array(8000)
    right = {"input_0": sound, "input_1": state, "input_2": rate}
    out = {"output_0": np.array([[0.73106]], np.float32), "output_1": state + 1}
    _test_data(tmp_path, "test_data_set_0", {**right, **out})
    _test_data(tmp_path, "test_data_set_1", {**right, **out, "input_1": state + 3})
    _test_data(tmp_path, "test_data_set_2", {**right, "input_0": sound[:, :100], **out})
    made = draft_folder(tmp_path, force=False)
    assert made == ["golden/test_data_set_0.npz", "manifest.yaml"]
    text = (tmp_path / "manifest.yaml").read_text()
    assert "# test_data_set_1 gave no golden vector: its input 1 is not what the manifest gives it" in text
    assert "# test_data_set_2 gave no golden vector: its input is [1, 100], not [1, 512]" in text
    package = _filled(tmp_path)
    assert package.manifest.input.constants == {"sr": 8000}
    assert gate.verify(package).golden == 1
    with np.load(tmp_path / made[0]) as vector:
        changed = {**vector, "output_0": vector["output_0"] * 0.9}
    np.savez(tmp_path / made[0], **changed)
    with pytest.raises(ModelError, match=r"test_data_set_0\.npz: output 0 is off"):
        gate.verify(package)


def test_nothing_is_overwritten_without_force(packages: Packages, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(packages.constant(np.zeros((1, 2)), shape=(1, 100, 6)))
    (tmp_path / "manifest.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"manifest\.yaml is there already: --force replaces it"):
        draft_folder(tmp_path, force=False)
    assert (tmp_path / "manifest.yaml").read_text() == "mine"
    (tmp_path / "other").write_text("other")
    (tmp_path / "manifest.yaml").unlink()
    (tmp_path / "manifest.yaml").symlink_to("other")
    draft_folder(tmp_path, force=True)
    assert (tmp_path / "other").read_text() == "other", "a link is replaced, not followed"
    (tmp_path / "second.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="has 2 files that end in"):
        draft_folder(tmp_path, force=True)
