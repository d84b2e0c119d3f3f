"""A node follows the schedule of its plan: each switch, restart, clock jump and missing model is an event."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from agent.pilots.exposure import Applied, Exposure
from tests.unit.agent.pilots.test_pilots import At, opened
from tests.unit.wire.pilot.plans import changed, signed_plan
from wire.messages import Event
from wire.pilot.frozen import Opened
from wire.pilot.plan import Plan
from wire.pilot.schedule import Arm, switchback, utc_ms
from wire.reasons import NO_REASON, because
from wire.topics import Address

NODE = Address.parse("acme/p1/s1/n1")
START = utc_ms("2027-03-01 06:00", ZoneInfo("Asia/Seoul"))
HOUR = 3_600_000
ARMS = switchback(7, 20)  # of the plan of the tests


class Lamp:
    """Something that can be switched, or is broken."""

    def __init__(self) -> None:
        self.state = "free"
        self.broken = NO_REASON
        self.value: float | None = None
        self.waits = False

    def set(self, plan: Plan, arm: Arm | None) -> Applied | None:
        assert plan.pilot == "trial-1"
        arm = arm or "off"
        self.state = "off" if self.broken.why else arm
        if self.waits:
            return None
        return Applied(self.state, self.broken if arm == "on" else NO_REASON, self.value)

    def release(self) -> Applied:
        self.state = "free"
        return Applied("on")

    def stopped(self) -> Applied:
        return Applied("off", NO_REASON, self.value)


class Node:
    """One run of the agent of a node."""

    def __init__(self, clock: At, plan: Opened | None, lamp: Lamp) -> None:
        self.events: list[Event] = []
        self.plan = plan
        self.clock = clock
        self.exposure = Exposure(NODE, clock, lambda: self.plan, lamp, self.events.append)

    def at(self, hours: float) -> list[tuple[Any, ...]]:
        """What is recorded at this time after the start of the trial."""
        self.clock.ms = START + round(hours * HOUR)
        self.events.clear()
        self.exposure.look()
        return [
            (each.detail["phase"], each.detail["period"], each.detail["planned"], each.detail["actual"])
            for each in self.events
        ]


def node(*pairs: tuple[str, str], clock: At | None = None) -> tuple[Node, Lamp]:
    lamp = Lamp()
    return Node(clock or At(START), opened(signed_plan(*pairs)), lamp), lamp


def test_the_schedule_is_followed_and_each_switch_is_recorded_once() -> None:
    made, lamp = node()
    assert made.at(-100) == [("baseline", -1, "off", "off")]
    assert made.events[0].detail["restart"] is True
    assert made.events[0].detail["from"] == START - 100 * HOUR
    assert made.at(-1) == [("outside", -1, "off", "off")]
    found = []
    for quarter in range(160 * 4):
        found += made.at(quarter / 4)
        assert lamp.state == ARMS[quarter // 32]
    assert found == [("trial", at, arm, arm) for at, arm in enumerate(ARMS)]
    assert made.at(160) == [("over", -1, None, "on")]
    assert lamp.state == "free"
    assert made.at(161) == []


def test_a_restart_within_a_period_goes_on_and_is_recorded() -> None:
    first, lamp = node()
    on = ARMS.index("on")
    first.at(on * 8 + 1)
    first.events.clear()
    first.exposure.stop()
    [end] = first.events
    assert first.at(on * 8 + 1.5) == [], "nothing is recorded after the end"
    assert (end.detail["planned"], end.detail["actual"], end.detail["period"]) == ("on", "off", on)
    again = Node(first.clock, first.plan, lamp)
    assert again.at(on * 8 + 3) == [("trial", on, "on", "on")]
    assert again.events[0].detail["restart"] is True
    assert again.events[0].detail["from"] == START + (on * 8 + 3) * HOUR
    off = ARMS.index("off")
    later = Node(first.clock, first.plan, lamp)  # it was down over switches
    assert later.at(off * 8 + 5) == [("trial", off, "off", "off")]
    after = Node(first.clock, first.plan, lamp)
    assert after.at(200) == []
    assert lamp.state == "free"


def test_a_plan_that_comes_while_the_agent_runs_is_not_a_restart() -> None:
    made, _ = node()
    plan, made.plan = made.plan, None
    assert made.at(1) == []
    made.plan = plan
    assert made.at(1) == [("trial", 0, ARMS[0], ARMS[0])]
    assert "restart" not in made.events[0].detail


def test_a_clock_that_jumps_leads_to_the_period_of_now() -> None:
    made, lamp = node()
    made.at(1)
    assert made.at(81) == [("trial", 10, ARMS[10], ARMS[10])]
    assert made.at(1) == [("trial", 0, ARMS[0], ARMS[0])]
    assert lamp.state == ARMS[0]
    assert made.at(-9_000) == [("outside", -1, "off", "off")]


def test_an_intervention_that_cannot_be_on_is_recorded_with_its_reason() -> None:
    made, lamp = node()
    on = ARMS.index("on")
    lamp.broken = because("another model", "pilot-model-other", model="m@2", planned="m@1")
    assert made.at(on * 8 + 1) == [("trial", on, "on", "off")]
    assert (made.events[0].code, made.events[0].args) == (
        "pilot-model-other",
        {"model": "m@2", "planned": "m@1"},
    )
    lamp.broken = NO_REASON
    assert made.at(on * 8 + 2) == [("trial", on, "on", "on")]


def test_an_amendment_is_recorded_and_a_withdrawal_frees_the_node() -> None:
    made, lamp = node()
    made.at(1)
    before = made.plan
    made.plan = opened(signed_plan(("min: 0.1", "min: 0.2")))
    assert before is not None
    assert made.at(1) == [("trial", 0, ARMS[0], ARMS[0])]
    assert made.events[0].detail["hash"] == made.plan.hash != before.hash
    made.plan = None
    assert made.at(2) == []
    assert lamp.state == "free"


def test_only_treated_machines_get_the_change_and_a_paired_model_stays_in_shadow() -> None:
    switchback_text = "kind: switchback, unit: 8h, periods: 20, seed: 7, washout_s: 60, carry_over_s: 60"
    machines = ", ".join(f"acme/p1/s1/n{at}" for at in (1, 2, 3, 4))
    nodes = ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{machines}]")
    for seed in range(8):
        group = f"groups: {{machines: [{machines}], treated: 2}}"
        design = f"kind: parallel, unit: 8h, periods: 20, seed: {seed}, {group}"
        made, _ = node(nodes, (switchback_text, design))
        assert made.plan is not None
        arm = "on" if str(NODE) in made.plan.plan.schedule.treated else "off"
        assert made.at(1) == [("trial", 0, arm, arm)]
    intervention = changed().partition("intervention:\n  ")[2].partition("\ndesign:")[0]
    model = "kind: model\n  what: {en: a, ko: b}\n  slot: s\n  model: m@1.0.0\n  sha256: " + "a" * 64
    made, _ = node((intervention, model), (switchback_text, "kind: paired, unit: 8h, periods: 20"))
    assert made.at(1) == [("trial", 0, "off", "off")]


def test_what_is_not_known_yet_is_recorded_when_it_is() -> None:
    made, lamp = node()
    lamp.waits = True
    assert made.at(1) == []
    lamp.waits, lamp.value = False, 40.0
    assert made.at(1.001) == [("trial", 0, ARMS[0], ARMS[0])]
    assert made.events[0].detail["restart"] is True, "it is the first of this run"
    assert made.events[0].value == 40.0
    lamp.value = 41.0
    assert len(made.at(1.002)) == 1
    made.events.clear()
    made.exposure.hold()
    assert made.at(9) == []
    lamp.value = 20.0
    made.exposure.stop()
    assert [(each.value, each.detail["actual"]) for each in made.events] == [(20.0, "off")]


def test_a_plan_that_ends_before_anything_is_known_is_released() -> None:
    made, lamp = node()
    lamp.waits = True  # as a device that has not answered yet
    on = ARMS.index("on")
    assert made.at(on * 8 + 1) == []
    assert lamp.state == "on"
    made.plan = None  # withdrawn in this moment
    assert made.at(on * 8 + 1.1) == []
    assert lamp.state == "free"


def test_outside_of_all_periods_a_set_point_is_planned_as_safe() -> None:
    point = "kind: set-point\n  what: {en: a, ko: b}\n  device: d\n  topic: t\n  min: 0\n  max: 9\n  safe: 1"
    intervention = changed().partition("intervention:\n  ")[2].partition("\ndesign:")[0]
    made, _ = node((intervention, point + "\n  on: 2\n  off: 3"))
    assert made.at(-1) == [("outside", -1, None, "off")]
    assert made.at(-100) == [("baseline", -1, "off", "off")]


def test_a_changed_config_is_recorded_within_its_period() -> None:
    made, lamp = node()
    setup = "one"
    made.exposure = Exposure(NODE, made.clock, lambda: made.plan, lamp, made.events.append, lambda: setup)
    assert len(made.at(1)) == 1
    assert made.events[0].detail["setup"] == "one"
    assert made.at(1.1) == []
    setup = "two"
    assert made.at(1.2) == [("trial", 0, ARMS[0], ARMS[0])]
    assert made.events[0].detail["setup"] == "two"
