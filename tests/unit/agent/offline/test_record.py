"""A recording that is ended has a whole file, whatever its models do."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml

from agent.offline.mcap_file import McapReader, RecordingError, read_session
from edgebed.processes import edgebed_command
from tests.polling import wait_until

ROWS = 30


def recorded(path: Path) -> int:
    """The number of records in the file, which are its readings here."""
    try:
        return sum(1 for _ in McapReader(path).records())
    except (OSError, RecordingError):
        return 0


def test_a_model_that_hangs_does_not_cost_the_end_of_the_file(tmp_path: Path, packages: Any) -> None:
    package = packages.write(packages.hanging(above=20))
    (tmp_path / "arm.csv").write_text("t,a,b\n" + "".join(f"{i / 10},{i},{-i}\n" for i in range(ROWS)))
    options = {"file": "arm.csv", "time": "t", "rate_hz": 10, "stream": "rows"}
    document = {
        "node": "t/p/s/n",
        "broker": {"url": "mqtt://127.0.0.1:9"},
        "state": "state",
        "devices": {"arm": {"adapter": "replay", "options": {**options, "fields": {"a": "a", "b": "b"}}}},
        "models": {"m": {"package": str(package), "input": "arm/rows"}},
    }
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(document))
    file = tmp_path / "session.mcap"
    command = edgebed_command("record", str(tmp_path / "agent.yaml"), "--output", str(file))
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: recorded(file) == ROWS, "every row is recorded", 120)
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert "left behind" not in said
    assert read_session(file).recovered == ""
