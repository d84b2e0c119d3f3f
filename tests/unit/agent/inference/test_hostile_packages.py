"""Hostile and mistaken packages before the gate: each is one sentence, and only the child suffers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.inference import gate, gate_process, remembered
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import CPU, Model

ONE = np.ones((1, 1), np.float32)
FRAME = {"kind": "frame", "name": "x", "size": [64, 64]}


def refused(folder: Path, **more: Any) -> ModelError:
    """The reason why the gate refuses the package; it is one printable sentence."""
    with pytest.raises(ModelError) as caught:
        gate.verify(load_package(folder), **more) if more else gate.inspect(load_package(folder), CPU)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 700
    return caught.value


def window_model(nodes: Sequence[Any], outputs: Sequence[Any], opsets: Sequence[Any]) -> bytes:
    """A model on a window `x` of 4 rows of 2 signals whose outputs can be of any type."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2])],
        list(outputs),
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*each) for each in opsets], ir_version=9
    )
    return made.SerializeToString()


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.yaml", "model.onnx", "golden/a.npz", "labels.txt"])
@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_package_has_regular_files_only(packages, name: str, kind: str) -> None:
    output = {"decoder": "classification", "labels_file": "labels.txt"}
    folder = packages.write(packages.constant(np.ones((1, 2))), output=output)
    (folder / "golden").mkdir()
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / name).unlink(missing_ok=True)
    make = {"fifo": os.mkfifo, "link": lambda path: path.symlink_to("/dev/zero"), "folder": os.mkdir}[kind]
    make(folder / name)
    with pytest.raises(ModelError) as caught:
        gate.inspect(load_package(folder), CPU)
    assert f"{name} is not a regular file" in str(caught.value)


# -- the child ---------------------------------------------------------------------------------------------

PLUGIN = """
import json, os, signal, sys, time
from agent.inference.decoders import Decoder, Result
from msgspec import Struct

ESC, NEWLINE = chr(27), chr(10)
FORGED = {"why": ESC + "[2J" + NEWLINE + "ok", "code": NEWLINE, "args": {"a": ESC}}

class Options(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    do: str

class Acting(Decoder):
    Options = Options

    def __init__(self, options, outputs, size):
        self.do = options.do
        if "agent.inference.gate_process" not in sys.modules:
            return
        if options.do == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif options.do == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif options.do == "exit":
            os._exit(0)
        elif options.do == "print":
            print("{}" * 100_000)
            print("\\x1b[2J" * 100_000, file=sys.stderr)
        elif options.do == "raise":
            raise AttributeError("no \\x1b[2J attribute\\n" + "x" * 10_000)
        elif options.do == "forge":
            for number in range(3, 64):
                try:
                    os.write(number, json.dumps(FORGED).encode())
                except OSError:
                    continue
            os._exit(0)
        elif options.do == "garbage":
            for number in range(3, 64):
                try:
                    os.write(number, b"\\xff garbage")
                except OSError:
                    continue
            os._exit(0)
        elif options.do == "fork":
            child = os.fork()
            if child == 0:
                time.sleep(600)
            raise RuntimeError(f"forked {child}")
        elif options.do == "write":
            with open(os.path.join(os.path.dirname(__file__), "written"), "w") as file:
                file.write("x" * 100)
        elif options.do == "memory":
            self.kept = bytearray(5 << 30)

    def fields(self):
        return {}

    def decode(self, outputs, placement):
        return {} if self.do == "dict" else Result({"x": object()} if self.do == "object" else {})

class WithoutOptions(Decoder):
    def __init__(self, *_):
        pass
    fields = decode = None

class Taken(Struct):
    tensors: int = 0

class TakenOption(WithoutOptions):
    Options = Taken
"""


@pytest.fixture
def acting(packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes packages whose decoder, of another distribution, does something in the gate's child."""
    site = tmp_path / "site"
    info = site / "acting-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acting.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edgebed.decoders]\nacting = acting:Acting\n"
        "bare = acting:WithoutOptions\ntaken = acting:TakenOption\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))

    def make(do: str) -> Path:
        folder: Path = packages.write(packages.constant(ONE), output={"decoder": "acting", "do": do})
        return folder

    yield make
    sys.modules.pop("acting", None)


@pytest.mark.parametrize(
    ("do", "reason", "code"),
    [
        ("crash", r"crashed (SIGSEGV)", "model-crashed"),
        ("killed", r"crashed (SIGKILL)", "model-crashed"),
        ("exit", "exit code 0 without a report", "model-refused"),
        ("raise", r"AttributeError: no \x1b[2J attribute", "model-refused"),
        ("garbage", "its report cannot be read", "model-refused"),
        ("forge", r"\x1b[2J", "\\n"),
        ("write", "OSError", "model-refused"),
        ("dict", "its decoder gave dict, not a Result", "model-refused"),
        ("object", "object cannot be sent", "model-refused"),
        ("memory", "GB of memory", "model-memory-limit"),
    ],
)
def test_a_child_that_misbehaves_is_one_reason(acting: Any, do: str, reason: str, code: str) -> None:
    folder = acting(do)
    with pytest.raises(ModelError) as caught:
        gate.verify(load_package(folder))
    assert reason in str(caught.value)
    assert caught.value.reason_code == code
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("word", "why"), [("bare", "has no Options"), ("taken", "has an option 'tensors'")])
def test_a_decoder_that_no_manifest_can_name_is_one_sentence_with_the_line(
    acting: Any, packages, word: str, why: str
) -> None:
    folder = packages.write(packages.constant(ONE), output={"decoder": word})
    with pytest.raises(ModelError, match=rf"manifest.yaml:14:12: output.decoder: decoder '{word}' {why}"):
        load_package(folder)


def test_another_version_of_a_decoder_runs_the_gate_again(acting: Any, tmp_path: Path) -> None:
    folder, memory = acting("dict"), tmp_path / "gate"
    for _ in range(2):
        assert "not a Result" in str(refused(folder, memory=memory))
    code = tmp_path / "site" / "acting.py"
    code.write_text(code.read_text().replace("return {} if", "return Result({}) if"))
    assert gate.verify(load_package(folder), memory=memory).why == ""


def test_what_the_child_prints_is_not_its_report(acting: Any) -> None:
    assert gate.verify(load_package(acting("print"))).why == ""


def test_a_child_that_forks_leaves_no_process_behind(acting: Any) -> None:
    with pytest.raises(ModelError, match="forked") as caught:  # not "no answer": the pipe is still open
        gate.verify(load_package(acting("fork")))
    pid = int(str(caught.value).rpartition(" ")[2])
    until_s = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- what is remembered ------------------------------------------------------------------------------------


def test_a_refusal_is_remembered_until_the_package_changes(packages, tmp_path: Path) -> None:
    folder = packages.write(packages.constant(np.array([[np.nan]], np.float32)))
    for _ in range(2):
        assert refused(folder, memory=tmp_path / "gate").reason_code == "model-output-nan"
    (saved,) = (tmp_path / "gate").iterdir()
    report = json.loads(saved.read_bytes())
    saved.write_text(json.dumps({**report, "why": "as remembered"}))
    assert "as remembered" in str(refused(folder, memory=tmp_path / "gate")), "the gate did not run again"
    packages.write(packages.constant(ONE))
    assert not gate.verify(load_package(folder), memory=tmp_path / "gate").remembered


def test_a_model_that_hangs_is_checked_once(
    packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is CPU time, which a busy machine does not use up for the child."""
    monkeypatch.setattr(gate_process, "CPU_S", 2)
    monkeypatch.setattr(gate, "WALL_S", 600.0)
    folder = packages.write(packages.hanging())
    assert refused(folder, memory=tmp_path / "gate").reason_code == "model-gate-timeout"
    monkeypatch.setattr(sys, "executable", "/nowhere")  # another child cannot start
    assert refused(folder, memory=tmp_path / "gate").reason_code == "model-gate-timeout"


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden/a.npz"])
def test_a_file_that_changes_runs_the_gate_again(packages, tmp_path: Path, name: str) -> None:
    output = {"decoder": "classification", "labels_file": "labels.txt"}
    folder = packages.write(packages.constant(np.ones((1, 2))), output=output)
    (folder / "labels.txt").write_text("a\nb\n")
    (folder / "golden").mkdir()
    np.savez(folder / "golden" / "a.npz", input=np.ones((4, 2), np.float32), output_0=np.ones((1, 2)))
    memory = tmp_path / "gate"
    gate.verify(load_package(folder), memory=memory)
    assert gate.verify(load_package(folder), memory=memory).remembered
    (folder / name).touch()
    assert not gate.verify(load_package(folder), memory=memory).remembered


def test_a_golden_vector_whose_name_is_not_text_is_compared(packages, tmp_path: Path) -> None:
    folder = packages.write(packages.constant(ONE))
    (folder / "golden").mkdir()
    with (folder / "golden" / os.fsdecode(b"\xff.npz")).open("wb") as file:
        np.savez(file, input=np.ones((4, 2), np.float32), output_0=ONE)
    assert gate.verify(load_package(folder), memory=tmp_path / "gate").golden == 1
    assert gate.verify(load_package(folder), memory=tmp_path / "gate").remembered


@pytest.mark.parametrize("name", ["manifest.yaml", "model.onnx", "golden/b.npz"])
def test_a_report_of_a_package_that_changed_meanwhile_is_not_remembered(
    packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = packages.write(packages.constant(ONE))
    (folder / "golden").mkdir()
    run = gate_process.run

    def changing(*arguments: Any) -> gate_process.Outcome:
        found = run(*arguments)
        (folder / name).touch()
        return found

    monkeypatch.setattr(gate_process, "run", changing)
    with contextlib.suppress(ModelError):
        gate.verify(load_package(folder), memory=tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_a_manifest_that_is_replaced_before_the_gate_reads_it_is_not_the_checked_one(
    packages, tmp_path: Path
) -> None:
    folder = packages.write(packages.constant(ONE))
    package = load_package(folder)
    packages.write(packages.constant(ONE), description="another one")
    with pytest.raises(ModelError, match="the manifest changed while the gate ran"):
        gate.verify(package, memory=tmp_path / "gate")


@pytest.mark.parametrize("what", ["memory", "cpu"])
def test_another_machine_checks_the_package_again(
    packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A state folder can come with a copied disk; with more memory a refused model can pass."""
    folder, memory = packages.write(packages.constant(ONE)), tmp_path / "gate"
    gate.verify(load_package(folder), memory=memory)
    assert gate.verify(load_package(folder), memory=memory).remembered
    if what == "memory":
        monkeypatch.setattr(gate_process, "_memory", lambda: 2 << 30)
    else:
        monkeypatch.setattr(gate_process, "_CPU", ())
    assert not gate.verify(load_package(folder), memory=memory).remembered


def test_a_full_disk_leaves_nothing_behind(packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packages.write(packages.constant(ONE))

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    package = load_package(folder)
    assert not gate.verify(package, memory=tmp_path / "gate").why
    assert not list((tmp_path / "gate").iterdir())


def test_the_oldest_reports_are_removed(packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "gate"
    monkeypatch.setattr(remembered, "_MOST", 2)
    for number in range(4):
        remembered.write(memory / f"{number}.json", gate.GateReport())
        os.utime(memory / f"{number}.json", (number, number))
    assert sorted(each.name for each in memory.iterdir()) == ["2.json", "3.json"]


@pytest.mark.parametrize("do", ["killed", "exit"])
def test_what_the_package_is_not_the_cause_of_is_not_remembered(acting: Any, tmp_path: Path, do: str) -> None:
    with pytest.raises(ModelError):
        gate.verify(load_package(acting(do)), memory=tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_a_missing_provider_is_not_remembered(packages, tmp_path: Path) -> None:
    folder = packages.write(packages.constant(ONE))
    assert refused(folder, providers=["NoneSuch"], memory=tmp_path / "gate").reason_code == "provider-missing"
    assert not (tmp_path / "gate").exists()


# -- limits ------------------------------------------------------------------------------------------------


def test_the_childs_memory_is_below_the_limit_of_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of control groups as the kernel writes them: of the unit, of the slice around it, none."""
    unit = tmp_path / "system.slice" / "edgebed-agent.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text("1073741824\n")
    (tmp_path / "system.slice" / "memory.max").write_text("max\n")
    monkeypatch.setattr(gate_process, "_GROUPS", tmp_path)
    assert gate_process._limits(unit) == [1 << 30]
    monkeypatch.setattr(gate_process, "_memory", lambda: min(gate_process._limits(unit)))
    assert gate_process.memory_limit() == int(0.8 * (1 << 30))
    assert 1 <= gate_process.at_once() <= 2
    (tmp_path / "system.slice" / "memory.max").write_text("268435456\n")
    assert min(gate_process._limits(unit)) == 1 << 28
    assert gate_process.at_once() == 1


def test_a_gate_that_is_stopped_ends_its_child(packages, tmp_path: Path) -> None:
    folder = packages.write(packages.hanging())
    stopping, found = threading.Event(), []

    def work() -> None:
        try:
            gate.verify(load_package(folder), memory=tmp_path / "gate", stopping=stopping)
        except ModelError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    stopping.set()
    thread.join(20)
    assert not thread.is_alive()
    assert "the gate was stopped" in str(found[0])
    assert not (tmp_path / "gate").exists(), "it is not a refusal"


# -- outputs -----------------------------------------------------------------------------------------------

LABEL = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
SCORES = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
ML = (("", 17), ("ai.onnx.ml", 3))
TO_SCORES = [
    helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
    helper.make_node("Softmax", ["mean"], ["probabilities"]),
    helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
]
CLASSES = {"decoder": "classification", "labels": ["a", "b"]}
ANOMALY = {"decoder": "anomaly", "threshold": 0.5}


@pytest.mark.parametrize("output", [CLASSES, ANOMALY])
def test_a_label_alone_is_not_a_score(packages, output: dict[str, Any]) -> None:
    """Where the scores come behind it, tests/unit/agent/inference/test_outputs.py reads them."""
    body = window_model(TO_SCORES, [LABEL], ML)
    text = str(refused(packages.write(body, output=output)))
    assert "its output label int64[1] is a label" in text
    only = window_model(TO_SCORES, [SCORES], ML)
    if output is CLASSES:
        gate.inspect(load_package(packages.write(only, output=output)), CPU)


def test_a_zipmap_that_a_decoder_cannot_read_is_refused_with_the_cure(packages) -> None:
    nodes = [
        *TO_SCORES,
        helper.make_node("ZipMap", ["probabilities"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    body = window_model(nodes, [helper.make_value_info("z", kind)], ML)
    text = str(refused(packages.write(body, output=ANOMALY)))
    assert "output 'z' is seq(map(int64,tensor(float))), not a tensor" in text
    assert "zipmap=False" in text


def test_a_sequence_and_text_are_refused(packages) -> None:
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    body = window_model(
        [helper.make_node("SequenceConstruct", ["x"], ["s"])], [helper.make_value_info("s", sequence)], ML
    )
    assert "output 's' is seq(tensor(float)), not a tensor" in str(refused(packages.write(body)))
    text = helper.make_tensor_value_info("t", TensorProto.STRING, [1, 4, 2])
    body = window_model([helper.make_node("Cast", ["x"], ["t"], to=TensorProto.STRING)], [text], ML)
    assert "output 't' is tensor(string), not numbers" in str(refused(packages.write(body)))


# -- heads -------------------------------------------------------------------------------------------------

FINISHED = np.tile(np.float32([10, 20, 110, 220, 0.9, 1]), (1, 300, 1))
TWO = {"decoder": "detection", "head": "yolov8", "labels": ["a", "b"]}


@pytest.mark.parametrize("rows", [300, "n"])
def test_finished_detections_are_not_a_yolov8(packages, rows: int | str) -> None:
    nodes = [helper.make_node("Identity", ["c"], ["y"])]
    body = packages.model(
        nodes, inputs={"x": (1, 3, 64, 64)}, outputs={"y": (1, rows, 6)}, constants={"c": FINISHED}
    )
    assert "finished detections" in str(refused(packages.write(body, input=FRAME, output=TWO)))


@pytest.mark.parametrize("shape", [(1, 6, 84), (1, 84, 6), (1, 6, 300), (1, 8400, 6)])
def test_two_classes_for_each_cell_are_a_yolov8(packages, shape: tuple[int, ...]) -> None:
    boxes = np.full(shape, 0.5)
    (boxes[:, :4] if shape[1] == 6 else boxes[..., :4])[:] = 20
    folder = packages.write(packages.constant(boxes, shape=(1, 3, 64, 64)), input=FRAME, output=TWO)
    gate.inspect(load_package(folder), CPU)


@pytest.mark.parametrize(
    ("head", "labels", "outputs"),
    [
        ("yolov8", ["a"], [np.full((1, 5, 84), 40.0)]),
        ("yolov8", ["a"], [np.full((1, 5, 84), -3.0)]),
        ("yolox", ["a"], [np.full((1, 84, 6), 7.0)]),
        ("fastestdet", ["a"], [np.full((1, 6, 4, 4), 2.0)]),
        ("ulface", ["a"], [np.full((1, 90, 2), -5.0), np.zeros((1, 90, 4))]),
    ],
)
def test_scores_beyond_0_and_1_refuse_the_head(
    packages, head: str, labels: list[str], outputs: list[Any]
) -> None:
    body = packages.constant(*outputs, shape=(1, 3, 64, 64))
    output = {"decoder": "detection", "head": head, "labels": labels}
    assert f"head {head} reads scores from" in str(refused(packages.write(body, input=FRAME, output=output)))


def test_boxes_as_shares_are_not_pixels(packages) -> None:
    body = packages.constant(np.full((1, 300, 7), 0.5), shape=(1, 3, 64, 64))
    output = {"decoder": "detection", "head": "yolov8", "labels": ["a", "b", "c"]}
    assert "shares of the input" in str(refused(packages.write(body, input=FRAME, output=output)))


# -- operators and texts -----------------------------------------------------------------------------------


def test_a_domain_that_is_imported_and_not_used_is_allowed(packages) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    opsets = (("", 17), ("com.microsoft.experimental", 1), ("com.example", 3))
    gate.inspect(load_package(packages.write(window_model(nodes, [output], opsets))), CPU)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
@pytest.mark.parametrize("sparse", [False, True])
def test_weights_outside_the_file_are_refused(packages, path: str, sparse: bool) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [8], np.zeros(8))
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=path)
    made = onnx.load_from_string(
        packages.model(
            [helper.make_node("ReduceSum", ["w"], ["y"], keepdims=0)],
            inputs={"x": (1, 4, 2)},
            outputs={"y": ()},
        )
    )
    if sparse:
        indices = numpy_helper.from_array(np.arange(8), "i")
        made.graph.sparse_initializer.append(helper.make_sparse_tensor(weights, indices, [8]))
    else:
        made.graph.initializer.append(weights)
    assert "weights outside the file" in str(refused(packages.write(made.SerializeToString())))


def external() -> TensorProto:
    """A tensor whose numbers are in another file."""
    made = helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
    made.ClearField("float_data")
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value="w.bin")
    return made


OUTSIDE = [helper.make_node("Constant", [], ["k"], value=external())]
INSIDE = helper.make_graph(OUTSIDE, "b", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [1])])
FUNCTION = helper.make_function("own", "F", [], ["k"], OUTSIDE, [helper.make_opsetid("", 17)])


@pytest.mark.parametrize("where", ["constant", "branch", "list", "function", "training", "flag", "entry"])
def test_weights_outside_the_file_are_refused_wherever_they_are(packages, where: str) -> None:
    made, outside = onnx.load_from_string(packages.constant(ONE)), external()
    if where == "constant":
        made.graph.node.extend(OUTSIDE)
    elif where == "branch":
        made.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=INSIDE, else_branch=INSIDE))
    elif where == "list":
        made.graph.node.append(helper.make_node("Any", ["x"], ["z"], tensors=[outside]))
    elif where == "function":
        made.functions.append(FUNCTION)
    elif where == "training":
        made.training_info.add().algorithm.initializer.append(outside)
    else:
        del outside.external_data[0 if where == "flag" else 1 :]
        if where == "entry":
            outside.ClearField("data_location")
        made.graph.initializer.append(outside)
    assert "weights outside the file" in str(refused(packages.write(made.SerializeToString())))


def test_a_model_without_an_output_is_refused(packages) -> None:
    made = onnx.load_from_string(packages.constant(ONE))
    made.graph.ClearField("output")
    assert "the model has no output" in str(refused(packages.write(made.SerializeToString())))


def test_a_compiled_part_that_can_name_a_file_is_refused(packages) -> None:
    made = onnx.load_from_string(packages.constant(ONE))
    node = helper.make_node(
        "EPContext", ["x"], ["z"], domain="com.microsoft", ep_cache_context="/etc/passwd", embed_mode=0
    )
    made.graph.node.append(node)
    assert "compiled for one machine" in str(refused(packages.write(made.SerializeToString())))


SHOUT = "\x1b[2J\x1b[31mOK: ok on CPU\x1b[0m\r\n  9 golden vectors agree\n" + "x" * 1000


def test_names_of_tensors_are_escaped_and_cut(packages) -> None:
    nodes = [helper.make_node("ReduceSum", [SHOUT], ["y"], keepdims=0)]
    body = packages.model(nodes, inputs={SHOUT: (1, 4, 2)}, outputs={"y": ()})
    assert r"\x1b[2J" in str(refused(packages.write(body)))


def test_the_reason_of_onnxruntime_stands_first(packages) -> None:
    made = onnx.load_from_string(packages.constant(ONE))
    made.ir_version = 99
    text = str(refused(packages.write(made.SerializeToString())))
    assert "onnxruntime refuses it: Unsupported model IR version: 99" in text
    assert "onnxruntime::" not in text
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    body = packages.model(
        nodes,
        inputs={"x": ("n", 4, 2)},
        outputs={"y": ("m", 7)},
        constants={"to": np.array([-1, 7], np.int64)},
    )
    text = str(refused(packages.write(body)))
    assert "onnxruntime::" not in text
    assert ".h:" not in text
    assert "cannot be reshaped to the requested shape" in text


# -- results that are infinite -----------------------------------------------------------------------------


def infinite_above(limit: float, sign: float = 1.0) -> bytes:
    """A model of a window that gives the mean of its numbers, infinite above `limit`."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "limit"], ["above"]),
        helper.make_node("Where", ["above", "infinite", "mean"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [
            numpy_helper.from_array(np.array(limit, np.float32), "limit"),
            numpy_helper.from_array(np.array(sign * np.inf, np.float32), "infinite"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def test_infinite_results_for_a_plain_input_are_refused(packages) -> None:
    assert refused(packages.write(infinite_above(-1e30))).reason_code == "model-output-nan"


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("output", [None, ANOMALY])
def test_a_result_that_is_infinite_counts_as_one_that_is_nan(packages, sign: float, output: Any) -> None:
    changes = {} if output is None else {"output": output}
    model = Model(load_package(packages.write(infinite_above(1000, sign), **changes)))
    assert not model.run_window(np.ones((4, 2), np.float32)).nan
    assert model.run_window(np.full((4, 2), 2000, np.float32)).nan


def test_an_infinite_number_that_costs_no_value_is_right(packages) -> None:
    """A masked class: its logit is -inf."""
    body = packages.constant(np.array([[1.0, -np.inf]]))
    folder = packages.write(body, output={**CLASSES, "softmax": True})
    assert not Model(load_package(folder)).run_window(np.ones((4, 2), np.float32)).nan


# -- memory ------------------------------------------------------------------------------------------------

GREEDY = """
import sys
from pathlib import Path

import numpy as np

from agent.inference import gate_process
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import Model

gate_process._memory = lambda: 1 << 30
model = Model(load_package(Path(sys.argv[1])))
for number in (1, 2000, 1):
    try:
        print(model.run_window(np.full((4, 2), number, np.float32)).values)
    except ModelError as error:
        print("refused:", str(error)[:400])
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak[0]) // 1024)
"""


def test_a_run_that_needs_more_memory_than_the_unit_has_fails_alone(packages) -> None:
    """The model passes on noise; for a large number it makes 3 GB of copies. The next run works again."""
    make = helper.make_node
    nodes = [
        make("ReduceMean", ["x"], ["mean"], keepdims=0),
        make("Greater", ["mean", "limit"], ["above"]),
        make("Where", ["above", "many", "one"], ["copies"]),
        make("Reshape", ["mean", "one"], ["row"]),
        make("Tile", ["row", "copies"], ["all"]),
        make("ReduceMean", ["all"], ["y"], keepdims=0),
    ]
    constants = {
        "limit": np.array(1000, np.float32),
        "many": np.array([750_000_000]),
        "one": np.array([1]),
    }
    folder = packages.write(
        packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=constants)
    )
    done = subprocess.run(
        [sys.executable, "-c", GREEDY, str(folder)], capture_output=True, text=True, check=True, timeout=300
    )
    first, second, third, peak_mb = done.stdout.splitlines()
    assert first == third == "{'power': 1.0}"
    assert second.startswith("refused: the run failed: ")
    assert "memory" in second
    assert int(peak_mb) < 1000
