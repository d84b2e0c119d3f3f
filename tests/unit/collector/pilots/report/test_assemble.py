"""The report of a pilot that was played into a real store, for each design and each thing that went wrong."""

from __future__ import annotations

import pytest

from collector.ledger.ledger import Ledger
from collector.pilots.report.assemble import assemble
from collector.pilots.report.canonical_report import read_report, report_bytes
from tests.unit.collector.pilots.kpis.stored_rows import NODE, Plant
from tests.unit.collector.pilots.report.played_pilot import PLAN, PlayedPilot, changed, opened, report_of
from wire.errors import EdgebedError, WireError


def test_a_switchback_that_ran_as_planned_is_met(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    found = pilot.report()
    assert (found.state, found.word, found.reason, found.findings) == ("over", "met", None, ())
    (kpi,) = found.kpis
    assert kpi.effect is not None
    assert (kpi.effect.method, kpi.effect.n, kpi.effect.relative) == ("switchback-exact", 10, True)
    assert kpi.effect.low is not None
    assert kpi.effect.high is not None
    assert kpi.effect.low < -0.2 < kpi.effect.high
    assert [(each.name, each.periods) for each in kpi.sides] == [("on", 10), ("off", 10)]
    assert [(each.planned, each.late_ms) for each in found.ran] == [
        (period.arm, 200) for period in pilot.newest.plan.schedule.trial
    ]
    assert {each.on + each.off for each in found.ran} == {1.0}
    assert found.versions[0].in_time
    assert found.custody[0].stored == found.custody[0].taken == 39  # from the first row to the last
    assert sorted(found.sources) == [
        f"{NODE}/data/cell/production", f"{NODE}/event/_/exposure", f"{NODE}/event/_/pilot",
    ]  # fmt: skip


def test_the_same_store_gives_the_same_bytes(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    body = report_bytes(pilot.report())
    assert report_bytes(report_of(plant.folder, pilot.versions)) == body
    assert report_bytes(read_report(body)) == body


def test_an_amendment_is_found_where_the_version_before_it_was_not_given(plant: Plant) -> None:
    first = opened(PLAN)
    second = opened(changed(("min: 0.05", "min: 0.02")), after=first, reason="it was too much")
    pilot = PlayedPilot(plant, second.plan.plan)
    pilot.versions = [second]
    pilot.play()
    (found,) = pilot.report().findings
    assert (found.code, found.args["version"], found.args["reason"]) == ("amended", 2, "it was too much")


@pytest.mark.parametrize(
    ("change", "recorded", "word", "reason"),
    [
        (("min: 0.05", "min: 0.02"), "before", "met", None),
        (("min: 0.05", "min: 0.02"), "late", "not-shown", "changed-after-start"),
        (("min: 0.05", "min: 0.02"), "never", "not-shown", "changed-after-start"),
        (("testbed: hall 1", "testbed: hall 2"), "late", "met", None),
    ],
)
def test_what_is_judged_cannot_be_chosen_after_the_trial_began(
    plant: Plant, change: tuple[str, str], recorded: str, word: str, reason: str | None
) -> None:
    pilot = PlayedPilot(plant, PLAN)
    second = opened(changed(change), after=pilot.newest, reason="a better one")
    if recorded == "before":
        plant.commit([pilot.freeze()])
        pilot.versions.append(second)
        pilot.play()
    else:
        pilot.play()
        pilot.versions.append(second)
    if recorded == "late":
        plant.commit([pilot.freeze(second.plan.schedule.trial_ms[0] + 60_000)])
    report = pilot.report()
    assert (report.word, report.reason) == (word, reason)
    assert "amended" in {each.code for each in report.findings}


def test_versions_that_do_not_amend_each_other_are_refused(plant: Plant) -> None:
    first = opened(PLAN)
    plant.commit([plant.event(0, "_/pilot", detail={})])
    for versions in ([first, first], [first, opened(changed(("line-1", "line-2")), after=first, reason="x")]):
        with pytest.raises(WireError):
            report_of(plant.folder, versions)
    with pytest.raises(EdgebedError, match="needs a frozen plan"):
        assemble([], None, Ledger(), 0)  # type: ignore[arg-type]  # it is not read
