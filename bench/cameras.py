"""Measure an agent with four RTSP cameras and detectors against one camera, and with a too slow model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from bench.footprint import cpu_s, memory_mb, ready_agent
from edgebed.broker import BrokerProcess
from edgebed.processes import edgebed_command
from wire.clock import Clock
from wire.shipped import folder

FPS = 10  # pictures per second of each camera
SETTLE_S, MEASURE_S = 9.0, 15.0
_GROWS_S = 20.0  # between two readings of the memory
_COUNTS = ("taken", "runs", "dropped")
_SLOW_MACS = 1.2e10  # one run of the slow model: some tenths of a second on one core


class Run(NamedTuple):
    """The figures of an agent in `MEASURE_S`; counts are per second, over all cameras."""

    cpu_pct: float
    rss_mb: float
    taken: float
    inferred: float
    dropped: float
    p50_ms: float  # from a picture's capture to its row
    p99_ms: float


def run() -> list[dict[str, Any]]:
    """Return the rows: four cameras beside one, then memory and drops with a too slow model."""
    package = folder("models") / "street-detector"
    with (
        tempfile.TemporaryDirectory() as name,
        BrokerProcess("nats", Path(name) / "broker") as broker,
        _street(4) as urls,
    ):
        work = Path(name)
        one = _measure(work, broker, urls[:1], package)
        four = _measure(work, broker, urls, package)
        slow = _grown(work, broker, urls, _slow_package(work))
    return [
        _row("CPU", four.cpu_pct, one.cpu_pct, "% of a core"),
        _row("RSS", four.rss_mb, one.rss_mb, "MB"),
        _row("pictures taken", four.taken, one.taken, "/s"),
        _row("pictures inferred", four.inferred, one.inferred, "/s"),
        {**_row("pictures dropped, all counted", four.dropped, one.dropped, "/s"), "ratio": None},
        _row("from capture to result row, median", four.p50_ms, one.p50_ms, "ms"),
        _row("the same, 99th percentile", four.p99_ms, one.p99_ms, "ms"),
        *slow,
    ]


def _row(what: str, four: float, one: float, unit: str) -> dict[str, Any]:
    said = f"four cameras of {FPS} pictures a second beside one: {what}"
    return {"what": said, "ours": four, "peer": one, "ratio": four / one if one else None, "unit": unit}


def _measure(work: Path, broker: BrokerProcess, urls: list[str], package: Path) -> Run:
    config = _config(work / f"{len(urls)}", broker, urls, package)
    _warm(config)
    told = config.parent / "delays"
    with ready_agent(config, sys.executable, "-m", "bench.cameras", str(config), str(told)) as (process, _):
        time.sleep(SETTLE_S)
        before, used_s, begin = _counted(config), cpu_s(process.pid), told.stat().st_size
        time.sleep(MEASURE_S)
        after, used_s = _counted(config), cpu_s(process.pid) - used_s
        resident = memory_mb(process.pid)["RSS"]
    seconds = after["s"] - before["s"]
    taken, inferred, dropped = ((after[name] - before[name]) / seconds for name in _COUNTS)
    delays = np.frombuffer(told.read_bytes()[begin:], np.float64)
    p50, p99 = np.percentile(delays, [50, 99])
    return Run(100 * used_s / seconds, resident, taken, inferred, dropped, float(p50), float(p99))


def _grown(work: Path, broker: BrokerProcess, urls: list[str], package: Path) -> list[dict[str, Any]]:
    config = _config(work / "slow", broker, urls, package)
    _warm(config)
    with ready_agent(config) as (process, _):
        time.sleep(SETTLE_S)
        before, before_mb = _counted(config), memory_mb(process.pid)["RSS"]
        time.sleep(_GROWS_S)
        after, after_mb = _counted(config), memory_mb(process.pid)["RSS"]
    taken, inferred, dropped = (after[name] - before[name] for name in _COUNTS)
    what = f"four cameras and a model too slow for them, in {_GROWS_S:g} s: "
    waiting = taken - inferred - dropped
    return [
        {"what": what + "pictures inferred, of those taken", "ours": inferred, "peer": taken, "unit": ""},
        {"what": what + "pictures dropped and counted", "ours": dropped, "peer": taken, "unit": ""},
        {
            "what": what + "pictures neither inferred nor dropped",
            "ours": waiting,
            "unit": "",
            "limit": "<= 12",
        },
        {"what": what + "growth of memory", "ours": after_mb - before_mb, "unit": "MB", "limit": "<= 5"},
    ]


# --- the street


@contextmanager
def _street(cameras: int) -> Iterator[list[str]]:
    with ExitStack() as running:
        children = [
            running.enter_context(
                subprocess.Popen(
                    edgebed_command("sim", "run", "camera", "--seed", str(seed), "--option", f"fps={FPS}"),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            for seed in range(1, cameras + 1)
        ]
        try:
            yield [child.stdout.readline().strip() for child in children if child.stdout is not None]
        finally:
            for child in children:
                child.terminate()


def _config(work: Path, broker: BrokerProcess, urls: list[str], package: Path) -> Path:
    work.mkdir()
    cameras = {f"camera-{n}": url for n, url in enumerate(urls, 1)}
    document = {
        "node": f"bench/cameras/here/node-{work.name}",
        "broker": {"url": broker.url},
        "state": str(work / "state"),
        "devices": {name: {"adapter": "camera", "options": {"url": url}} for name, url in cameras.items()},
        "models": {
            f"detector-{n}": {"package": str(package), "input": f"{name}/frames"}
            for n, name in enumerate(cameras, 1)
        },
    }
    path = work / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _warm(config: Path) -> None:
    """Start the agent once, so that the gate's verdict is cached, as in a daemon's usual start."""
    with ready_agent(config):
        pass


def _counted(config: Path) -> dict[str, float]:
    """Return the counts over all cameras and their time; the agent writes them every 15 s."""
    path = config.parent / "state/status.json"
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        time.sleep(0.02)
    found = json.loads(path.read_text())
    devices, models = found["devices"].values(), found["models"].values()
    return {
        "s": found["ts"] / 1000,
        "taken": sum(each["readings"] for each in devices) + sum(each["frames_dropped"] for each in devices),
        "runs": sum(each.get("runs", 0) for each in models),
        "dropped": sum(each.get("dropped", 0) for each in models)
        + sum(each["frames_dropped"] for each in devices),
    }


def _agent(config: Path, told: Path) -> None:
    """Run the agent; write for each result the milliseconds since its picture was taken, as float64."""
    from agent import config as configs
    from agent.app import App
    from agent.pipeline.model_run import Inference
    from agent.pipeline.model_runner import ModelRunner
    from agent.pipeline.pipeline import Pipeline

    clock, row = Clock(), Pipeline._inferred

    def inferred(pipeline: Pipeline, slot: ModelRunner, inference: Inference) -> None:
        row(pipeline, slot, inference)
        delays.write(struct.pack("<d", (clock.now_ns() - inference.reading.at_ns) / 1e6))

    setattr(Pipeline, "_inferred", inferred)  # noqa: B010 - the one place where a row is taken
    with told.open("wb", buffering=0) as delays:
        asyncio.run(App(configs.load(config, clock), clock, "bench").run())


def _slow_package(work: Path) -> Path:
    """Write a classifier of 320 x 240 pixels with two classes that runs for some tenths of a second."""
    from onnx import TensorProto, helper, numpy_helper

    width = 64
    layers = max(1, round(_SLOW_MACS / (320 * 240 * width * width * 9)))
    rng, nodes, weights = np.random.default_rng(1), [], []
    channels, last = 3, "x"
    for layer, out in enumerate([*[width] * layers, 2]):
        kernel = rng.normal(0, 0.05, (out, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]))
        channels, last = out, f"y{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["scores"]))
    value = helper.make_tensor_value_info
    inputs, outputs = (
        value("x", TensorProto.FLOAT, [1, 3, 240, 320]),
        value("scores", TensorProto.FLOAT, [1, 2]),
    )
    graph = helper.make_graph(nodes, "slow", [inputs], [outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    body = model.SerializeToString()
    package = work / "slow-model"
    package.mkdir()
    (package / "model.onnx").write_bytes(body)
    manifest = {
        "name": "slow",
        "version": "1.0.0",
        "licence": "CC0-1.0",
        "description": "Takes long",
        "file": "model.onnx",
        "sha256": hashlib.sha256(body).hexdigest(),
        "input": {"kind": "frame", "name": "x", "size": [320, 240], "scale": 255},
        "output": {"decoder": "classification", "labels": ["day", "night"]},
    }
    (package / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return package


if __name__ == "__main__":
    if sys.argv[1:]:
        _agent(*map(Path, sys.argv[1:]))
    else:
        from bench.__main__ import table

        print(table(run()))
