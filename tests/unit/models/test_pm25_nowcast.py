"""The pm25-nowcast package: it passes the gate, it is what make.py exports, and it beats persistence."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.faults.fault import Fault
from simulators.plants.air import RATE_HZ, SIGNALS, UNITS, Air

onnx = pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
PACKAGE = Path(__file__).resolve().parents[3] / "models" / "pm25-nowcast"
STREETS = range(20_000, 20_008)  # neither fitted nor measured


@pytest.fixture
def weights(constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: constants[name] for name in ("typical", "std", "unit", "w0", "b0", "w1", "b1", "w2", "b2")}


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == 2


def test_it_sees_what_the_sensor_sends_in_its_units(model: Model) -> None:
    spec = model.manifest.input
    assert spec.kind == "window"
    assert tuple(spec.signals) == SIGNALS
    assert spec.rate_hz == RATE_HZ
    assert model.manifest.data["units"] == UNITS
    assert {field.unit for field in model.fields().values()} == {"ug/m3"}


def test_it_knows_more_of_the_next_minutes_than_the_last_one_does(model: Model, make: ModuleType) -> None:
    off, persistence, inside = [], [], []
    for seed in STREETS:
        seen, later = make.breathe(seed, 300)
        persistence += np.abs(make.plain(seen)["persistence"] - later).tolist()
        for window, truth in zip(seen, later, strict=True):
            values = model.run_window(window).values
            assert 0 <= values["pm2_5_low"] <= values["pm2_5_in_5_min"] <= values["pm2_5_high"]
            off.append(abs(values["pm2_5_in_5_min"] - truth))
            inside.append(values["pm2_5_low"] <= truth <= values["pm2_5_high"])
    assert np.mean(off) < 0.85 * np.mean(persistence)
    assert 0.7 < np.mean(inside) < 0.92


def test_a_plume_that_passes_is_not_taken_for_the_new_level(model: Model) -> None:
    rows = Air(20_001, [Fault("plume", "", 2520, 2700)]).block(1800, 900).astype(np.float32)
    assert rows[-60:, 1].mean() > rows[:600, 1].mean() + 30
    said = model.run_window(rows).values["pm2_5_in_5_min"]
    assert isinstance(said, float)
    assert said < rows[-60:, 1].mean() - 20


def test_the_file_computes_what_the_fit_saw_and_is_exported_the_same(
    model: Model, make: ModuleType, weights: dict[str, np.ndarray]
) -> None:
    assert make.export(weights) == (PACKAGE / "model.onnx").read_bytes()
    seen, _ = make.breathe(20_002, 1200)
    now = seen[:, -60:, 1].mean(axis=1)
    wanted = np.expm1(make.net_of(weights, make.features(seen)) + np.log1p(now))
    got = [model.run_window(window).values["pm2_5_in_5_min"] for window in seen]
    np.testing.assert_allclose(got, wanted, rtol=0.001, atol=0.05)


def test_numbers_no_air_gives_are_no_crash(model: Model) -> None:
    for value in (0.0, -5.0, 1e30, np.nan, np.inf):
        model.run_window(np.full((900, 5), value, np.float32))


def test_the_same_net_on_real_air(make: ModuleType, field_data: Path) -> None:
    pytest.importorskip("torch", reason="torch is needed to fit")
    found = make.field(field_data / "signals" / "airquality" / "AirQualityUCI.csv")
    assert found["model_mae"] < found["persistence_mae"]
