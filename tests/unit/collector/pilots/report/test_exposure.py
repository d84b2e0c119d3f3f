"""What ran: each switch that was late, missing, refused or forged is counted and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from collector.mqtt.received import Received
from collector.pilots.report.document import Report
from tests.unit.collector.pilots.kpis.stored_rows import NODE, OTHER, Plant
from tests.unit.collector.pilots.report.played_pilot import (
    MODEL,
    PERIOD_MS,
    PLAN,
    THRESHOLD,
    PlayedPilot,
    changed,
)

Switched = Callable[[PlayedPilot, int], Sequence[Received]]


def report_with(plant: Plant, switched: Switched, text: str = PLAN) -> Report:
    """The report of a pilot whose switches are those of `switched`, by period of the trial."""
    pilot = PlayedPilot(plant, text)
    plant.commit([pilot.freeze()])
    for number in range(len(pilot.newest.plan.schedule.trial)):
        plant.commit([*switched(pilot, number), pilot.rows(number)])
    return pilot.report()


def codes(report: Report) -> dict[str, tuple[int, ...]]:
    return {each.code: each.periods for each in report.findings}


def test_a_switch_that_came_late_counts_from_then_on(plant: Plant) -> None:
    def late(pilot: PlayedPilot, number: int) -> list[Received]:
        start = pilot.newest.plan.schedule.trial[number].start_ms
        return [pilot.switch(number, at_ms=start + 330_000 if number == 4 else 0)]

    found = report_with(plant, late)
    arm = found.ran[4].planned
    assert getattr(found.ran[4], arm) == pytest.approx(0.5)  # 270 of 540 s after the wash-out
    assert (found.ran[4].other, found.ran[4].late_ms) == (pytest.approx(0.5), 330_000)
    assert found.off_schedule == pytest.approx(0.025)
    assert codes(found) == {"schedule-not-kept": (4,), "switched-late": (4,)}
    assert found.word == "met"


def test_a_plan_that_was_withdrawn_acts_no_longer(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    period = pilot.newest.plan.schedule.trial[19]
    at = period.start_ms + 330_000
    plant.commit([plant.event(at, "_/pilot", detail={"withdrawn": pilot.newest.hash, "pilot": "line-1"})])
    found = pilot.report()
    assert (getattr(found.ran[19], period.arm), found.ran[19].other) == (
        pytest.approx(0.5),
        pytest.approx(0.5),
    )
    assert codes(found) == {"withdrawn": (), "schedule-not-kept": (19,)}


def test_over_five_percent_off_schedule_holds_the_verdict_back(plant: Plant) -> None:
    def other_arm(pilot: PlayedPilot, number: int) -> list[Received]:
        period = pilot.newest.plan.schedule.trial[number]
        wrong = {"on": "off", "off": "on"}[period.arm]
        return [pilot.switch(number, **({"actual": wrong} if number in (2, 7) else {}))]

    found = report_with(plant, other_arm)
    assert (found.off_schedule, found.word, found.reason) == (
        pytest.approx(0.1), "not-shown", "schedule-not-kept",
    )  # fmt: skip
    assert codes(found) == {"schedule-not-kept": (2, 7)}


def test_an_agent_that_was_down_over_a_switch_is_named(plant: Plant) -> None:
    def down(pilot: PlayedPilot, number: int) -> list[Received]:
        start = pilot.newest.plan.schedule.trial[number].start_ms
        return [pilot.switch(5, at_ms=start + 120_000, restart=True) if number == 5 else pilot.switch(number)]

    found = report_with(plant, down)
    assert codes(found) == {"schedule-not-kept": (5,), "switched-late": (5,), "down-over-switch": (5,)}
    assert found.ran[5].other == pytest.approx(60 / 540)


def test_a_swapped_model_is_named_with_its_periods(plant: Plant) -> None:
    def swapped(pilot: PlayedPilot, number: int) -> list[Received]:
        period = pilot.newest.plan.schedule.trial[number]
        if number < 10 or period.arm == "off":
            return [pilot.switch(number)]
        args = {"model": "joint@2.0.0", "planned": "joint@1.0.0"}
        return [pilot.switch(number, actual="off", code="pilot-model-other", why="another", args=args)]

    found = report_with(plant, swapped, changed((THRESHOLD, MODEL)))
    later = tuple(each.period for each in found.ran if each.period >= 10 and each.planned == "on")
    assert codes(found) == {"schedule-not-kept": later, "model-swapped": later}
    (finding,) = [each for each in found.findings if each.code == "model-swapped"]
    assert (finding.where, finding.args) == (NODE, {"model": "joint@2.0.0", "planned": "joint@1.0.0"})
    assert [(each.model, each.is_planned) for each in found.models] == [
        ("joint@1.0.0", True), ("joint@2.0.0", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "detail",
    [
        {"period": True}, {"period": "3"}, {"period": -2}, {"period": 10**9}, {"phase": "later"},
        {"phase": 5}, {"planned": "maybe"}, {"planned": 1}, {"actual": None}, {"actual": ["on"]},
        {"from": -5}, {"from": "x"}, {"from": 1.5}, {"from": None},
    ],
)  # fmt: skip
def test_events_of_a_wrong_form_are_left_out_and_counted(plant: Plant, detail: dict[str, Any]) -> None:
    found = report_with(
        plant, lambda pilot, number: [pilot.switch(number), *[pilot.switch(3, **detail)] * (number == 3)]
    )
    assert codes(found) == {"events-unreadable": ()}
    assert (found.word, found.off_schedule, len(found.switches)) == ("met", 0.0, 20)


def test_events_of_other_nodes_pilots_and_tenants_change_nothing(plant: Plant) -> None:
    def beside(pilot: PlayedPilot, number: int) -> list[Received]:
        wrong = {"actual": "other"}
        return [
            pilot.switch(number),
            pilot.switch(number, node=OTHER, **wrong),
            pilot.switch(number, node="hanbit/trial/hall/cell-01", **wrong),
            pilot.switch(number, pilot="line-2", **wrong),
        ]

    found = report_with(plant, beside)
    assert (found.word, found.findings, found.off_schedule) == ("met", (), 0.0)


def test_what_a_node_did_under_another_plan_is_not_known(plant: Plant) -> None:
    found = report_with(
        plant, lambda pilot, number: [pilot.switch(number, **({"hash": "f" * 64} if number == 6 else {}))]
    )
    assert codes(found) == {"schedule-not-kept": (6,), "plan-other": ()}
    assert found.ran[6].other == 1.0


def test_thousands_of_switches_with_long_texts_are_bounded(plant: Plant) -> None:
    def flood(pilot: PlayedPilot, number: int) -> list[Received]:
        start = pilot.newest.plan.schedule.trial[number].start_ms
        many = [
            pilot.switch(number, at_ms=start + 200 + at * 400, why="y" * 2_000, code="pilot-write-failed")
            for at in range(300)
        ]
        return [*many, pilot.switch(number, at_ms=start + PERIOD_MS - 100)]

    found = report_with(plant, flood)
    assert len(found.switches) == 5_000
    assert max(len(each.why) for each in found.switches) <= 300
    assert {"switches-not-listed", "not-applied"} == codes(found).keys()
    assert (found.off_schedule, found.word) == (0.0, "met")
