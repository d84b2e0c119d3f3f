"""An agent is upgraded with a backlog: the code of today goes on with what the last version left on disk."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.store.sqlite_source import SqliteSource
from edgebed.broker import BrokerProcess
from edgebed.processes import Child, edgebed_command
from tests.polling import wait_until

LAST_VERSION = next((Path(__file__).parents[1] / "fixtures/last-version").glob("*.whl"))
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edgebed.cli import main; main()"
NODE = "acme/upgrade/hall/box"


class Site:
    """A broker, a collector and one agent, which runs as the last version or as the code of today."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = BrokerProcess("nats", folder / "broker")
        self.config = folder / "box.yaml"
        self.store = folder / "store"
        with zipfile.ZipFile(LAST_VERSION) as wheel:
            wheel.extractall(folder / "last-version")
        command = ("collector", "run", "--store", str(self.store), "--broker", self.broker.url, "--port", "0")
        self.collector = Child("collector", edgebed_command(*command), folder / "collector.log")
        old = (sys.executable, "-P", "-c", RUN, str(folder / "last-version"))
        self.old = Child("old agent", (*old, "agent", "run", str(self.config)), folder / "old.log")
        self.new = Child("new agent", edgebed_command("agent", "run", str(self.config)), folder / "new.log")

    def configure(self, first: int, *, rows: int, text: str = "", rate: float = 1.0) -> None:
        """Let the agent read a recording of numbered rows, 100 a second times `rate`."""
        with (self.folder / f"from-{first}.jsonl").open("w") as file:
            for number in range(first, first + rows):
                file.write(json.dumps({"x": number, "text": text}) + "\n")
        options = {
            "file": f"from-{first}.jsonl", "rate_hz": 100, "rate": rate, "stream": "rows",
            "fields": {"x": "x", "text": {"column": "text", "t": "str"}},
        }  # fmt: skip
        document = {
            "node": NODE,
            "broker": {"url": self.broker.url},
            "state": "state",
            "outbox": {"max_mb": 1},
            "devices": {"line": {"adapter": "replay", "options": options}},
        }
        self.config.write_text(yaml.safe_dump(document))

    def status(self) -> dict[str, Any]:
        path = self.folder / "state/status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def entry(self) -> dict[str, Any]:
        command = edgebed_command("ledger", "--store", str(self.store), "--json")
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        entries = json.loads(asked.stdout)["entries"] if asked.stdout else []
        return dict(entries[0]) if entries else {}

    def end(self) -> None:
        for each in (self.old, self.new, self.collector):
            each.stop()
        self.broker.stop()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.broker.start()
    site.collector.start()
    yield site
    site.end()


def test_a_wheel_of_the_last_version_is_run(site: Site) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import agent; print(agent.__file__)"
    command = [sys.executable, "-P", "-c", code, str(site.folder / "last-version")]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert Path(asked.stdout.strip()).is_relative_to(site.folder / "last-version")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "full", [pytest.param(False, id="backlog"), pytest.param(True, id="full", marks=pytest.mark.slow)]
)
def test_a_daemon_is_upgraded_in_mid_backlog(site: Site, full: bool) -> None:
    # long enough for a slow machine: the recording must not end before the broker does
    site.configure(
        0, rows=100_000 if full else 200_000, text="v" * 400 if full else "", rate=20.0 if full else 10.0
    )
    site.old.start()
    wait_until(lambda: site.entry().get("stored", 0) > 2, within_s=120)
    site.broker.kill()
    left = wait_until(lambda: _backlog(site.status(), full), within_s=90)
    site.old.kill()
    site.configure(1_000_000, rows=300)
    site.new.start()
    wait_until(lambda: site.status().get("boot") != left["boot"], within_s=60)
    site.broker.start()
    wait_until(lambda: _is_complete(site, left["head"]), within_s=120)
    site.new.stop()
    last, entry = site.status(), site.entry()
    assert (last["ep"], last["depth"]) == (left["ep"], 0)
    assert entry["missing_count"] == 0
    assert entry["stored"] + entry["gap_count"] == entry["taken"] == last["head"]
    assert {why for _, _, why in entry["gaps"]} == ({"quota"} if full else set())
    site.collector.stop()
    reader = SqliteSource(site.store)
    try:
        stored = Counter(seq for _, _, seqs, _ in reader.all_chunks() for seq in seqs)
    finally:
        reader.close()
    assert set(stored.values()) == {1}, "stored twice"
    assert max(stored) > left["head"] - 5


def _backlog(status: dict[str, Any], full: bool) -> dict[str, Any] | None:
    """The status while enough waits, or while data were dropped."""
    enough = status["dropped_rows"] > 2_000 if full else status["depth"] > 5
    return status if enough and not status["connected"] else None


def _is_complete(site: Site, before: int) -> bool:
    """Whether the new agent has read its recording, and all that it has is stored."""
    status = site.status()
    if status["depth"] or status["head"] <= before + 3:
        return False
    entry = site.entry()
    return bool(entry["stored"] + entry["gap_count"] >= status["head"])
