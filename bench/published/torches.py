"""Small models as torch exports them, by both of its exporters, with fixed and with open axes.

They are made here and need torch and onnxscript, which no extra installs; without them they are left out.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.published.case import Case, Feed, Row, pictures, windows

NEEDED = ("torch", "onnxscript")
_HIDDEN, _SIDE = 8, 64
_WINDOW = {"kind": "window", "name": "x", "signals": ["s0", "s1"], "rate_hz": 1}
_CLASSES = ["road", "wall", "sky"]


def _autoencoder() -> Any:
    from torch import nn

    class Autoencoder(nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Sequential(
                nn.Conv1d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 2, 3, padding=1)
            )

        def forward(self, x: Any) -> Any:
            return self.parts(x.transpose(1, 2)).transpose(1, 2)

    return Autoencoder()


def _forecaster(*, inputs: int) -> Any:
    """An LSTM: of `x` and its state, or of `x` and the newest row of another signal."""
    import torch
    from torch import nn

    class Forecaster(nn.Module):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(2, _HIDDEN, batch_first=True)
            self.last = nn.Linear(_HIDDEN + (inputs == 2), 4)

        def forward(self, x: Any, *rest: Any) -> Any:
            if inputs == 2:
                return self.last(torch.cat([self.memory(x)[0][:, -1], rest[0]], 1))
            all_rows, (h, c) = self.memory(x, rest)
            return self.last(all_rows[:, -1]), h, c

    return Forecaster()


def _segmentation() -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, len(_CLASSES), 1))


def _exported(
    model: Callable[[], Any], shapes: Mapping[str, Sequence[int]], outputs: Sequence[str], how: str
) -> bytes:
    """The file that an exporter writes; `how` is script or dynamo, perhaps with an open batch."""
    import torch

    torch.manual_seed(1)
    made = model().eval()
    arguments = tuple(torch.randn(*shape) for shape in shapes.values())
    more: dict[str, Any] = {"dynamo": "dynamo" in how, "verbose": False}
    if more["dynamo"]:
        more["external_data"] = False
    if "open" in how:
        more["dynamic_axes"] = {name: {0: "batch"} for name in (*shapes, *outputs)}
    if "open" in how and more["dynamo"]:
        del more["dynamic_axes"]
        more["dynamic_shapes"] = [{0: torch.export.Dim.DYNAMIC}] * len(arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(made, arguments, file, input_names=list(shapes), output_names=list(outputs), **more)
        return file.read_bytes()


def _error(outputs: dict[str, Any]) -> Row:
    """The worst signal's mean squared error."""
    errors = ((outputs["recon"] - outputs["fed"]["x"]) ** 2)[0].mean(axis=0)
    return {"score": float(errors.max()), "part": f"s{int(errors.argmax())}"}


def _shares(outputs: dict[str, Any]) -> Row:
    """The share of the picture in which each class is the largest."""
    best = outputs["map"][0].argmax(axis=0)
    return {name: float((best == at).mean()) for at, name in enumerate(_CLASSES)}


def _steps(outputs: dict[str, Any]) -> Row:
    return {f"v{at}": float(value) for at, value in enumerate(outputs["y"].reshape(-1))}


def _stretched(picture: NDArray[Any]) -> Feed:
    import cv2

    small = cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return {"x": (small[:, :, ::-1] / 255).transpose(2, 0, 1)[None].astype(np.float32)}


def _cases(how: str) -> list[Case]:
    zero = np.zeros((1, 1, _HIDDEN), np.float32)
    state = {"h": (1, 1, _HIDDEN), "c": (1, 1, _HIDDEN)}
    values = {"decoder": "regression", "fields": {f"v{at}": {} for at in range(4)}}
    one = lambda data: {"x": data[None].astype(np.float32)}  # noqa: E731
    two = lambda data: {"x": data[None, :, :2].astype(np.float32), "now": data[-1:, 2:].astype(np.float32)}  # noqa: E731
    error = {"decoder": "reconstruction", "error": "squared", "over_signals": "max", "threshold": 1}
    found = [
        Case(
            f"torch autoencoder, {how}", "made here==1.0", "",
            {"input": {**_WINDOW, "length": 64}, "output": error},
            lambda: windows(64, 2), one, _error,
            make=lambda: _exported(_autoencoder, {"x": (1, 64, 2)}, ["recon"], how),
        ),
        Case(
            f"torch forecaster of two inputs, {how}", "made here==1.0", "",
            {
                "input": {
                    "kind": "window", "signals": ["s0", "s1", "hour"], "rate_hz": 1, "length": 16,
                    "inputs": [
                        {"name": "x", "signals": ["s0", "s1"]},
                        {"name": "now", "signals": ["hour"], "rows": 1, "layout": "flat"},
                    ],
                },
                "output": values,
            },
            lambda: windows(16, 3), two, _steps,
            make=lambda: _exported(
                lambda: _forecaster(inputs=2), {"x": (1, 16, 2), "now": (1, 1)}, ["y"], how
            ),
        ),
        Case(
            f"torch segmentation, {how}", "made here==1.0", "",
            {
                "input": {"kind": "frame", "name": "x", "size": [_SIDE, _SIDE], "fit": "stretch"},
                "output": {"decoder": "regions", "labels": _CLASSES},
            },
            pictures, _stretched, _shares,
            make=lambda: _exported(_segmentation, {"x": (1, 3, _SIDE, _SIDE)}, ["map"], how),
        ),
    ]  # fmt: skip
    if how == "dynamo, open batch":
        del found[1]  # torch cannot export an LSTM so
    if "open" not in how:  # the state has its batch in the middle
        found.append(Case(
            f"torch forecaster with a state, {how}", "made here==1.0", "",
            {
                "input": {**_WINDOW, "length": 16, "hop": 16, "state": {"h": "h1", "c": "c1"}},
                "output": {**values, "tensors": ["y"]},
            },
            lambda: windows(16, 2), one, _steps,
            state={"h": zero, "c": zero}, following={"h": "h1", "c": "c1"},
            make=lambda: _exported(
                lambda: _forecaster(inputs=3), {"x": (1, 16, 2), **state}, ["y", "h1", "c1"], how
            ),
        ))  # fmt: skip
    return found


CASES = [
    case for how in ("script", "script, open batch", "dynamo", "dynamo, open batch") for case in _cases(how)
]
if not all(importlib.util.find_spec(name) for name in NEEDED):
    CASES = []
