"""The demo as CI plays it: every act passes on both brokers, and Ctrl-C ends every process."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebed.broker import Kind, find
from edgebed.processes import edgebed_command
from tests.brokers import LONG_TEST_KINDS
from tests.polling import wait_until
from wire.errors import Unreachable


@pytest.mark.parametrize("kind", LONG_TEST_KINDS)
def test_every_act_passes(kind: Kind, tmp_path: Path, require: Callable[[str], str]) -> None:
    try:
        find(kind)
    except Unreachable:
        require("mosquitto")
    options = ["--headless", "--json", "--port", "0", "--seconds", "30", "--broker", kind]
    done = subprocess.run(
        edgebed_command("demo", *options, "--keep", str(tmp_path / "demo")),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    acts = {act["name"]: act["figures"] for act in outcome["acts"]}
    assert all(act["ok"] for act in outcome["acts"])
    assert len(acts) == 8
    assert outcome["taken"] == outcome["stored"] > 100
    assert outcome["lost"] == 0
    assert acts["a camera picture with boxes from a real ONNX run"]["boxes"] > 0
    alarms = acts["an arrhythmia, hard braking, a worn joint: the models raise alarms"]
    assert {site: alarm["top"] for site, alarm in alarms.items()} == {
        "bed-01": "AF",
        "car-01": "brake",
        "cobot-01": "j3",
    }
    assert acts["the backlog drains into the chart's gap"]["late_points"] > 0
    log = (tmp_path / "demo/collector.log").read_text()
    assert "refused for now" not in log, "a fleet like this never meets a share"
    assert f"taken {outcome['taken']:,} = stored {outcome['stored']:,}, 0 lost" in done.stderr


def test_an_interrupt_ends_every_part(tmp_path: Path, processes_of: Callable[[Path], list[str]]) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        edgebed_command("demo", "--port", "0", "--keep", str(folder)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stderr is not None
    for line in demo.stderr:
        if "devices turn green" in line.lower():
            break
    demo.send_signal(signal.SIGINT)
    demo.stderr.read()
    assert demo.wait(60) == 130
    demo.stderr.close()
    wait_until(lambda: not processes_of(folder), "every process has ended")
