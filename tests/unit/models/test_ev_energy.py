"""The ev-energy package: it passes the gate, it is what make.py exports, and it beats what needs no model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.package import load_package
from agent.inference.session import Model
from simulators.plants.vehicle import RATE_HZ, UNITS, Vehicle

onnx = pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
PACKAGE = Path(__file__).resolve().parents[3] / "models" / "ev-energy"
CARS = range(20_000, 20_004)  # neither fitted nor measured


@pytest.fixture
def weights(constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = ("mean", "std", "typical", "unit", "w0", "b0", "w1", "b1", "w2", "b2")
    return {name: constants[name] for name in names}


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == 3


def test_it_sees_what_the_car_sends_in_its_units(model: Model) -> None:
    spec = model.manifest.input
    assert spec.kind == "window"
    assert spec.rate_hz == RATE_HZ
    assert model.manifest.data["units"] == {name: UNITS[name] for name in spec.signals}
    assert {field.unit for field in model.fields().values()} == {"W.h"}


def test_it_knows_more_of_the_next_minute_than_the_last_one_does(model: Model, make: ModuleType) -> None:
    off, typical, inside = [], [], []
    for seed in CARS:
        seen, after, _ = make.drives(seed, 200)
        for window, truth in zip(seen, after, strict=True):
            values = model.run_window(window).values
            assert values["energy_low"] <= values["energy"] <= values["energy_high"]
            off.append(abs(values["energy"] - truth))
            inside.append(values["energy_low"] <= truth <= values["energy_high"])
        typical += np.abs(after - 97).tolist()
    assert np.mean(off) < 0.75 * np.mean(typical)
    assert 0.7 < np.mean(inside) < 0.9


def test_the_energy_it_learnt_is_that_of_the_pack(make: ModuleType) -> None:
    seen, after, before = make.drives(20_001, 600)
    shown = (seen[:, :, 5] * seen[:, :, 6]).sum(axis=1) / RATE_HZ / 3600
    np.testing.assert_allclose(before, shown, atol=1.0)
    np.testing.assert_allclose(before[1:], after[:-1])
    assert Vehicle(20_001).energy(0, 600) > 0


def test_the_file_computes_the_features_that_the_fit_saw(
    model: Model, make: ModuleType, weights: dict[str, np.ndarray]
) -> None:
    seen, _, _ = make.drives(20_002, 3000)
    x = np.clip((make.features(seen) - weights["mean"]) / weights["std"], -5, 5)
    for at in range(3):
        x = x @ weights[f"w{at}"] + weights[f"b{at}"]
        x = np.maximum(x, 0) if at < 2 else x
    middle = x[:, 0] * weights["unit"] + weights["typical"]
    got = [model.run_window(window).values["energy"] for window in seen]
    np.testing.assert_allclose(got, middle, atol=0.1)


def test_exporting_its_weights_anew_gives_the_same_file(
    make: ModuleType, weights: dict[str, np.ndarray]
) -> None:
    assert make.export(weights) == (PACKAGE / "model.onnx").read_bytes()


def test_numbers_no_car_gives_are_no_crash(model: Model) -> None:
    for value in (0.0, 1e30, np.nan, np.inf):
        model.run_window(np.full((600, 8), value, np.float32))


@pytest.mark.slow
def test_it_learns(make: ModuleType) -> None:
    pytest.importorskip("torch", reason="torch is needed to train the model again")
    learnt = make.fit(range(1000, 1010), 4)
    session = make.open_model(make.export(learnt))
    seen, after, _ = make.drives(20_003, 200)
    assert np.abs(make.guessed(session, seen)[:, 0] - after).mean() < np.abs(after - np.median(after)).mean()
