"""Scenarios as CI plays them: the same seed gives the same data at any pace; failures are reported."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

import pytest
import yaml

import simulators
from edgebed.processes import edgebed_command
from edgebed.scenario import installation
from edgebed.scenario.document import find
from edgebed.scenario.report import Report
from edgebed.scenario.run import run
from tests.polling import wait_until
from wire.clock import NS_PER_S
from wire.errors import ConfigError
from wire.simulation_clock import SimulationClock

CONFIGS = Path(__file__).parents[2] / "configs"
GUARD_S = 900  # against hanging only: on a busy machine a scenario is slow
START = "2026-03-02T09:00:00Z"
DEVICES = ("arm", "monitor", "camera", "air", "arm_modbus", "amr", "vehicle", "obd", "gnss", "strap")
ALL_DEVICES: dict[str, Any] = {**{device: {} for device in DEVICES}, "lorawan": {"options": {"period_s": 2}}}


def agents(**devices: dict[str, Any]) -> dict[str, Any]:
    """Return the agents of the four testbeds that have these devices."""
    found = {}
    for name, agent in yaml.safe_load(find("four-testbeds").read_text())["agents"].items():
        kept = {
            device: {**settings, **devices[device.replace("-", "_")]}
            for device, settings in agent["devices"].items()
            if device.replace("-", "_") in devices
        }
        if kept:
            found[name] = {"config": str(CONFIGS / Path(agent["config"]).name), "devices": kept}
    return found


def written(folder: Path, **keys: Any) -> Path:
    path = folder / "scenario.yaml"
    document = {"start": START, "seed": 7, "lead_in_s": 2, "duration_s": 3, **keys}
    path.write_text(yaml.safe_dump(document))
    return path


async def played(path: Path, folder: Path, rate: float, seed: int | None = None) -> Report:
    return await run(path, folder, rate=rate, seed=seed, say=lambda _: None)


@pytest.mark.slow
@pytest.mark.timeout(GUARD_S)
async def test_the_same_seed_gives_the_same_payload_at_any_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = functools.partial(SimulationClock, patience_s=60.0)  # also on a busy machine
    monkeypatch.setattr(installation, "SimulationClock", waits)

    for lead_in_s in (3, 20):  # on a busy machine T0 may be later, and then the data differ
        checks = [{"lost": 0, "duplicates": 0}]
        path = written(tmp_path, agents=agents(**ALL_DEVICES), lead_in_s=lead_in_s, **{"assert": checks})
        runs = [await played(path, tmp_path / f"{lead_in_s}-x{rate}", rate) for rate in (1, 40)]
        if len({report.evidence.run.t0_ns for report in runs}) == 1:
            break
    assert [report.evidence.run.notes for report in runs] == [[], []]
    slow, quick = map(hashes, runs)
    expected = {"arm/joints", "arm/anomaly", "camera/detector", "monitor/ecg", "strap/heart", "vehicle/drive"}
    assert expected <= slow.keys()
    assert slow == quick
    path = written(tmp_path, agents=agents(arm={}, air={}))
    other = hashes(await played(path, tmp_path / "other", 40, seed=8))
    assert not {"arm/joints", "air/air"} & {name for name in other if other[name] == slow[name]}


HELD_LEAD_IN_S = 8  # two real seconds: a busy machine takes its time to connect devices


class HeldClock(SimulationClock):
    """Stands for four real seconds, one second after T0, as if a part got no time from a busy machine."""

    async def __aenter__(self) -> Self:
        at_ns, until_s = self.now_ns() + (HELD_LEAD_IN_S + 1) * NS_PER_S, 0.0

        def hold() -> int | None:
            nonlocal until_s
            if self.now_ns() == at_ns:
                until_s = until_s or time.monotonic() + 4
            return None if until_s and time.monotonic() > until_s else at_ns

        self.brakes["a busy part"] = hold
        return await super().__aenter__()


@pytest.mark.parametrize(
    "devices",
    [
        {"arm": "data_age_s", "gnss": "silence_s", "vehicle": "data_age_s", "strap": "silence_s"},
        pytest.param(
            {"amr": "silence_s", "monitor": "silence_s", "camera": "read_timeout_s"}, marks=pytest.mark.slow
        ),
    ],
    ids=["signals", "others"],
)
async def test_a_device_is_not_silent_while_time_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: dict[str, str]
) -> None:
    patience: dict[str, Any] = {device: {"adapter": {key: 2}} for device, key in devices.items()}
    path = written(tmp_path, agents=agents(**patience), lead_in_s=HELD_LEAD_IN_S, duration_s=4)
    reports = []
    for clock in (SimulationClock, HeldClock):
        monkeypatch.setattr(installation, "SimulationClock", functools.partial(clock, patience_s=60.0))
        reports.append(await played(path, tmp_path / clock.__name__, 4))
    lost = {
        device: source.state.why
        for report in reports
        for app in report.evidence.run.apps.values()
        for device, source in app.sources.items()
        if source.counters["lost"]
    }
    assert not lost
    assert reports[1].evidence.run.held_s["a busy part"] > 3
    assert [report.evidence.run.notes for report in reports] == [[], []]
    steady, held = map(hashes, reports)
    assert {name.partition("/")[0] for name in steady} == devices.keys()
    assert steady == held


def hashes(report: Report) -> dict[str, str]:
    assert report.exit_code == 0, list(report.text())
    return {name: stream.sha256 for name, stream in report.evidence.streams.items() if len(stream.table)}


async def test_links_agents_broker_collector_and_lines_fail_and_come_back(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        agents=agents(monitor={}, air={}, arm_modbus={}),
        duration_s=40,
        broker="nats",
        timeline=[
            {"id": "hole", "at_s": 2, "agent": "bed-01", "link": "black-hole", "for_s": 4},
            {"id": "cable", "at_s": 4, "device": "arm-modbus", "line": "cut", "for_s": 6},
            {"id": "agent", "at_s": 12, "restart": "agent", "agent": "cam-01", "for_s": 5},
            {"id": "broker", "at_s": 20, "restart": "broker", "for_s": 2},
            {"id": "collector", "at_s": 26, "restart": "collector"},
        ],
        **{
            "assert": [
                {"stream": "monitor/ecg", "rows": "all", "equals_truth": "within decimals"},
                {"stream": "air/air", "rows": 20, "equals_truth": "within decimals"},
                {"stream": "arm-modbus/joints", "rows": 100, "equals_truth": 0.51},
                {"lost": 0, "duplicates": 0},
            ]
        },
    )
    report = await played(path, tmp_path / "run", 10)
    assert report.exit_code == 0, list(report.text())
    rows = {name: len(stream.table) for name, stream in report.evidence.streams.items()}
    assert rows["monitor/ecg"] == 40 * 250  # the outbox kept what the link could not carry
    assert rows["air/air"] < 40  # a sensor is not read while its agent is away
    assert rows["arm-modbus/joints"] < 400  # or while its cable is cut


async def test_an_agent_that_lacks_a_library_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = simulators.load

    def lacking(kind: str) -> type[Any]:
        if kind == "hl7":
            raise ModuleNotFoundError("No module named 'numpy'", name="numpy")
        return load(kind)

    monkeypatch.setattr(simulators, "load", lacking)
    checks = [{"stream": "monitor/ecg", "rows": "all"}, {"stream": "air/air", "rows": "all"}]
    path = written(
        tmp_path,
        agents=agents(monitor={}, air={}),
        timeline=[{"at_s": 1, "device": "monitor", "fault": "af"}],
        **{"assert": checks},
    )
    report = await played(path, tmp_path / "run", 40)
    assert report.exit_code == 3
    assert [verdict.state for verdict in report.verdicts] == ["skipped", "ok"]
    assert "hl7 needs numpy" in report.markdown()
    assert 'skipped="1"' in report.junit()


def alone(config: str) -> dict[str, Any]:
    return {"a": {"config": str(CONFIGS / config), "devices": {"air": {"simulator": "modbus"}}}}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"timeline": [{"at_s": 1, "device": "air", "fault": "rust"}]}, "plume, dust"),
        ({"agents": agents(air={"options": {"colour": "red"}})}, "colour"),
        ({"agents": alone("robot.yaml")}, "its devices are arm, arm-modbus, amr"),
        ({"agents": alone("none.yaml")}, "none.yaml"),
        (
            {
                "agents": agents(air={"options": {"line": "rtu"}}),
                "timeline": [{"at_s": 1, "device": "air", "line": "cut"}],
            },
            "not a TCP connection",
        ),
    ],
)
async def test_a_scenario_that_cannot_be_built_is_a_config_error(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    path = written(tmp_path, **{"agents": agents(air={}), **keys})
    with pytest.raises(ConfigError, match=said):
        await played(path, tmp_path / "run", 40)


# --- from the command line


def edgebed(*arguments: str, within_s: float = 170) -> subprocess.CompletedProcess[str]:
    command = edgebed_command("sim", "run", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=within_s)


def test_each_failing_assertion_is_reported(tmp_path: Path) -> None:
    checks = [
        {"stream": "arm/joints", "rows": "all"},  # the only one that holds
        {"stream": "arm/joints", "rows": 10_000},
        {"stream": "arm/joints", "equals_truth": "within decimals"},
        {"stream": "arm/screws", "rows": "all"},
        {"counts": "arm/joints", "within": "5%"},
        {"alarm": "arm/anomaly", "after": "stuck", "within_s": 0, "part": "j1"},
        {"quality": "arm/bolts", "good": "99%"},
        {"events": "arm/anomaly", "at_most": 0, "at_least": 5},
        {"stream": "arm/anomaly", "equals_truth": 1, "fields": ["score"]},
    ]
    stuck = {"id": "stuck", "at_s": 0.5, "device": "arm", "fault": "stuck-sensor:3"}
    path = written(tmp_path, agents=agents(arm={}), timeline=[stuck], **{"assert": checks})
    junit, report = tmp_path / "out.xml", tmp_path / "out.md"
    done = edgebed(str(path), "--assert", "--json", "--junit", str(junit), "--report", str(report))
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    states = [verdict["state"] for verdict in document["assertions"]]
    assert states == ["ok", *["failed"] * 8]
    assert document["ok"] is False
    assert document["streams"]["arm/joints"]["rows"] == 150
    suite = ET.parse(junit).getroot()  # noqa: S314 - our own
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("9", "8")
    failures = [case.find("failure") for case in suite]
    assert ["" if each is None else each.attrib["message"] for each in failures][1] == (
        "expected >= 10,000 rows, found 150 rows"
    )
    assert "worst is j3_position" in report.read_text()
    assert "| failed |" in report.read_text()


def test_without_assert_it_exits_with_0_and_keeps_its_folder(tmp_path: Path) -> None:
    checks = [{"stream": "air/air", "rows": 1_000}]
    path = written(tmp_path, agents=agents(air={}), **{"assert": checks})
    kept = tmp_path / "kept"
    done = edgebed(str(path), "--keep", str(kept))
    assert done.returncode == 0
    assert "FAILED" in done.stdout
    assert list((kept / "store").glob("*.db"))
    again = edgebed(str(path), "--keep", str(kept))
    assert again.returncode == 78
    assert "not empty" in again.stderr


def test_an_interrupt_leaves_nothing(tmp_path: Path, processes_of: Callable[[Path], list[str]]) -> None:
    kept = tmp_path / "kept"
    path = written(tmp_path, agents=agents(arm={}, camera={}), duration_s=3600)
    process = subprocess.Popen(
        edgebed_command("sim", "run", str(path), "--rate", "1", "--keep", str(kept)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "are read" in line:
            break
    process.send_signal(signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(60) == 130
    process.stderr.close()
    assert "Traceback" not in said
    wait_until(lambda: not processes_of(kept), "every process has ended")


@pytest.mark.slow
@pytest.mark.timeout(GUARD_S + 10)
@pytest.mark.parametrize("name", [path.stem for path in sorted((CONFIGS / "scenarios").glob("*.yaml"))])
def test_the_ready_scenarios_hold(name: str) -> None:
    done = edgebed(name, "--assert", within_s=GUARD_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(GUARD_S + 10)
@pytest.mark.parametrize("seed", [102, 105, 7002, *range(1001, 1021)])
def test_the_mobility_scenario_holds_on_any_seed(seed: int) -> None:
    """The car brakes where its road allows it; the model is judged from there on."""
    done = edgebed("mobility", "--seed", str(seed), "--assert", within_s=GUARD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 assertions hold" in done.stdout


@pytest.mark.slow
def test_a_model_is_not_judged_for_what_the_simulator_never_did() -> None:
    """The car of this seed waits at its lights: it has no chance to brake hard."""
    done = edgebed("mobility", "--seed", "130", "--assert")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 of 12 assertions hold, 1 could not be judged" in done.stdout
    assert "the simulator of vehicle had no chance for brake" in done.stdout
