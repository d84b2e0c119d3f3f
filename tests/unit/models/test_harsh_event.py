"""The harsh-event package: it passes the gate, finds what hard drivers do and leaves calm ones alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.plants.vehicle import LABELS, RATE_HZ, UNITS

onnx = pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
PACKAGE = Path(__file__).resolve().parents[3] / "models" / "harsh-event"
CAR = 20_001  # neither fitted, tuned on nor measured


@pytest.fixture
def weights(constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: constants[name] for name in ("w0", "w1", "w2", "b0", "b1", "b2", "caution")}


def told(model: Model, make: ModuleType, rows: np.ndarray) -> np.ndarray:
    results = [model.run_window(window) for window in make.windows(rows)]
    assert all(result.alarm == (result.top != "calm") for result in results)
    return np.array([LABELS.index(result.top) for result in results])


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == len(LABELS)


def test_it_sees_what_the_car_sends_in_its_units(model: Model) -> None:
    spec = model.manifest.input
    assert spec.kind == "window"
    assert spec.rate_hz == RATE_HZ
    assert model.manifest.data["units"] == {name: UNITS[name] for name in spec.signals}
    assert set(model.fields()) == {"label", "score", "alarm"}


@pytest.mark.parametrize("kind", LABELS[1:])
def test_hard_manoeuvres_are_told_by_their_kind(model: Model, make: ModuleType, kind: str) -> None:
    rows, labels = make.drives(CAR, kind)
    hits = [delay for which, delay in make.found(told(model, make, rows), labels) if LABELS[which] == kind]
    assert len(hits) > 15
    assert np.isfinite(hits).mean() > 0.95
    assert np.nanmedian(hits) < 1.5


def test_a_calm_hour_gives_hardly_an_alarm(model: Model, make: ModuleType) -> None:
    rows, labels = make.drives(CAR)
    assert make.false_alarms(told(model, make, rows), labels) <= 3


def test_alarms_are_counted_as_a_person_would(make: ModuleType) -> None:
    classes = np.zeros(60, np.int64)
    classes[[4, 5, 6, 9]] = 1  # one braking
    classes[30] = 3
    assert make.alarms(classes) == [(1, 50), (3, 180)]
    labels = np.zeros(400, np.int64)
    labels[40:50] = 1
    assert make.manoeuvres(labels) == [(1, 40, 50)]
    assert make.false_alarms(classes, labels) == 1
    assert make.found(classes, labels) == [(1, 1.0)]


def test_exporting_its_weights_anew_gives_the_same_file(
    model: Model, make: ModuleType, weights: dict[str, np.ndarray]
) -> None:
    assert make.export(weights) == (PACKAGE / "model.onnx").read_bytes()
    seen = make.windows(make.drives(CAR, "brake")[0][:3000])
    logits = make.net(weights, make.features(seen)) + weights["caution"]
    assert [LABELS.index(model.run_window(window).top) for window in seen] == logits.argmax(axis=1).tolist()


def test_numbers_no_car_gives_are_no_crash(model: Model) -> None:
    for value in (0.0, 1e30, np.nan, np.inf):
        model.run_window(np.full((30, 5), value, np.float32))


@pytest.mark.slow
def test_it_learns(make: ModuleType) -> None:
    pytest.importorskip("torch", reason="torch is needed to train the model again")
    learnt = make.fit(range(1000, 1008), 3)
    rows, labels = make.drives(CAR, "cornering")
    classes = make.net(learnt, make.features(make.windows(rows))).argmax(axis=1)
    assert np.isfinite([delay for kind, delay in make.found(classes, labels) if kind == 3]).mean() > 0.8
