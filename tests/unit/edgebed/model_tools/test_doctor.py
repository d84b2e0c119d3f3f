"""`edgebed model doctor`: what it finds, that a repaired file gives the same, and files that lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from agent.inference.decoders import ModelError
from agent.inference.onnx_scan import scan
from agent.inference.session import open_file
from edgebed.cli import command
from edgebed.model_tools import compare, rewrite
from edgebed.model_tools.compare import Compared
from edgebed.model_tools.doctor import diagnose
from wire.errors import ConfigError

WEIGHTS = np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)


def made(path: Path, *, opset: int = 17, ir: int = 8, change: Any = None) -> Path:
    """A file of one product: the batch is open, and the second output is not needed."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("y", "z")],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    if change is not None:
        change(model)
    path.write_bytes(model.SerializeToString())
    return path


def weights_as_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8]))


def outside(model: onnx.ModelProto, location: str = "w.bin", offset: int = 4) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(WEIGHTS.nbytes))):
        tensor.external_data.add(key=key, value=value)


def repaired(file: Path, **options: Any) -> tuple[list[str], onnx.ModelProto]:
    """What was repaired, and the repaired file, which `onnx` finds valid."""
    out = file.with_name("out.onnx")
    found = diagnose(file, fix=out, **{"dims": {}, "keep": (), **options})
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert found.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert found.compared is not None
    assert found.compared.worst <= compare.TOLERANCE
    assert found.compared.inputs == 4
    low, high = found.compared.interval
    assert 0 < low <= found.compared.gain <= high
    assert not list(file.parent.glob(".out*")), "nothing is left behind"
    return [each.text for each in found.findings if each.repaired], model


def test_weights_that_are_inputs_become_constants_and_unused_domains_go(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        weights_as_inputs(model)
        model.opset_import.append(helper.make_opsetid("com.example.\x1b[31m", 1))

    texts, model = repaired(made(tmp_path / "m.onnx", ir=3, change=change))
    assert any(text.startswith("1 weights are inputs too (w)") for text in texts)
    assert r"operators of com.example.\x1b[31m are imported and not used" in texts
    assert [each.name for each in model.graph.input] == ["x"]
    assert [each.domain for each in model.opset_import] == [""]
    assert model.ir_version == 4


def test_an_open_batch_becomes_1_wherever_it_is_named(tmp_path: Path) -> None:
    texts, model = repaired(made(tmp_path / "m.onnx"))
    assert texts == ["open axes are fixed: batch to 1"]
    for each in [*model.graph.input, *model.graph.output]:
        assert [dim.dim_value for dim in each.type.tensor_type.shape.dim] == [1, 8]


def test_other_axes_are_fixed_by_name_alone(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for each in [*model.graph.input, *model.graph.output]:
            each.type.tensor_type.shape.dim[0].dim_value = 1
            rows = each.type.tensor_type.shape.dim.add()
            rows.dim_value = 8
            each.type.tensor_type.shape.dim[1].dim_param = "rows"

    file = made(tmp_path / "m.onnx", change=change)
    shown = [each.text for each in diagnose(file, fix=None, dims={}, keep=()).findings]
    assert shown == ["open axes: rows; fix them with --dim NAME=LENGTH"]
    texts, model = repaired(file, dims={"rows": 5})
    assert texts == ["open axes are fixed: rows to 5"]
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [1, 5, 8]


def test_outputs_that_are_not_read_are_left_out(tmp_path: Path) -> None:
    file = made(tmp_path / "m.onnx")
    texts, model = repaired(file, keep=("z",))
    assert "outputs that the manifest does not read: y" in texts
    assert [each.name for each in model.graph.output] == ["z"]
    found = rewrite.rewritten(file.read_bytes(), tmp_path, {}, {"other"})
    assert found.dropped == [], "a name that is not there leaves all"


def test_weights_in_another_file_come_into_this_one(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"....."[:4] + WEIGHTS.tobytes() + b"more")
    file = made(tmp_path / "m.onnx", change=outside)
    with pytest.raises(ModelError, match="weights outside the file"):
        scan(file.read_bytes())
    texts, model = repaired(file)
    assert "1 weights are in other files: the agent refuses it" in texts
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), WEIGHTS)


@pytest.mark.parametrize(
    ("location", "offset", "why"),
    [
        ("../w.bin", 0, "is not a path inside the package"),
        ("/etc/hostname", 0, "is not a path inside the package"),
        ("link.bin", 0, "link.bin is not a regular file"),
        ("fifo", 0, "fifo is not a regular file"),
        ("none.bin", 0, "none.bin"),
        ("w.bin", 1 << 62, "beyond the end of w.bin"),
        ("w.bin", -8, "beyond the end of w.bin"),
        ("", 0, "is not a path inside the package"),
    ],
)
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str, offset: int, why: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "link.bin").symlink_to("w.bin")
    os.mkfifo(tmp_path / "fifo")
    file = made(tmp_path / "m.onnx", change=lambda model: outside(model, location, offset))
    with pytest.raises(ModelError, match=why):
        diagnose(file, fix=tmp_path / "out.onnx", dims={}, keep=())
    assert not (tmp_path / "out.onnx").exists()


def test_what_it_cannot_repair_is_said(tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Cast", ["z"], ["d"], to=TensorProto.DOUBLE))
        model.graph.output.append(helper.make_tensor_value_info("d", TensorProto.DOUBLE, None))

    file = made(tmp_path / "m.onnx", opset=11, change=change)
    texts = [each.text for each in diagnose(file, fix=None, dims={}, keep=()).findings if not each.repaired]
    assert texts == [
        "outputs without a shape: d: export with them",
        "opset 11 is old: export with 13 or newer",
        "1 weights or casts are float64, which takes twice the time: export in float32",
    ]


def test_another_model_is_never_taken_for_the_same(tmp_path: Path) -> None:
    def other(model: onnx.ModelProto) -> None:
        changed = WEIGHTS.copy()
        changed[3, 3] += 0.01
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, "w"))

    one, two = made(tmp_path / "a.onnx"), made(tmp_path / "b.onnx", change=other)
    with pytest.raises(ModelError, match=r"the outputs differ by .* so it is another model"):
        compare.compare(one, two)
    assert compare.compare(one, one).worst == 0


def test_a_repair_that_changes_the_outputs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: Path) -> Compared:
        raise ModelError("the outputs differ")

    monkeypatch.setattr("edgebed.model_tools.doctor.compare", differs)
    with pytest.raises(ModelError, match=r"m\.onnx: the outputs differ"):
        diagnose(made(tmp_path / "m.onnx"), fix=tmp_path / "out.onnx", dims={}, keep=())
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_graphs_in_graphs_end_with_a_sentence() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    for _ in range(12):
        graph = helper.make_graph([node], "g", [], [])
        node = helper.make_node(
            "If", ["c"], ["y"], then_branch=graph, else_branch=helper.make_graph([], "e", [], [])
        )
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(ModelError, match="deeper than 8"):
        rewrite.rewritten(model.SerializeToString(), Path(), {}, None)


def test_the_command_shows_repairs_and_replaces_nothing(tmp_path: Path) -> None:
    file = made(tmp_path / "m.onnx", change=weights_as_inputs)

    def doctor(*words: object) -> str:
        done = CliRunner().invoke(command, ["model", "doctor", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "can be repaired: 1 weights are inputs too (w)" in doctor(file)
    out = tmp_path / "out.onnx"
    shown = doctor(file, "--fix", out)
    assert "the same outputs on 4 inputs" in shown
    assert "times as fast (95 %: " in shown
    assert open_file(out.read_bytes()) is not None
    with pytest.raises(ConfigError, match="is there already: --force replaces it"):
        doctor(file, "--fix", out)
    assert json.loads(doctor(file, "--fix", out, "--force", "--json"))["sha256"]
    assert "nothing to repair" in doctor(out)
    done = CliRunner().invoke(command, ["model", "doctor", str(file), "--dim", "batch=0"])
    assert done.exit_code == 2
    assert "is not NAME=LENGTH" in done.output
