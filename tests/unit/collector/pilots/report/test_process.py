"""The process of a report: the same bytes, the errors, its limits, and that it ends with its collector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from collector.pilots.report import process_child
from collector.pilots.report.canonical_report import report_bytes
from collector.pilots.report.from_store import of_store, values_of_store
from collector.pilots.report.pages import pdf_process
from collector.pilots.report.process import ReportProcess
from tests.polling import wait_until
from tests.unit.collector.pilots.kpis.stored_rows import Plant
from tests.unit.collector.pilots.report.played_pilot import BASELINE, PLAN, PlayedPilot, changed, opened
from wire.errors import ConfigError, EdgebedError, TryAgain, WireError
from wire.pilot.plan import parse

CHILDREN = (process_child.__name__, pdf_process.__name__)
ENOUGH_S = 300.0  # on a busy machine


@pytest.fixture
def pilot(plant: Plant) -> PlayedPilot:
    made = PlayedPilot(plant, PLAN)
    made.play()
    return made


def adjustment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether a process is there and not only its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False


def test_the_report_has_the_bytes_of_one_made_here(pilot: PlayedPilot) -> None:
    end_ms = pilot.newest.plan.schedule.trial_ms[1]
    with closing(ReportProcess(pilot.plant.folder)) as process:
        made = process.make(pilot.versions, end_ms, ENOUGH_S)
        assert made == report_bytes(of_store(pilot.plant.folder, pilot.versions, end_ms))
        assert process.pid == 0


def test_the_values_of_a_baseline_are_those_made_here(pilot: PlayedPilot) -> None:
    text = changed(("  trial:", BASELINE + "  trial:"))
    end_ms = pilot.newest.plan.schedule.trial_ms[1]
    with closing(ReportProcess(pilot.plant.folder)) as process:
        made = process.values(text, end_ms, ENOUGH_S)
        here = values_of_store(pilot.plant.folder, parse(text, "pilot.yaml"), end_ms)
        assert made == msgspec.json.encode(here)
        assert len(here.kpis["level"][""]) == 42
        with pytest.raises(EdgebedError, match="line-1 has no baseline"):
            process.values(PLAN, end_ms, ENOUGH_S)
        with pytest.raises(ConfigError, match=r"pilot\.yaml:1"):
            process.values("pilot: [", end_ms, ENOUGH_S)


def test_errors_are_those_of_the_report(pilot: PlayedPilot, tmp_path: Path) -> None:
    second = opened(changed(("min: 0.05", "min: 0.02")), after=pilot.newest, reason="x")
    with closing(ReportProcess(pilot.plant.folder)) as process:
        with pytest.raises(WireError, match="version 2 amends"):
            process.make([second, second], 0, ENOUGH_S)
        with pytest.raises(TryAgain, match="not made within 0 s: use `edgebed pilot report --store`"):
            process.make(pilot.versions, 0, 0.001)
        assert process.pid == 0
    with pytest.raises(TryAgain, match="the collector stops"):
        process.make(pilot.versions, 0, ENOUGH_S)
    with closing(ReportProcess(tmp_path / "none")) as process, pytest.raises(EdgebedError):
        process.make(pilot.versions, 0, ENOUGH_S)


def test_a_report_that_needs_much_memory_harms_only_itself(pilot: PlayedPilot) -> None:
    end_ms = pilot.newest.plan.schedule.trial_ms[1]
    with closing(ReportProcess(pilot.plant.folder, memory=1_000_000)) as process:
        with pytest.raises(EdgebedError, match="needs more than 1 MB of memory: use `edgebed pilot") as found:
            process.make(pilot.versions, end_ms, ENOUGH_S)
        assert not isinstance(found.value, ConfigError | TryAgain)


def test_a_process_that_is_killed_is_an_error_that_says_what_to_do(pilot: PlayedPilot) -> None:
    with closing(ReportProcess(pilot.plant.folder)) as process, ThreadPoolExecutor(1) as thread:
        made = thread.submit(process.make, pilot.versions, 0, ENOUGH_S)
        os.kill(wait_until(lambda: process.pid), signal.SIGKILL)
        with pytest.raises(EdgebedError, match=r"signal 9 ended its process, .*: use `edgebed pilot report"):
            made.result()


def test_the_process_sees_the_path_of_the_collector(
    pilot: PlayedPilot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an edgebed that runs by PYTHONPATH is not installed anywhere else
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with closing(ReportProcess(pilot.plant.folder)) as process:
        process.make(pilot.versions, 0, ENOUGH_S)
    assert (tmp_path / "seen").exists()


@pytest.mark.parametrize("module", CHILDREN)
def test_the_process_leaves_the_processor_and_the_memory_to_the_collector(module: str) -> None:
    command = [sys.executable, "-P", "-m", module, str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            mine = os.getpriority(os.PRIO_PROCESS, 0)
            wait_until(lambda: os.getpriority(os.PRIO_PROCESS, child.pid) > mine or mine == 19)
            assert adjustment(child.pid) == "1000"
        finally:
            child.kill()


@pytest.mark.parametrize("module", CHILDREN)
def test_the_process_ends_with_a_collector_that_is_killed(module: str) -> None:
    owner = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-P', '-m', {module!r}, str(os.getpid())]\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE) as collector:
        assert collector.stdout is not None
        pid = int(collector.stdout.readline())
        try:
            wait_until(lambda: adjustment(pid) == "1000")
            os.kill(pid, signal.SIGSTOP)  # it cannot see by itself that its owner is gone
        finally:
            collector.kill()
        collector.wait()
        wait_until(lambda: not runs(pid))
