"""The joint-anomaly package: it passes the gate, it is what make.py makes, and it finds what is broken."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.faults.fault import Fault
from simulators.plants.cobot import FAULT_KINDS, SIGNALS, Cobot

onnx = pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
PACKAGE = Path(__file__).resolve().parents[3] / "models" / "joint-anomaly"
ROBOT = 20_001  # neither fitted, tuned on nor measured


def seen(model: Model, faults: list[Fault], seconds: int = 20) -> list[tuple[float, str]]:
    """Score and blamed joint of each window, as the agent would make them."""
    rows = Cobot(ROBOT, faults).block(60 * 50, seconds * 50).astype(np.float32)
    results = [model.run_window(rows[at : at + 100]) for at in range(0, len(rows) - 99, 25)]
    return [(result.score or 0.0, result.top) for result in results]


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == 1 + len(FAULT_KINDS)


def test_it_sees_what_the_cobot_sends(model: Model) -> None:
    spec = model.manifest.input
    assert spec.kind == "window"
    assert tuple(spec.signals) == SIGNALS
    assert set(model.fields()) == {"score", "alarm", "part"}


def test_a_healthy_robot_gives_no_alarm(model: Model) -> None:
    assert max(score for score, _ in seen(model, [], 120)) < 1.0


@pytest.mark.parametrize("kind", FAULT_KINDS)
@pytest.mark.parametrize("joint", range(1, 7))
def test_a_fault_is_found_in_its_joint(model: Model, kind: str, joint: int) -> None:
    windows = seen(model, [Fault(kind, str(joint))])
    blamed = [part for score, part in windows if score >= 1.0]
    assert len(blamed) > len(windows) / 4
    assert blamed.count(f"j{joint}") > 0.9 * len(blamed)


def test_numbers_no_robot_gives_are_no_crash(model: Model) -> None:
    for value in (0.0, 1e30, np.nan, np.inf):
        model.run_window(np.full((100, 18), value, np.float32))


@pytest.mark.slow
def test_a_rebuild_gives_the_same_model(make: ModuleType, tmp_path: Path) -> None:
    """The graph is the same, weights differ at most in the fifth digit, golden results agree.

    The bytes may differ: another CPU or BLAS sums in another order, which may change a rounding.
    """
    body = make.build()
    shipped, rebuilt = onnx.load(PACKAGE / "model.onnx").graph, onnx.load_from_string(body).graph
    for kept, new in zip(shipped.initializer, rebuilt.initializer, strict=True):
        assert (kept.name, kept.data_type) == (new.name, new.data_type)
        wanted, found = onnx.numpy_helper.to_array(kept), onnx.numpy_helper.to_array(new)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    for graph in (shipped, rebuilt):
        del graph.initializer[:]
    assert rebuilt == shipped

    copy = tmp_path / "joint-anomaly"
    shutil.copytree(PACKAGE, copy)
    (copy / "model.onnx").write_bytes(body)
    manifest = copy / "manifest.yaml"
    declared = load_package(PACKAGE).manifest.sha256
    manifest.write_text(manifest.read_text().replace(declared, hashlib.sha256(body).hexdigest()))
    assert inspect(load_package(copy), ("CPUExecutionProvider",)).golden == 1 + len(FAULT_KINDS)
