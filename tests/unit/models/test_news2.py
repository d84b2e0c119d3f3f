"""The news2 package: it passes the gate, and every edge of its table is that of the chart."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.faults.fault import Fault
from simulators.plants.patient import VITALS, Patient

pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
PACKAGE = Path(__file__).resolve().parents[3] / "models" / "news2"
WELL = {
    "resp_rate": 16.0,
    "spo2": 98.0,
    "oxygen": 0.0,
    "sys_bp": 120.0,
    "heart_rate": 70.0,
    "consciousness_altered": 0.0,
    "temperature": 36.8,
}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(load_package(PACKAGE))


# chart 1 of the NEWS2 report (2017) with SpO2 scale 1, row by row as it is printed, and not read from the
# package: up to and with this value, that score
CHART: dict[str, list[tuple[float, int]]] = {
    "resp_rate": [(8, 3), (11, 1), (20, 0), (24, 2), (np.inf, 3)],
    "spo2": [(91, 3), (93, 2), (95, 1), (np.inf, 0)],
    "oxygen": [(0, 0), (1, 2)],
    "sys_bp": [(90, 3), (100, 2), (110, 1), (219, 0), (np.inf, 3)],
    "heart_rate": [(40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (np.inf, 3)],
    "consciousness_altered": [(0, 0), (1, 3)],
    "temperature": [(35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (np.inf, 2)],
}


def chart(name: str, value: float) -> int:
    return next(score for most, score in CHART[name] if value <= most)


RANGES = {
    "resp_rate": [float(value) for value in range(61)],
    "spo2": [float(value) for value in range(101)],
    "oxygen": [0.0, 1.0],
    "sys_bp": [float(value) for value in range(30, 301)],
    "heart_rate": [float(value) for value in range(251)],
    "consciousness_altered": [0.0, 1.0],
    "temperature": [tenth / 10 for tenth in range(300, 431)],
}


def parts_of(model: Model, vitals: dict[str, float]) -> tuple[float, dict[str, float]]:
    spec = model.manifest.input
    assert spec.kind == "window"
    score, parts = model.raw(np.array([[vitals[name] for name in spec.signals]], np.float32))
    return float(score[0]), dict(zip(spec.signals, parts.tolist(), strict=True))


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == 6


def test_its_inputs_are_what_the_monitor_shows(model: Model) -> None:
    assert model.manifest.input.kind == "window"
    assert set(model.manifest.input.signals) <= set(VITALS)


@pytest.mark.parametrize("name", RANGES)
def test_every_value_scores_as_in_the_chart(model: Model, name: str) -> None:
    for value in RANGES[name]:
        score, parts = parts_of(model, {**WELL, name: value})
        assert parts == {**dict.fromkeys(WELL, 0.0), name: chart(name, value)}, value
        assert score == chart(name, value)


def test_any_patients_score_is_the_sum_of_the_chart(model: Model) -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        vitals = {name: float(rng.choice(values)) for name, values in RANGES.items()}
        assert parts_of(model, vitals)[0] == sum(chart(name, value) for name, value in vitals.items())


def test_more_decimals_than_the_chart_has_count_as_the_nearest(model: Model) -> None:
    assert parts_of(model, {**WELL, "spo2": 95.6})[0] == chart("spo2", 96)
    assert parts_of(model, {**WELL, "spo2": 91.4})[0] == chart("spo2", 91)
    assert parts_of(model, {**WELL, "temperature": 39.04})[0] == chart("temperature", 39.0)
    assert parts_of(model, {**WELL, "temperature": 39.06})[0] == chart("temperature", 39.1)


def result(model: Model, **vitals: float) -> tuple[object, ...]:
    values = {**WELL, **vitals}
    found = model.run_window(np.array([[values[name] for name in WELL]], np.float32))
    return tuple(found.values[key] for key in ("score", "alarm", "part", "part_score"))


def test_the_alarm_is_a_sum_of_five_or_one_red_vital_sign(model: Model) -> None:
    assert result(model)[:2] == (0.0, False)
    assert result(model, spo2=94, heart_rate=95, temperature=38.5, sys_bp=105)[:2] == (4.0, False)
    assert result(model, resp_rate=22, spo2=94, heart_rate=115) == (5.0, True, "resp_rate", 2.0)
    assert result(model, sys_bp=90) == (3.0, True, "sys_bp", 3.0)


def test_a_vital_sign_that_is_no_number_leaves_no_score(model: Model) -> None:
    for wrong in (np.nan, np.inf, -np.inf):
        score, alarm, _, _ = result(model, spo2=wrong)
        assert (score, alarm) == (None, False)
        assert result(model, spo2=wrong, sys_bp=80)[1] is True  # what is known is red all the same


def test_a_simulated_patient_who_desaturates_raises_it(model: Model) -> None:
    spec = model.manifest.input
    assert spec.kind == "window"
    for seed in range(70_000, 70_010):
        patient = Patient(seed, [Fault("desaturation", start_s=60)])

        def alarm(second: int, patient: Patient = patient) -> bool:
            shown = patient.vitals(second)
            return model.run_window(np.array([[shown[name] for name in spec.signals]], np.float32)).alarm

        assert not any(alarm(second) for second in range(0, 58, 6))
        assert alarm(180)


def test_made_anew_it_is_the_same_file() -> None:
    spec = importlib.util.spec_from_file_location("news2_make", PACKAGE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert hashlib.sha256(make.build()).hexdigest() == load_package(PACKAGE).manifest.sha256
