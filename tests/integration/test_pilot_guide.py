"""docs/pilot-guide.md as a new user follows it: each command in its order, with shorter periods."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.pilots.report.canonical_report import read_report
from edgebed.broker import free_port
from tests.polling import wait_until
from wire.clock import Clock
from wire.pilot.plan import load
from wire.pilot.schedule import schedule

PAGE = Path(__file__).parents[2] / "docs/pilot-guide.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
ON_THE_PAGE = "--unit 10s --periods 24 --washout 2"
HERE = "--unit 3s --periods 20 --baseline 28 --washout 0.5 --lead 30s"  # the first 15 s: clock not known
GUARD_S = 400


class Terminal:
    """Runs lines in the folder of the pilot, with `edgebed` of this checkout and a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def words(self, line: str) -> list[str]:
        line = line.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}").replace(ON_THE_PAGE, HERE)
        return shlex.split(line)

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(line),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=GUARD_S,
        )

    def check(self, line: str) -> str:
        done = self.run(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def _lines() -> list[str]:
    """The commands of edgebed on the page, in their order."""
    lines = [line for block in BLOCKS for line in block.splitlines()]
    return [line for line in lines if line.startswith("edgebed ")]


@pytest.fixture
def terminal(tmp_path: Path, processes_of: Callable[[Path], list[str]]) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    key, demo = _lines()[:2]
    made.check(key)
    log = tmp_path / "demo.log"
    with log.open("w") as stderr:
        site = subprocess.Popen(
            [*made.words(demo), "--port", str(made.port)], cwd=tmp_path, env=made.environment, stderr=stderr
        )
    try:
        wait_until(lambda: "it runs" in log.read_text() or site.poll() is not None, "the site runs", 120)
        yield made
    finally:
        site.send_signal(signal.SIGINT)
        ended = site.wait(60)
    assert ended == 130, log.read_text()
    wait_until(lambda: not processes_of(tmp_path), "every process has ended")


@pytest.mark.slow
@pytest.mark.timeout(GUARD_S)
def test_the_page_leads_to_a_report(terminal: Terminal) -> None:
    folder, printed = terminal.folder, ""
    for line in _lines()[2:]:
        if line.startswith("edgebed pilot draft"):
            wait_until(lambda line=line: terminal.run(line).returncode == 0, "rows are stored", 120)
            continue
        if line.startswith("edgebed pilot plan"):
            full_ms = _baseline_end(folder)
            wait_until(lambda full_ms=full_ms: Clock().now_ms() > full_ms, "the baseline is full", 120)
            printed += terminal.run(line).stdout  # a minute of noise may refuse the plan
            continue
        printed += terminal.check(line)
    assert "periods show an effect of 6.0%" in printed
    assert "acme/ev-trial/garage/car-01: follows it" in printed
    assert "the trial is over" in printed
    assert "equal, byte for byte" in printed
    report = read_report((folder / "report.json").read_bytes())
    assert report.state == "over"
    assert all(version.in_time for version in report.versions), "it was frozen before the trial"
    [energy] = [kpi for kpi in report.kpis if kpi.primary]
    assert energy.effect is not None
    assert energy.effect.estimate is not None
    assert -0.2 < energy.effect.estimate < 0.05, "the advice takes 8 % off"
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "report.ko.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "export/croissant.json").is_file()


def _baseline_end(folder: Path) -> int:
    periods = schedule(load(folder / "pilot.yaml")).periods
    return max(each.end_ms for each in periods if each.phase == "baseline")
