"""`agent once` ends when everything gave output, and names what gave none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from agent.config import AgentPlan, load
from agent.offline.once import ENOUGH, Once, PartlyFailed
from wire.clock import Clock
from wire.errors import Unreachable


def plan(folder: Path, models: dict[str, Any] | None = None, *devices: str) -> AgentPlan:
    """A config with a file for each of `devices`; the file of `lost` is missing."""
    for name in devices:
        if name != "lost":
            rows = "".join(f"{i / 10},{i},{-i}\n" for i in range(30))
            (folder / f"{name}.csv").write_text("t,a,b\n" + rows)
    options = {"time": "t", "rate_hz": 10, "stream": "rows", "fields": {"a": "a", "b": "b"}}
    document = {
        "node": "t/p/s/n",
        "broker": {"url": "mqtt://127.0.0.1:9"},
        "state": "state",
        "devices": {
            name: {"adapter": "replay", "options": {**options, "file": f"{name}.csv"}} for name in devices
        },
        "models": models or {},
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    return load(path, Clock())


async def test_messages_of_devices_and_models_are_shown(tmp_path: Path, packages: Any) -> None:
    package = packages.write(packages.constant(np.zeros((1, 1))))
    lines: list[str] = []
    models = {"m": {"package": str(package), "input": "arm/rows"}}
    await Once(plan(tmp_path, models, "arm"), Clock(), lines.append).run(60)
    found = [json.loads(line) for line in lines]
    assert {each["topic"] for each in found} >= {"tb1/t/p/s/n/data/arm/rows", "tb1/t/p/s/n/data/arm/m"}
    rows = [each["body"] for each in found if each["topic"].endswith("data/arm/rows")]
    assert sum(len(body["f"]["a"]) for body in rows) >= ENOUGH
    assert not (tmp_path / "state").exists(), "nothing is written"


async def test_a_field_without_a_value_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = plan(tmp_path, None, "arm", "leg")
    (tmp_path / "leg.csv").write_text("t,a,b\n" + "".join(f"{i / 10},{i},\n" for i in range(30)))
    await Once(made, Clock(), lambda _: None).run(60)
    (said,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    found = re.fullmatch(r"leg: null in each of the last (\d+) rows: b", said)
    assert found, said
    assert int(found[1]) >= ENOUGH, "more rows may come until the other device has enough"


async def test_a_device_without_readings_is_named(tmp_path: Path) -> None:
    with pytest.raises(PartlyFailed, match=r"the others are above:\n  lost: .*lost\.csv") as caught:
        await Once(plan(tmp_path, None, "arm", "lost"), Clock(), lambda _: None).run(0.5)
    assert caught.value.exit_code == 3


async def test_no_reading_at_all_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no device gave a reading"):
        await Once(plan(tmp_path, None, "lost"), Clock(), lambda _: None).run(0.5)


async def test_a_refused_model_is_named(tmp_path: Path) -> None:
    models = {"m": {"package": "nowhere", "input": "arm/rows"}}
    with pytest.raises(PartlyFailed, match=r"model m: .*there is no such model package"):
        await Once(plan(tmp_path, models, "arm"), Clock(), lambda _: None).run(60)


async def test_a_camera_shows_a_picture(tmp_path: Path) -> None:
    """Without a model and without snapshots a camera publishes nothing by itself."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), number * 40, np.uint8))
    document = {
        "node": "t/p/s/n",
        "broker": {"url": "mqtt://127.0.0.1:9"},
        "state": "state",
        "devices": {"gate": {"adapter": "camera", "options": {"folder": str(folder), "fps": 20}}},
    }
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    lines: list[str] = []
    await Once(load(path, Clock()), Clock(), lines.append).run(60)
    (shown,) = [json.loads(line) for line in lines]
    assert shown["topic"].startswith("tb1/t/p/s/n/snap/gate/")
    assert (shown["body"]["w"], shown["body"]["h"]) == (64, 48)
    assert shown["body"]["jpeg"].endswith(" bytes)")
