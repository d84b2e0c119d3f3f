"""Measure a run of a model package beside onnxruntime called by hand, in CPU time of one thread."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.inputs import FrameInput, WindowInput
from agent.inference.package import load_package
from agent.inference.session import Model
from bench.frames import _fastestdet
from wire.shipped import folder

_ROUNDS = 12


def run() -> list[dict[str, Any]]:
    """Return the rows: a frame and a window beside a hand-written loop; the effect of freed constants."""
    data = os.environ.get("EDGEBED_FIELD_DATA")
    with tempfile.TemporaryDirectory() as name:
        recorded = Path(data).resolve() if data else None
        package = _fastestdet(Path(name), recorded) if recorded else folder("models") / "street-detector"
        rows = [*_frame(package), *_window(folder("models") / "joint-anomaly")]
        if recorded:
            rows.append(_freed(recorded / "models/ulface_rfb_320.onnx"))
    return rows


def _frame(package: Path) -> list[dict[str, Any]]:
    import cv2

    model = Model(load_package(package))
    spec = model.manifest.input
    assert isinstance(spec, FrameInput)
    picture = _a_picture()
    session, width, height = _session(package / model.manifest.file), *spec.size
    tensor, small = np.empty((1, 3, height, width), np.float32), np.empty((height, width, 3), np.uint8)
    name = spec.name

    def by_hand() -> None:
        cv2.resize(picture, (width, height), dst=small)
        np.multiply(small.transpose(2, 0, 1), np.float32(1 / 255), out=tensor[0], casting="unsafe")
        _boxes_by_hand(session.run(None, {name: tensor})[0][0], model.manifest.output.score)

    ours, peer, bare = _best(
        lambda: model.run_frame(picture), by_hand, lambda: session.run(None, {name: tensor}), runs=20
    )
    return [
        _row(
            f"frame to boxes, {model.manifest.name} {width}x{height}, beside a hand-written loop",
            ours,
            peer,
            "ms",
        ),
        {"what": "of it inside onnxruntime", "ours": bare * 1e3, "unit": "ms"},
        {
            "what": "added per frame by the framework",
            "ours": (ours - peer) * 1e3,
            "unit": "ms",
            "limit": "<= 0.2",
        },
    ]


def _window(package: Path) -> list[dict[str, Any]]:
    model = Model(load_package(package))
    spec = model.manifest.input
    assert isinstance(spec, WindowInput)
    shape = (spec.length, len(spec.signals))
    window = np.random.default_rng(1).normal(spec.mean or 0.0, spec.std or 1.0, shape)
    rows = window.astype(np.float32)
    session, tensor = _session(package / model.manifest.file), np.zeros(spec.shape, np.float32)
    ours, bare = _best(
        lambda: model.run_window(rows), lambda: session.run(None, {spec.name: tensor}), runs=300
    )
    what = (
        f"window {spec.length} x {len(spec.signals)} to result, {model.manifest.name}, beside raw session.run"
    )
    added = {"what": "added per window", "ours": (ours - bare) * 1e6, "unit": "us", "limit": "<= 50"}
    return [_row(what, ours * 1e3, bare * 1e3, "us"), added]


def _freed(model: Path) -> dict[str, Any]:
    """Measure a model that lists every weight as an input, with freed constants and unchanged."""
    from agent.inference.onnx_scan import edited, scan

    body = model.read_bytes()
    sessions = [_session(edited(body, scan(body).edits)), _session(body)]
    feed = {"input": np.zeros((1, 3, 240, 320), np.float32)}
    ours, peer = _best(*(lambda each=each: each.run(None, feed) for each in sessions), runs=10)
    return _row(
        "session.run where the file lists every weight as an input, freed beside as it came", ours, peer, "ms"
    )


def _row(what: str, ours: float, peer: float, unit: str) -> dict[str, Any]:
    return {"what": what, "ours": ours * 1e3, "peer": peer * 1e3, "ratio": ours / peer, "unit": unit}


def _best(*calls: Callable[[], object], runs: int) -> list[float]:
    """Return the seconds per call of each; rounds alternate and the best one counts."""
    found = [float("inf")] * len(calls)
    for _ in range(_ROUNDS):
        for at, call in enumerate(calls):
            call()
            begin = time.thread_time()
            for _ in range(runs):
                call()
            found[at] = min(found[at], (time.thread_time() - begin) / runs)
    return found


def _session(model: Path | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    body = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])


def _boxes_by_hand(grid: NDArray[np.float32], least: float) -> object:
    import cv2

    score = grid[0] ** 0.6 * grid[5:].max(axis=0) ** 0.4
    ys, xs = np.nonzero(score > least)
    rows, columns = score.shape
    cx, cy = (np.tanh(grid[1, ys, xs]) + xs) / columns, (np.tanh(grid[2, ys, xs]) + ys) / rows
    w, h = 1 / (1 + np.exp(-grid[3, ys, xs])), 1 / (1 + np.exp(-grid[4, ys, xs]))
    rects = np.stack([cx - w / 2, cy - h / 2, w, h], axis=1)
    return cv2.dnn.NMSBoxes((rects * 1000).tolist(), score[ys, xs].tolist(), least, 0.45)


def _a_picture() -> NDArray[np.uint8]:
    """Return a picture with many objects: the first of the recorded clip, else of the scene."""
    import cv2

    data = os.environ.get("EDGEBED_FIELD_DATA")
    if data:
        capture = cv2.VideoCapture(str(Path(data) / "videos/vtest.avi"))
        picture: Any = capture.read()[1]
        capture.release()
        return np.ascontiguousarray(picture)
    from simulators.plants.scene import Scene

    return Scene(12).frame(130)


if __name__ == "__main__":
    from bench.__main__ import table

    print(table(run()))
