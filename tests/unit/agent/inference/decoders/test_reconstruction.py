"""Reconstruction: an autoencoder's error on onnxruntime, beside numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from agent.inference import gate
from agent.inference.decoders import ModelError, reconstruction
from agent.inference.package import load_package
from agent.inference.session import CPU, Model

SIGNALS = ["a", "b", "c"]
WINDOW = {"kind": "window", "name": "x", "signals": SIGNALS, "rate_hz": 1, "length": 4}
ROWS = np.random.default_rng(3).normal(0, 2, (4, 3)).astype(np.float32)


def damped(packages, shape: tuple[int, ...]) -> bytes:
    """Gives tanh(x): small numbers are kept, large ones are not."""
    return packages.model(
        [helper.make_node("Tanh", ["x"], ["y"])], inputs={"x": shape}, outputs={"y": ("n", *shape[1:])}
    )


@pytest.mark.parametrize("layout", ["time-signal", "signal-time", "flat"])
@pytest.mark.parametrize("error", ["absolute", "squared"])
@pytest.mark.parametrize("over_time", ["mean", "max"])
@pytest.mark.parametrize("over_signals", ["mean", "max"])
def test_the_error_of_each_signal(
    packages, layout: str, error: str, over_time: str, over_signals: str
) -> None:
    shape = {"time-signal": (1, 4, 3), "signal-time": (1, 3, 4), "flat": (1, 12)}[layout]
    options: dict[str, Any] = {"error": error, "over_time": over_time, "over_signals": over_signals}
    output = {"decoder": "reconstruction", "threshold": 0.5, "scores": True, **options}
    window = {**WINDOW, "layout": layout, "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 0.5]}
    model = Model(load_package(packages.write(damped(packages, shape), input=window, output=output)))
    seen = (ROWS - [0.1, 0.2, 0.3]) / [1.0, 2.0, 0.5]
    off = np.abs(seen - np.tanh(seen)) ** (2 if error == "squared" else 1)
    each = getattr(off, over_time)(axis=0)
    score = getattr(each, over_signals)()
    found = model.run_window(ROWS)
    assert found.values == {
        "score": pytest.approx(score, rel=1e-4),
        "alarm": bool(score >= 0.5),
        "part": SIGNALS[int(each.argmax())],
        **{name: pytest.approx(one, rel=1e-4) for name, one in zip(SIGNALS, each, strict=True)},
    }
    assert list(model.fields()) == list(found.values)


def test_the_input_is_that_of_the_run(packages) -> None:
    """A buffer that another run has filled since would give another error."""
    output = {"decoder": "reconstruction", "threshold": 9.0}
    folder = packages.write(damped(packages, (1, 4, 3)), input=WINDOW, output=output)
    gate.inspect(load_package(folder), CPU)
    model = Model(load_package(folder))
    for number in (1.0, 5.0, 1.0):
        score = model.run_window(np.full((4, 3), number, np.float32)).score
        assert score == pytest.approx(number - np.tanh(number), rel=1e-5)


def test_a_picture_has_one_error(packages, frame_input) -> None:
    output = {"decoder": "reconstruction", "threshold": 0.1}
    body = damped(packages, (1, 3, 32, 32))
    model = Model(load_package(packages.write(body, input=frame_input(), output=output)))
    found = model.run_frame(np.full((32, 32, 3), 255, np.uint8))
    assert found.values == {"score": pytest.approx(1 - np.tanh(1), rel=1e-5), "alarm": True}
    named = packages.write(body, input=frame_input(), output={**output, "scores": True})
    with pytest.raises(ModelError, match="a picture has no signals"):
        Model(load_package(named))


def test_a_signal_cannot_have_the_name_of_a_field(packages) -> None:
    output = {"decoder": "reconstruction", "threshold": 0.1, "scores": True}
    window = {**WINDOW, "signals": ["score", "b", "c"]}
    assert "score" in reconstruction.RESERVED
    with pytest.raises(ModelError, match="'score' clashes with a field"):
        Model(load_package(packages.write(damped(packages, (1, 4, 3)), input=window, output=output)))
