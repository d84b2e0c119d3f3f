"""Scenario files: every mistake has its line, the ready ones have none; reports accept any text."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

import simulators
from edgebed.scenario import document
from edgebed.scenario.document import Scenario, find, load, percent
from edgebed.scenario.evidence import Evidence
from edgebed.scenario.judge import Verdict
from edgebed.scenario.play import Run
from edgebed.scenario.report import Report
from wire.clock import NS_PER_S
from wire.errors import ConfigError

ROOT = Path(__file__).parents[3]
READY = sorted((ROOT / "configs/scenarios").glob("*.yaml"))
PAGE = ROOT / "docs/scenarios.md"
GOOD = """\
start: 2026-03-02T09:00:00Z
duration_s: 30
agents:
  cobot-01:
    config: robot.yaml
    devices:
      arm: {simulator: opcua}
      twin: {shares: arm}
timeline:
  - {id: wear, at_s: 12, device: arm, fault: "friction:3"}
assert:
  - {stream: arm/joints, rows: all}
"""


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_the_ready_scenarios_are_fine_and_found_by_name(path: Path) -> None:
    scenario = load(path)
    assert scenario.title
    assert scenario.checks
    assert find(path.stem) == path
    assert path.stem not in simulators.KINDS  # `edgebed sim run` takes either
    assert all(agent.config.is_file() for agent in scenario.agents.values())


def test_every_simulator_has_its_place_in_a_testbed_or_a_pilot() -> None:
    agents = [agent for name in ("four-testbeds", "pilots") for agent in load(find(name)).agents.values()]
    used = {device.simulator for agent in agents for device in agent.devices.values()}
    assert simulators.KINDS.keys() - used <= {"serial", "mqtt"}  # whose formats are free


def test_an_unknown_scenario_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'four-testbeds'"):
        find("four-testbed")


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace("09:00:00Z", "18:00:00+09:00"))
    assert load(path).start_ns == 1_772_442_000 * NS_PER_S
    assert load(path).happening("wear").at_s == 12


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("T09:00:00Z", "T09:00:00", "1:8: start: '2026-03-02T09:00:00' lacks the time zone"),
        ("2026-03-02T09:00:00Z", "soon", "1:8: start: 'soon' is not a time"),
        ("2026", "9999", "is not between 1971 and 2200"),
        ("duration_s: 30", "duration_s: -1", "2:13: duration_s: expected"),
        ("duration_s: 30", "duration_s: .inf", "not a finite number"),
        ("duration_s: 30", "lead_in_s: 30", "duration_s: is missing"),
        ("cobot-01:", "Cobot 1:", "'Cobot 1' is not an id"),
        ("simulator: opcua", "simulator: opcuaa", "7:24: agents.cobot-01.devices.arm.simulator: there is no"),
        ("{simulator: opcua}", "{}", "exactly one of simulator and shares"),
        ("{shares: arm}", "{shares: leg}", "'leg' is not a device of this agent with a simulator"),
        ("{shares: arm}", "{shares: twin}", "'twin' is not a device of this agent with a simulator"),
        ("at_s: 12", "at_s: 30", "30 s is not before the end at 30 s"),
        ("device: arm, fault", "device: leg, fault", "there is no device 'leg'"),
        ("device: arm, fault", "agent: cobot-01, fault", "fault does not use agent"),
        ('fault: "friction:3"', "at_s: 3", "10:39: key 'at_s' is set twice"),
        ('fault: "friction:3"', "line: cut, link: cut", "exactly one of fault, line, link and restart"),
        ('fault: "friction:3"', "restart: agent", "there is no agent ''"),
        ("friction:3", "friction:3@5", "leave out @..."),
        ("{stream: arm/joints, rows: all}", "{}", "exactly one of stream, counts"),
        ("rows: all", "lost: 0", "has stream and lost"),
        ("rows: all", "within: 5%", "within does not apply to stream"),
        ("rows: all", "rows: some", "rows"),
        ("stream: arm/joints", "stream: joints", "'joints' is not device/stream"),
        ("stream: arm/joints", "stream: leg/joints", "12:14: assert.0.stream: there is no device 'leg'"),
        ("stream: arm/joints, rows: all", "quality: arm/joints, good: most", "'most' is not a share like 5%"),
        ("stream: arm/joints, rows: all", "alarm: arm/a, within_s: 1, after: war", "did you mean 'wear'"),
        ("agents:", "agents: []\nagent:", "agents: expected keys and values"),
        ("timeline:", "timeline: {}\nwhat:", "expected a list"),
        (GOOD, "[" * 5_000, ""),
        (GOOD, "&a [*a]", ""),
        (GOOD, "\0", ""),
        (GOOD, "", "the file is empty"),
    ],
)
def test_each_mistake_is_reported_with_its_place(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert before in GOOD
    path = tmp_path / "scenario.yaml"
    path.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert said in str(caught.value)
    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", caught.value.mistakes[0])


def test_a_device_belongs_to_one_agent(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    twice = "  other: {config: robot.yaml, devices: {arm: {simulator: opcua}}}\ntimeline:"
    path.write_text(GOOD.replace("timeline:", twice))
    with pytest.raises(ConfigError, match="2 agents have a device 'arm'"):
        load(path)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("99.9 %", 0.999), ("5", None), ("-1%", None)])
def test_shares(text: str, share: float | None) -> None:
    assert percent(text) == (None if share is None else pytest.approx(share))


def test_a_report_takes_any_words() -> None:
    nasty = 'a|b <c> & "d" \x00\x1b[31m \ud800 한글'
    scenario = Scenario(start="2026-03-02T09:00:00Z", duration_s=1.0, agents={})
    run = Run(0, NS_PER_S, took_s=0.5, notes=[nasty])
    verdicts = [Verdict(nasty, state, nasty, nasty) for state in ("ok", "failed", "skipped")]
    report = Report("x", scenario, 1, 50.0, Evidence(run), verdicts)
    assert report.exit_code == 1
    junit = report.junit()
    assert junit.count("<testcase") == 3
    assert "\x00" not in junit
    assert "&lt;c&gt; &amp;" in junit
    assert "a\\|b" in report.markdown()
    assert any("x2.0" in line for line in report.text())
    assert report.document()["rate"] == 2.0


def test_the_page_shows_a_scenario_that_is_fine(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "scenario.yaml").write_text(textwrap.dedent(blocks[0]))
    scenario = load(tmp_path / "scenario.yaml")
    assert scenario.checks


def test_the_page_names_every_key() -> None:
    page = PAGE.read_text()
    for kind in (document.Scenario, document.ScenarioAgent, document.SimulatedDevice, document.Happening):
        for key in kind.__struct_encode_fields__:
            assert f"`{key}`" in page, key
    for key in document.Check.__struct_encode_fields__:
        assert re.search(rf"`{key}|[ {{]{key}:", page), key
