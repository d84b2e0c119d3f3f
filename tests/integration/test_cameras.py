"""Four cameras on one agent: each stream arrives whole, and the status shows what a slow model drops."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from edgebed.broker import find
from edgebed.installation import AgentSetup, Installation
from wire.errors import Unreachable

DETECTOR = Path(__file__).resolve().parents[2] / "models/street-detector"
SIZE = (320, 240)
FPS = {"north": 4, "east": 4, "south": 4, "west": 20}  # the last one's model is too slow for it
SLOW = "west"
PICTURE_MB = 640 * 480 * 3 / 1e6
GUARD_S = 180.0  # against hanging: a busy machine takes its time


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two words that takes much longer than 1/20 s per picture on any core."""
    folder = tmp_path_factory.mktemp("slow")
    rng, channels, last = np.random.default_rng(1), 3, "x"
    nodes, weights = [], []
    for layer, out in enumerate([48, 48, 48, 48, 2]):
        kernel = rng.normal(0, 0.05, (out, channels, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [f"y{layer}"], pads=[1, 1, 1, 1]))
        channels, last = out, f"y{layer}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE[1], SIZE[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    body = model.SerializeToString()
    manifest = {
        "name": "slow",
        "version": "1.0",
        "licence": "CC0-1.0",
        "sha256": hashlib.sha256(body).hexdigest(),
        "input": {"kind": "frame", "name": "x", "size": list(SIZE), "scale": 255},
        "output": {"decoder": "classification", "labels": ["day", "night"], "softmax": True},
    }
    (folder / "model.onnx").write_bytes(body)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


@pytest.fixture
def setup(tmp_path: Path, slow_model: Path) -> AgentSetup:
    """One agent with all the cameras."""
    document: dict[str, Any] = {
        "node": "acme/cameras/crossing/cam-01",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": "state",
        "devices": {
            name: {"adapter": "camera", "options": {"url": "rtsp://127.0.0.1:1/street"}} for name in FPS
        },
        "models": {
            f"look-{name}": {
                "package": str(slow_model if name == SLOW else DETECTOR),
                "input": f"{name}/frames",
                "events": "never",
            }
            for name in FPS
        },
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    simulated = {
        name: ("camera", "--option", f"fps={fps}", "--seed", str(seed))
        for seed, (name, fps) in enumerate(FPS.items(), 1)
    }
    first, *others = FPS
    return AgentSetup(
        "cam-01",
        path,
        first,
        "camera",
        options=simulated[first][1:],
        further={name: simulated[name] for name in others},
    )


@pytest.mark.slow
async def test_every_stream_arrives_and_dropped_pictures_are_counted(
    tmp_path: Path, setup: AgentSetup, require: Any
) -> None:
    try:
        find("mosquitto")
    except Unreachable:
        require("mosquitto")
    async with Installation(tmp_path / "installation", [setup], broker="mosquitto") as installation:
        path = f"/api/v1/nodes/{installation.node('cam-01')}"

        async def rows(name: str) -> dict[str, Any]:
            found: dict[str, Any] = await installation.api(f"{path}/devices/{name}/rows?stream=look-{name}")
            return found

        async def arrived(name: str, least: int) -> bool:
            return len((await rows(name))["f"]["frame"]) >= least

        for name in FPS:
            await installation.until(f"results of {name}", lambda name=name: arrived(name, 5), GUARD_S)
        first_mb = (await installation.api(path))["health"]["rss_mb"]
        await installation.until("drops are reported", lambda: _dropped(installation, path, 60), GUARD_S)
        node, frames = await installation.api(path), {name: (await rows(name))["f"]["frame"] for name in FPS}
    status = installation.agent_status("cam-01")
    for name in FPS:
        assert frames[name] == sorted(set(frames[name])), "in order, none twice"
        taken, looked = status["devices"][name]["readings"], status["models"][f"look-{name}"]
        counted = looked["runs"] + looked.get("dropped", 0) + looked.get("before_gate", 0)
        assert 0 <= taken - counted <= 3, "neither looked at nor counted"
    assert status["models"][f"look-{SLOW}"]["dropped"] >= 60
    # what was dropped until then, were it kept, and that is half of it at most
    assert node["health"]["rss_mb"] - first_mb < 60 * PICTURE_MB / 2
    assert node["ledger"]["missing_count"] == 0


async def _dropped(installation: Installation, path: str, least: int) -> bool:
    node = await installation.api(path)
    models = {model["slot"]: model["counters"] for model in node["models"]}
    devices = {device["id"]: device["counters"] for device in node["devices"]}
    return all(devices[name]["readings"] > 0 for name in FPS) and models[f"look-{SLOW}"]["dropped"] >= least
