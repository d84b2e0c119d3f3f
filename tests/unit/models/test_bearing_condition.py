"""The bearing-condition package: it passes the gate, ignores gain, and has the scores of its card."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from agent.inference.gate import inspect
from agent.inference.inputs import WindowInput
from agent.inference.package import load_package
from agent.inference.session import Model
from agent.pipeline.resampler import HALF_WIDTH
from agent.pipeline.windows import Windows
from wire.messages import Field, Stream

pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
PACKAGE = Path(__file__).resolve().parents[3] / "models" / "bearing-condition"
LENGTH = 2048


def test_it_passes_the_gate_with_every_golden_vector() -> None:
    report = inspect(load_package(PACKAGE), ("CPUExecutionProvider",))
    assert report.why == ""
    assert report.golden == 4


def test_only_the_shape_of_the_spectrum_matters(model: Model) -> None:
    vibration = np.random.default_rng(1).standard_normal((LENGTH, 1)).astype(np.float32)
    wanted = model.raw(vibration)[0]
    for gain, offset in ((0.01, 0.0), (100.0, 0.0), (1.0, 9.81)):
        np.testing.assert_allclose(
            model.raw(vibration * np.float32(gain) + np.float32(offset))[0], wanted, atol=0.05
        )


def test_knocks_at_the_rate_of_a_ball_are_no_normal_bearing(model: Model) -> None:
    with np.load(PACKAGE / "golden" / "knocks.npz") as golden:
        result = model.run_window(golden["input"])
    assert (result.top, result.alarm) == ("ball", True)
    assert set(model.fields()) == {"label", "score", "alarm", "normal", "ball", "inner_race"}


def test_numbers_no_sensor_gives_are_no_crash(model: Model) -> None:
    for value in (0.0, 1e30, np.nan, np.inf):
        model.run_window(np.full((LENGTH, 1), value, np.float32))


def test_the_graph_sees_what_the_fit_saw(make: ModuleType) -> None:
    rng = np.random.default_rng(2)
    weights, bias = rng.normal(size=(make.BANDS, 3)), rng.normal(size=3)
    judge = make.network(make.export(weights, bias))
    for _ in range(20):
        vibration = np.cumsum(rng.standard_normal(LENGTH)).astype(np.float32) + rng.standard_normal(LENGTH)
        assert judge(vibration.astype(np.float32)) == np.argmax(make.features(vibration) @ weights + bias)


@pytest.mark.field
def test_the_score_on_the_recordings_is_the_cards(field_data: Path, model: Model, make: ModuleType) -> None:
    labels = model.manifest.output.labels
    groups: dict[str, list[bool]] = {}
    table = np.zeros((3, 3), int)
    for group, window, label in make.held_out(make.load(field_data)):
        told = model.run_window(window[:, None]).top
        table[label, labels.index(told)] += 1
        groups.setdefault(group, []).append(told == labels[label])
    card = model.manifest.quality["model"]
    assert table.tolist() == card["confusion"]
    assert {group: round(float(np.mean(right)), 4) for group, right in groups.items()} == card["by_recording"]


@pytest.mark.field
def test_a_sensor_at_48_khz_is_heard_through_the_agent_as_it_was_learnt(
    field_data: Path, model: Model, make: ModuleType
) -> None:
    recording = make.RECORDINGS[0]
    with np.load(field_data / "signals" / "cwru" / f"{recording.file}.npz") as arrays:
        raw = arrays["DE"][: 4 * 5 * LENGTH, 0]
    learnt = make.decimated(raw, recording.decimate)
    spec = WindowInput(
        kind="window", name="x", signals=["vibration"], rate_hz=12_000, length=LENGTH, hop=LENGTH
    )
    windows = Windows(spec, Stream(fields={"vibration": Field()}, rate_hz=48_000), Counter())
    heard = [windows.add(round(at * 1e9 / 48_000), {"vibration": float(v)}) for at, v in enumerate(raw)]
    found = [window.rows for window in heard if window is not None]
    assert len(found) == 4
    for nth, rows in enumerate(found):
        at = HALF_WIDTH + nth * LENGTH
        alike = learnt[at : at + LENGTH].astype(np.float32)
        # logarithms of the bands' shares
        assert np.abs(make.features(rows[:, 0]) - make.features(alike)).max() < 0.05
        assert model.run_window(rows).top == "normal"


@pytest.mark.field
def test_fitting_anew_gives_the_weights_in_the_file(field_data: Path, make: ModuleType) -> None:
    import onnx

    weights, bias = make.fit(make.training(make.load(field_data), ball_load_hp=0))
    kept = {
        c.name: onnx.numpy_helper.to_array(c) for c in onnx.load(PACKAGE / "model.onnx").graph.initializer
    }
    np.testing.assert_allclose(kept["weights"], weights, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(kept["bias"], bias, rtol=1e-3, atol=1e-2)
