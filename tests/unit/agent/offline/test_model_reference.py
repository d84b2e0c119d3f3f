"""`edgebed model reference` on recordings, and the agent that compares its input with the result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapters.base import Reading
from agent.inference.package import load_package
from agent.offline.mcap_file import Recorder
from agent.offline.replay import ReplayClock, ReplayRun
from edgebed.cli import command
from simulators.plants.cobot import RATE_HZ, SIGNALS, Cobot
from wire.messages import Field, Stream

SHIPPED = Path(__file__).parents[4] / "models" / "joint-anomaly"
T0 = 1_770_000_000 * 10**9
CONFIG = """\
node: a/b/c/d
broker: {{url: 'mqtt://127.0.0.1:1'}}
state: state
devices:
  arm: {{adapter: opcua, options: {{url: 'opc.tcp://127.0.0.1:1', profile: opc40010}}}}
models:
  anomaly: {{package: {package}, input: arm/joints, events: never}}
"""


def record(
    path: Path, seconds: int, *, package: Path = SHIPPED, change: Callable[[Any], None] | None = None
) -> Path:
    """A recording of robot 1000, with a second stream that the model cannot see."""
    rows = Cobot(1_000).block(0, round(seconds * RATE_HZ))
    if change is not None:
        change(rows)
    joints = Stream(rate_hz=RATE_HZ, fields={name: Field() for name in SIGNALS})
    streams = {"arm": {"joints": joints, "other": Stream(fields={"a": Field()})}}
    clock = ReplayClock()
    text = CONFIG.format(package=package)
    about = {"config": "agent.yaml"}
    with Recorder(path, clock, about=about, models={}, config=text, streams=streams) as made:
        for index, row in enumerate(rows):
            clock.at_ns = T0 + round(index / RATE_HZ * 1e9)
            made.reading("arm", Reading("joints", clock.at_ns, dict(zip(SIGNALS, row.tolist(), strict=True))))
            if index % 100 == 0:
                made.reading("arm", Reading("other", clock.at_ns, {"a": 1.0}))
    return path


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command, ["model", "reference", *map(str, arguments)])
    return done.exit_code, done.output or str(done.exception)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "joint-anomaly"
    shutil.copytree(
        SHIPPED, folder, ignore=shutil.ignore_patterns("model.sig", "reference.json", "*.py", "*.md")
    )
    return folder


async def test_a_replay_shows_the_drift_that_a_changed_sensor_makes(package: Path, tmp_path: Path) -> None:
    code, said = run(package, record(tmp_path / "usual.mcap", 200, package=package), "--window", 20)
    assert (code, said) == (0, f"{package}/reference.json: 18 features, 9 windows\n")
    assert load_package(package).manifest.reference is not None

    def bend(rows: Any) -> None:
        rows[:, SIGNALS.index("j4_position")] += 90

    same = ReplayRun(record(tmp_path / "same.mcap", 100, package=package))
    await same.run()
    assert [event for _, event in same.events if event.type == "model-input"] == []
    other = ReplayRun(record(tmp_path / "bent.mcap", 100, package=package, change=bend))
    await other.run()
    device, event = next(each for each in other.events if each[1].type == "model-input")
    assert (device, event.slot, event.code, event.sev) == ("arm", "anomaly", "model-input-drift", 2)
    assert event.args == {"features": "j4_position"}
    state = other.states["anomaly"]
    assert (state.state, state.degraded, state.code) == ("ok", True, "model-input-drift")
    assert not same.states["anomaly"].degraded


def test_recordings_that_give_no_reference(package: Path, tmp_path: Path) -> None:
    short = record(tmp_path / "short.mcap", 30)
    code, said = run(package, short)
    assert code != 0
    assert "whole windows of 60 s; a reference needs 8: record longer" in said
    code, said = run(package, short, "--input", "arm/other")
    assert code != 0
    assert "it has no stream arm/other" in said
    assert "needs j1_position" in said
    assert "arm/joints: another was asked for" in said
    (tmp_path / "text.mcap").write_bytes(b"no recording")
    code, said = run(package, tmp_path / "text.mcap")
    assert code != 0
    assert "is not an MCAP file" in said
    assert not (package / "reference.json").exists()


def test_the_input_must_be_chosen_where_the_model_can_see_two(package: Path, tmp_path: Path) -> None:
    stream = Stream(rate_hz=RATE_HZ, fields={name: Field() for name in SIGNALS})
    path = tmp_path / "two.mcap"
    with Recorder(
        path, ReplayClock(), about={}, models={}, config="", streams={"arm": {"a": stream, "b": stream}}
    ) as made:
        for name in ("a", "b"):
            made.reading("arm", Reading(name, T0, dict.fromkeys(SIGNALS, 0.0)))
    code, said = run(package, path)
    assert code != 0
    assert "the model can see arm/a, arm/b: choose one with --input" in said
