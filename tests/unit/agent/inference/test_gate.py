"""The gate passes good models and stops bad ones, which fail only in its child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from agent.inference import gate
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.session import CPU

ONE = np.ones((1, 1), np.float32)


@pytest.fixture
def adding(packages) -> Path:
    """A package that sums its window."""
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    return packages.write(packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}))


def golden(folder: Path, **arrays: np.ndarray) -> None:
    (folder / "golden").mkdir(exist_ok=True)
    np.savez(folder / "golden" / "one.npz", **arrays)


def test_a_good_model_passes_and_is_remembered(adding: Path, tmp_path: Path) -> None:
    golden(adding, input=np.ones((4, 2), np.float32), output_0=np.float32(8))
    memory = tmp_path / "state" / "gate"
    first = gate.verify(load_package(adding), memory=memory)
    assert (first.why, first.golden, first.provider) == ("", 1, "CPUExecutionProvider")
    assert not first.remembered
    assert 0 < first.p50_ms <= first.p99_ms
    assert gate.verify(load_package(adding), memory=memory).remembered


def test_a_changed_package_is_checked_again(adding: Path, tmp_path: Path) -> None:
    gate.verify(load_package(adding), memory=tmp_path / "gate")
    golden(adding, input=np.ones((4, 2), np.float32), output_0=np.float32(9))
    with pytest.raises(ModelError, match=r"golden/one\.npz: output 0 is off by up to 1"):
        gate.verify(load_package(adding), memory=tmp_path / "gate")


def test_a_damaged_report_is_not_a_pass(adding: Path, tmp_path: Path) -> None:
    memory = tmp_path / "gate"
    gate.verify(load_package(adding), memory=memory)
    (saved,) = memory.iterdir()
    saved.write_bytes(saved.read_bytes()[:9])
    assert not gate.verify(load_package(adding), memory=memory).remembered


def test_a_folder_that_cannot_be_written_costs_only_time(adding: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not gate.verify(load_package(adding), memory=tmp_path / "file" / "gate").remembered


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"output_0": ONE}, "has no array named input"),
        ({"input": ONE, "output_0": ONE}, "a window of shape"),
        ({"input": np.ones((4, 2), np.float32), "output_0": ONE}, "output 0 is"),
        (
            {"input": np.ones((4, 2), np.float32), "output_0": np.float32(8), "output_1": ONE},
            "has no output_1",
        ),
        ({"input": np.array([{}], object)}, "cannot be read"),
    ],
)
def test_golden_vectors_that_do_not_fit_stop_it(
    adding: Path, arrays: dict[str, np.ndarray], reason: str
) -> None:
    golden(adding, **arrays)
    with pytest.raises(ModelError, match=reason):
        gate.inspect(load_package(adding), CPU)


def test_a_model_over_its_time_budget_is_stopped(packages) -> None:
    slow = packages.write(packages.constant(ONE), budgets={"p99_ms": 0.000001})
    with pytest.raises(ModelError, match=r"budgets\.p99_ms allows 1e-06") as caught:
        gate.inspect(load_package(slow), CPU)
    assert caught.value.reason_code == "model-too-slow"
    assert caught.value.reason_args["budget_ms"] == 0.000001
    assert caught.value.reason_args["p99_ms"] > 0.000001


def test_a_model_over_its_memory_budget_is_stopped(packages) -> None:
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], keepdims=0),
    ]
    wide = {"shape": np.array([2_000_000, 4, 2], np.int64)}  # 64 MB
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=wide)
    with pytest.raises(ModelError, match=r"budgets\.rss_mb allows 5") as caught:
        gate.verify(load_package(packages.write(body, budgets={"rss_mb": 5})))
    assert caught.value.reason_code == "model-too-large", "the code comes from the child"
    assert caught.value.reason_args["rss_mb"] > caught.value.reason_args["budget_mb"] == 5


def test_a_model_that_gives_no_numbers_is_stopped(packages) -> None:
    folder = packages.write(packages.constant(np.array([[np.nan]], np.float32)))
    with pytest.raises(ModelError, match="not numbers") as caught:
        gate.verify(load_package(folder))
    assert caught.value.reason_code == "model-output-nan"


def test_a_model_that_takes_all_memory_ends_only_the_child(packages) -> None:
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["y"], keepdims=0),
    ]
    wide = {"shape": np.array([1_000_000_000, 4, 2], np.int64)}  # 32 GB
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": ()}, constants=wide)
    with pytest.raises(ModelError, match=r"the run failed|GB of memory|crashed"):
        gate.verify(load_package(packages.write(body)))


def test_a_model_that_never_ends_is_stopped(packages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "WALL_S", 3.0)
    with pytest.raises(ModelError, match="no answer within 3 s"):
        gate.verify(load_package(packages.write(packages.hanging())))


def test_scores_beyond_0_and_1_for_a_golden_input_refuse_the_head(packages) -> None:
    """Noise of a window around 0 gives small numbers; the golden input shows that they are logits."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "limit"], ["large"]),
        helper.make_node("Where", ["large", "logits", "shares"], ["y"]),
    ]
    constants = {
        "limit": np.float32(50) * np.ones((), np.float32),
        "logits": np.array([[-2, 5]], np.float32),
        "shares": np.array([[0.5, 0.5]], np.float32),
    }
    body = packages.model(nodes, inputs={"x": (1, 4, 2)}, outputs={"y": (1, 2)}, constants=constants)
    folder = packages.write(body, output={"decoder": "classification", "labels": ["a", "b"]})
    assert gate.inspect(load_package(folder), CPU).why == ""
    golden(folder, input=np.full((4, 2), 99, np.float32), output_0=constants["logits"])
    with pytest.raises(ModelError, match=r"golden/one\.npz: its scores are from -2 to 5"):
        gate.inspect(load_package(folder), CPU)


def test_logits_for_noise_refuse_a_classifier(packages) -> None:
    head = {"decoder": "classification", "labels": ["a", "b"]}
    body = packages.constant(np.array([[-2, 5]], np.float32))
    with pytest.raises(ModelError, match="its scores are from -2 to 5"):
        gate.inspect(load_package(packages.write(body, output=head)), CPU)
    for key in ("softmax", "sigmoid", "margins"):
        gate.inspect(load_package(packages.write(body, output={**head, key: True})), CPU)
