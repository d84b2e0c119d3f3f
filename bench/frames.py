"""Measure the CPU per frame of the camera agent beside a hand-written capture-infer-decode loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.footprint import cpu_s, ready_agent
from edgebed.broker import BrokerProcess
from wire.shipped import folder

FRAMES = 600
PAIRS = 5
SETTLE_S = 7.0  # connected, start-up memory released: one-time costs are not costs of a frame

# Hand-written code for this one model: one session, buffers allocated once, the same decoding.
_BY_HAND = """
import sys, resource, cv2, numpy as np, onnxruntime as ort, time
clip, model = sys.argv[1:3]
cv2.setNumThreads(1)
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name, out = session.get_inputs()[0].name, session.get_outputs()[0].name
_, _, height, width = session.get_inputs()[0].shape
tensor = np.empty((1, 3, height, width), np.float32)
capture = cv2.VideoCapture(clip, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])  # the cheapest way
frames = boxes = 0
start = time.monotonic()
used = resource.getrusage(resource.RUSAGE_SELF)
while True:
    ok, picture = capture.read()
    if not ok:
        break
    small = cv2.resize(picture, (width, height))
    np.multiply(small.transpose(2, 0, 1), 1 / 255, out=tensor[0], casting="unsafe")
    grid = session.run([out], {name: tensor})[0][0]
    obj, classes = grid[0], grid[5:]
    score = obj ** 0.6 * classes.max(axis=0) ** 0.4
    ys, xs = np.nonzero(score > 0.4)
    rows, columns = score.shape
    cx, cy = (np.tanh(grid[1, ys, xs]) + xs) / columns, (np.tanh(grid[2, ys, xs]) + ys) / rows
    w, h = 1 / (1 + np.exp(-grid[3, ys, xs])), 1 / (1 + np.exp(-grid[4, ys, xs]))
    rects = np.stack([cx - w / 2, cy - h / 2, w, h], axis=1)
    keep = cv2.dnn.NMSBoxes((rects * 1000).tolist(), score[ys, xs].tolist(), 0.4, 0.45)
    keep = np.array(keep, int)
    kinds = classes[:, ys, xs].argmax(axis=0)[keep].tolist()
    found = list(zip(kinds, score[ys, xs][keep].tolist(), rects[keep].clip(0, 1).round(4).tolist()))
    boxes += len(found)
    frames += 1
end = resource.getrusage(resource.RUSAGE_SELF)
cpu = end.ru_utime + end.ru_stime - used.ru_utime - used.ru_stime
print(frames, boxes, cpu)
"""


def run() -> list[dict[str, Any]]:
    """Return the rows: CPU per frame of the agent and of the loop, and the difference."""
    with tempfile.TemporaryDirectory() as name, BrokerProcess("nats", Path(name) / "broker") as broker:
        work = Path(name)
        clip, package = _clip(work)
        pairs: dict[str, list[tuple[float, float]]] = {"never": [], "each": []}
        for _ in range(PAIRS):  # the machine is shared: what counts is the median of the pairs' ratios
            for events, costs in pairs.items():
                peer = _loop(clip, package / "model.onnx")
                costs.append((_agent(work, clip, package, broker.url, events), peer))
    what = "CPU per frame, agent with broker and outbox"
    return [
        _row(f"{what}, every result a row ({FRAMES} frames)", pairs["never"], "ratio <= 1.10"),
        _row(f"{what}, an event for each frame as well", pairs["each"], None),
    ]


def _row(what: str, pairs: list[tuple[float, float]], limit: str | None) -> dict[str, Any]:
    """Return the pair with the median ratio, and the lowest and the highest ratio."""
    ratios = sorted(ours / peer for ours, peer in pairs)
    ours, peer = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    return {
        "what": f"{what}; {len(pairs)} pairs, ratios {ratios[0]:.2f} to {ratios[-1]:.2f}",
        "ours": ours * 1000,
        "peer": peer * 1000,
        "ratio": ours / peer,
        "unit": "ms",
        "limit": limit,
    }


def _clip(work: Path) -> tuple[Path, Path]:
    """Return the recorded clip and FastestDet of EDGEBED_FIELD_DATA, else the scene and its detector."""
    data = os.environ.get("EDGEBED_FIELD_DATA")
    if data:
        return Path(data).resolve() / "videos/vtest.avi", _fastestdet(work, Path(data).resolve())
    import cv2

    from simulators.plants.scene import Scene

    scene, clip = Scene(5), work / "scene.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (640, 480))
    for index in range(FRAMES):
        writer.write(scene.frame(index))
    writer.release()
    return clip, folder("models") / "street-detector"


def _fastestdet(work: Path, data: Path) -> Path:
    import hashlib
    import shutil

    package = work / "fastestdet"
    package.mkdir()
    shutil.copy(data / "models/fastestdet_352.onnx", package / "model.onnx")
    shutil.copy(data / "models/coco.names", package / "coco.names")
    manifest = {
        "name": "fastestdet",
        "version": "1.0.0",
        "licence": "BSD-3-Clause",
        "description": "COCO detector",
        "file": "model.onnx",
        "sha256": hashlib.sha256((package / "model.onnx").read_bytes()).hexdigest(),
        "input": {"kind": "frame", "name": "input.1", "size": [352, 352], "colour": "bgr", "scale": 255},
        "output": {
            "decoder": "detection",
            "head": "fastestdet",
            "labels_file": "coco.names",
            "score": 0.4,
            "iou": 0.45,
        },
    }
    (package / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return package


def _loop(clip: Path, model: Path) -> float:
    out = subprocess.run(
        [sys.executable, "-c", _BY_HAND, str(clip), str(model)], capture_output=True, text=True, check=True
    ).stdout
    frames, _, cpu = out.split()
    return float(cpu) / int(frames)


def _agent(work: Path, clip: Path, package: Path, url: str, events: str) -> float:
    state = Path(tempfile.mkdtemp(dir=work))
    options = {"file": str(clip), "pace": "asap", "loop": True}
    document = {
        "node": f"bench/frames/here/{state.name.replace('_', '-')}",
        "broker": {"url": url},
        "state": str(state / "state"),
        "devices": {"camera": {"adapter": "camera", "options": options}},
        "models": {"detector": {"package": str(package), "input": "camera/frames", "events": events}},
    }
    config = state / "agent.yaml"
    config.write_text(yaml.safe_dump(document))
    with ready_agent(config) as (process, _):
        time.sleep(SETTLE_S)
        first, before_s = _mark(state, process.pid)
        frames, cpu = 0, 0.0
        while frames < FRAMES:
            last, now_s = _mark(state, process.pid)
            frames, cpu = last - first, now_s - before_s
        return cpu / frames


def _mark(state: Path, pid: int) -> tuple[int, float]:
    """Return the inferred frames and the used CPU seconds when status.json is written next.

    No collector acknowledges, so a backlog waits, and the agent writes its status every second.
    """
    path = state / "state/status.json"
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        time.sleep(0.01)
    cpu = cpu_s(pid)
    return int(json.loads(path.read_text())["models"]["detector"]["runs"]), cpu


if __name__ == "__main__":
    from bench.__main__ import table

    print(table(run()))
