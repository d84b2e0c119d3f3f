"""A recorded clip through agent, broker, collector and API: its boxes are those of an independent decoder."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgebed.broker import Kind, find
from edgebed.installation import AgentSetup, Installation
from tests.brokers import LONG_TEST_KINDS
from wire.errors import Unreachable

pytestmark = pytest.mark.field
WIDTH, HEIGHT, FRAMES = 768, 576, 795  # of vtest.avi
NODE = "cam-01"


@pytest.fixture
def config(field_data: Path, tmp_path: Path) -> Path:
    """A camera on the clip and FastestDet, brought by a manifest only."""
    package = tmp_path / "fastestdet"
    package.mkdir()
    shutil.copy(field_data / "models/fastestdet_352.onnx", package / "model.onnx")
    shutil.copy(field_data / "models/coco.names", package)
    manifest = {
        "name": "fastestdet",
        "version": "1.0.0",
        "licence": "BSD-3-Clause",
        "file": "model.onnx",
        "sha256": hashlib.sha256((package / "model.onnx").read_bytes()).hexdigest(),
        "input": {"kind": "frame", "name": "input.1", "size": [352, 352], "colour": "bgr", "fit": "stretch"},
        "output": {"decoder": "detection", "head": "fastestdet", "labels_file": "coco.names", "score": 0.5},
    }
    (package / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    document = {
        "node": f"acme/replay/bench/{NODE}",
        "broker": {"url": "mqtt://127.0.0.1:1"},
        "state": "state",
        "devices": {
            "camera": {
                "adapter": "camera",
                "options": {"file": str(field_data / "videos/vtest.avi"), "pace": "asap"},
            }
        },
        "models": {
            "detector": {"package": str(package), "input": "camera/frames", "events": "each"},
        },
    }
    path = tmp_path / "clip.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("kind", LONG_TEST_KINDS)
async def test_the_clips_boxes_reach_the_api(
    kind: Kind, tmp_path: Path, config: Path, field_data: Path, require: Any
) -> None:
    try:
        find(kind)
    except Unreachable:
        require("mosquitto")
    async with Installation(
        tmp_path / "installation", [AgentSetup(NODE, config, "camera")], broker=kind
    ) as installation:

        def played() -> bool:
            status = installation.agent_status(NODE)
            return bool(status["devices"]["camera"]["state"] == "stopped" and status["depth"] == 0)

        async def last_frame_stored() -> bool:
            # a model answers after its camera has stopped: its last message can still be missing then
            return any(event["frame"] == FRAMES - 1 for event in await _events(installation))

        await installation.until("the clip has been played and everything is acknowledged", played, 120)
        await installation.until("the result of the last frame is stored", last_frame_stored, 60)
        await installation.until("everything is acknowledged", played, 60)
        events = await _events(installation)
        ledger = (await installation.api("/api/v1/ledger"))["totals"]
    assert sorted(event["frame"] for event in events) == list(range(FRAMES)), "a frame is missing or doubled"
    assert (ledger["missing_count"], ledger["gap_count"], ledger["stored"]) == (0, 0, ledger["taken"])
    wanted = json.loads((field_data / "golden/detections_videos_every25.json").read_text())["vtest.avi"]
    labels = (field_data / "models/coco.names").read_text().split("\n")
    by_frame = {event["frame"]: event.get("boxes", []) for event in events}
    total = found = 0
    for frame, decoders in wanted.items():
        for cls, score, corners in decoders["fastestdet_352"]:
            if score >= 0.6:
                total += 1
                found += any(
                    box["label"] == labels[cls] and _overlap(_corners(box["box"]), corners) > 0.5
                    for box in by_frame[int(frame)]
                )
    assert total > 100
    assert found >= 0.95 * total, f"{found} of {total} reference boxes"


async def _events(installation: Installation) -> list[dict[str, Any]]:
    path = f"/api/v1/nodes/{installation.node(NODE)}/devices/camera/events?type=detection&limit=200"
    page = await installation.api(path)
    events: list[dict[str, Any]] = page["events"]
    while page["events"] and page.get("next"):
        page = await installation.api(f"{path}&before={page['next']}")
        events += page["events"]
    return events


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x * WIDTH, y * HEIGHT, (x + width) * WIDTH, (y + height) * HEIGHT


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes given by their corners."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)
