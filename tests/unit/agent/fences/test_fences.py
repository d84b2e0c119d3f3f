"""A fence: which limit forbids an inference, what is reported, and when a model must go."""

from __future__ import annotations

import msgspec
import pytest

from agent.fences.fences import Fences, Slowed
from agent.fences.settings import FenceSettings
from wire.clock import Clock
from wire.reasons import NO_REASON


class Time(Clock):
    """A clock that a test moves, and the CPU time that a process has used."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = 1_000.0
        self.cpu_s = 50.0  # of the start, before there was a fence

    def flowing_s(self) -> float:
        return self.at_s

    def used(self) -> float:
        return self.cpu_s


def fences(time: Time, **settings: float) -> Fences:
    return Fences(msgspec.convert(settings, FenceSettings), time, time.used)


def test_without_settings_nothing_is_refused() -> None:
    time = Time()
    made = fences(time)
    time.cpu_s += 1e6
    assert [made.refusal("m") for _ in range(1_000)] == [None] * 1_000
    assert made.no_room(1e6).why == ""
    assert (made.uplink, made.fields()) == (None, {"fence_by": "agent"})


def test_inferences_over_the_limit_are_refused_and_counted() -> None:
    time = Time()
    made = fences(time, inferences_per_s=5)
    for _ in range(600):  # 30 a second
        time.at_s += 1 / 30
        made.runs += made.refusal("m") is None
    assert made.runs == pytest.approx(100, abs=11)
    assert made.runs + made.skipped == 600


def test_models_rest_until_the_cpu_time_is_within_the_limit() -> None:
    """A model that takes half a second runs as often as 20 per cent of a core allow."""
    time = Time()
    made = fences(time, cpu_pct=20)
    began_s = time.cpu_s
    for _ in range(6_000):  # ten a second
        time.at_s += 0.1
        if made.refusal("m") is None:
            time.cpu_s += 0.5
    assert time.cpu_s - began_s == pytest.approx(120, abs=1)


def test_cpu_that_only_readings_use_stops_models_for_a_minute_at_most() -> None:
    time = Time()
    made = fences(time, cpu_pct=20)
    time.cpu_s += 1e6
    assert made.refusal("m") == "cpu_pct"
    time.at_s += 59
    assert made.refusal("m") == "cpu_pct"
    time.at_s += 2
    assert made.refusal("m") is None


def test_memory_stops_one_model_at_a_time() -> None:
    time = Time()
    made = fences(time, memory_mb=100)
    assert made.over_memory(99.0) is NO_REASON
    why = made.over_memory(130.0)
    assert why.why == "the agent has 130 MB, 100 MB are allowed: fence.memory_mb"
    assert (why.code, why.args) == ("fence-memory", {"rss_mb": 130, "limit_mb": 100})
    assert made.over_memory(120.0) is NO_REASON, "what was freed is not given back yet"
    assert made.fields()["fence_code"] == "fence-memory"
    time.at_s += 11
    assert made.over_memory(120.0).code == "fence-memory"
    made.over_memory(90.0)
    assert made.fields() == {"fence_memory_mb": 100, "fence_by": "agent"}
    assert "the model takes 20 MB" in made.no_room(90.0, 20.0).why


def test_an_uplink_that_waits_is_reported_for_a_while() -> None:
    time = Time()
    made = fences(time, uplink_kb_per_s=20)
    made.uplink_held()
    assert made.fields()["fence"] == ("it sends at most 20 kB/s: fence.uplink_kb_per_s; the rest waits")
    time.at_s += 31
    assert made.fields() == {"fence_uplink_kb_per_s": 20, "fence_by": "agent"}


def test_a_slowed_model_names_its_limit_with_steady_figures() -> None:
    slowed = Slowed(0.0)
    runs, texts = 0, set()
    for second in range(1, 31):
        runs += 3
        for _ in range(27):
            slowed.skipped("inferences_per_s", float(second))
        texts.add(slowed.check(runs, float(second), 5.0).why)
    assert texts == {"", "runs 3 of 30 inferences/s: fence.inferences_per_s"}
    assert slowed.reason.args == {"done": 3.0, "of": 30.0}
    assert slowed.check(runs + 30, 40.0, 5.0).code == "fence-inferences", "it may be skipped again soon"
    assert slowed.check(runs + 300, 62.0, 5.0) is NO_REASON


@pytest.mark.parametrize(("key", "least"), [("memory_mb", 64), ("uplink_kb_per_s", 2)])
def test_a_limit_that_cannot_work_is_a_mistake(key: str, least: int) -> None:
    assert not list(msgspec.convert({key: least}, FenceSettings).mistakes())
    assert not list(msgspec.convert({key: 0}, FenceSettings).mistakes())
    ((found, why),) = msgspec.convert({key: least - 1}, FenceSettings).mistakes()
    assert found == key
    assert "0 for no limit" in why


def test_what_acts_on_nothing_gets_only_what_the_models_leave() -> None:
    time = Time()
    made = fences(time, inferences_per_s=4)
    assert made.refusal("slot") is None
    assert not made.unused(), "nothing has been left yet"
    time.at_s += 60
    assert made.unused()
    assert [made.refusal("slot") for _ in range(4)] == [None] * 4, "the part of the slot is untouched"


def test_what_acts_on_nothing_leaves_half_of_the_cpu() -> None:
    time = Time()
    made = fences(time, cpu_pct=50)
    assert made.unused()
    time.cpu_s += 0.6
    assert not made.unused()
    assert made.refusal("slot") is None
