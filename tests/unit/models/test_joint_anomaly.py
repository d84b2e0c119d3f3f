"""The joint-anomaly package: it passes the gate, it is what make.py makes, and it finds what is broken."""

from __future__ import annotations

import hashlib
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


def test_fitting_anew_gives_the_weights_in_the_file(make: ModuleType) -> None:
    weights = make.fit(make.TRAIN)
    kept = [onnx.numpy_helper.to_array(c) for c in onnx.load(PACKAGE / "model.onnx").graph.initializer]
    for part in (weights["motion"][1:], weights["motion"][0], weights["load"][1:], weights["load"][0]):
        wanted = part.astype(np.float32)
        assert any(c.shape == wanted.shape and np.allclose(c, wanted, rtol=1e-4) for c in kept)


@pytest.mark.slow
def test_made_anew_it_is_the_same_file(make: ModuleType) -> None:
    declared = load_package(PACKAGE).manifest.sha256
    assert hashlib.sha256(make.build()).hexdigest() == declared
