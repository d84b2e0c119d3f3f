"""The clock of a replay, its plan, and the report on models that changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.base import Reading
from agent.offline.mcap_file import Recorder, RecordingError
from agent.offline.regression import Difference, ExpectedEvent
from agent.offline.replay import ReplayClock, ReplayRun, changed_models, int8_note
from wire.clock import Clock
from wire.errors import ConfigError
from wire.messages import Field, Stream

CONFIG = """\
node: a/b/c/d
broker: {url: 'mqtt://127.0.0.1:1'}
state: state
devices:
  arm: {adapter: opcua, options: {url: 'opc.tcp://127.0.0.1:1', profile: opc40010}}
"""
MODELS = "models:\n  odd: {package: nowhere, input: %s}\n"
T0 = 1_770_000_000 * 10**9


def record(path: Path, config: str = CONFIG) -> Path:
    """A recording of 10 rows, a second apart."""
    streams = {
        "arm": {"joints": Stream(fields={"a": Field()})},
        "other": {"rows": Stream(fields={"a": Field()})},
    }
    clock = ReplayClock()
    about = {"config": "agent.yaml"}
    with Recorder(path, clock, about=about, models={}, config=config, streams=streams) as made:
        for index in range(10):
            clock.at_ns = T0 + index * 10**9
            made.reading("arm", Reading("joints", clock.at_ns, {"a": 1.0}))
            made.reading("other", Reading("rows", clock.at_ns, {"a": 1.0}))
    return path


async def test_every_reading_of_a_device_in_the_config_is_fed(tmp_path: Path) -> None:
    run = ReplayRun(record(tmp_path / "a.mcap"))
    await run.run()
    assert (run.readings, run.left_out, run.seconds, run.events) == (10, 10, 9.0, [])


async def test_a_model_that_is_refused_is_in_the_states(tmp_path: Path) -> None:
    run = ReplayRun(record(tmp_path / "a.mcap", CONFIG + MODELS % "arm/joints"))
    await run.run()
    assert run.states["odd"].state == "failed"
    assert str(tmp_path / "nowhere") in run.states["odd"].why, "relative to the recorded config"
    assert run.models == {}


def test_a_stream_that_was_not_recorded_is_a_mistake_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'arm/else' was not recorded; recorded are arm/joints, other/rows"):
        ReplayRun(record(tmp_path / "a.mcap", CONFIG + MODELS % "arm/else"))


def test_a_recording_without_a_config_needs_one(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="pass one with --config"):
        ReplayRun(record(tmp_path / "a.mcap", ""))
    (tmp_path / "agent.yaml").write_text(CONFIG)
    assert set(ReplayRun(tmp_path / "a.mcap", tmp_path / "agent.yaml").plan.devices) == {"arm"}


def test_models_that_changed_are_listed() -> None:
    same = "mean@1.0 " + "a" * 64
    recorded = {"one": same, "two": "m@1 " + "b" * 64, "gone": same}
    now = {"one": same, "two": "m@2 " + "c" * 64}
    assert changed_models(recorded, now) == [
        "gone: recorded with mean@1.0 (aaaaaaaaaaaa), replayed with no model",
        "two: recorded with m@1 (bbbbbbbbbbbb), replayed with m@2 (cccccccccccc)",
    ]


def test_differences_of_8_bit_models_are_explained() -> None:
    def event(slot: str, top: str = "") -> ExpectedEvent:
        return ExpectedEvent(ts=1, device="arm", slot=slot, type="anomaly", top=top)

    difference = Difference(missing=[event("a")], changed=[(event("b"), event("b"), "score 32 -> 64")])
    assert int8_note(["b", "c"], difference).startswith("b: 8-bit products are exact now")
    assert int8_note(["a", "b"], difference).startswith("a, b: ")
    assert int8_note(["c"], difference) == ""
    assert int8_note(["a"], Difference()) == ""
    assert all(line.isprintable() for line in Difference(missing=[event("a", "\x1b[2J\n")]).lines())


async def test_the_clock_shows_the_time_of_the_recording() -> None:
    clock = ReplayClock()
    clock.at_ns = T0
    real = Clock()
    before_s = real.monotonic()
    await clock.sleep(3600)
    assert real.monotonic() - before_s < 600, "sleeping does not wait"
    assert (clock.now_ns(), clock.monotonic_ns()) == (T0, T0)
