"""Events that somebody changed in a day file after they were stored: what a report does with them."""

from __future__ import annotations

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.pilots.report.document import Report
from collector.pilots.report.pages import page
from collector.pilots.report.pages.figures import Lang
from collector.store.event_seal import SEALED
from collector.store.folder import day_files
from collector.store.store import SqliteStore
from tests.unit.collector.pilots.kpis.stored_rows import NODE, Plant
from tests.unit.collector.pilots.report.played_pilot import PLAN, PlayedPilot, changed, report_of
from tests.unit.collector.pilots.report.test_bad_input import codes
from tests.unit.collector.store.test_event_seal import unindexed
from wire.codec import plain, seal, unsealed
from wire.pilot.frozen import read_signed

FIXTURE = Path(__file__).parents[4] / "fixtures/store-2/store.tar.gz"
ALARMS_PLAN = changed(
    ("mean(level)", "alarms-per-hour"),
    ("{level: {field: cell/production/level}}", "{alarms: {event: cell/alarm}}"),
    ('unit: ""', 'unit: "/h"'),
)


def altered(folder: Path, statement: str) -> None:
    """Change an event of a store."""
    (path,) = day_files(folder)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(f"UPDATE event SET {statement}").rowcount == 1  # noqa: S608
        db.commit()


def named(report: Report) -> dict[str, tuple[int, ...]]:
    """The periods of each finding `data-changed` by its place, without the day file."""
    return {
        each.where.partition(",")[0]: each.periods for each in report.findings if each.code == "data-changed"
    }


def left_out(report: Report) -> set[int]:
    return {each.index for each in report.kpis[0].periods if each.status != "used"}


@pytest.fixture
def played(plant: Plant) -> PlayedPilot:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    return pilot


SWITCHES = {  # of each period: how its event `exposure` is changed
    0: "node = 'acme/trial/hall/cell-09'",
    1: "device = 'cell'",
    2: "type = 'exposurf'",
    3: "type = 'a/b'",
    4: "sev = 3",
    5: "recv = recv - 1",
    6: "ep = '00112233aabbccde'",
    7: "seq = 900",
    8: "body = CAST(replace(body, '\"actual\":', '\"actual\": ') AS BLOB)",
    9: "body = replace(body, '\"actual\":', '\"planned\":')",
    10: "ts = 7",
    11: "ts = 1.5",
    12: "ts = ts + 1800000",  # to period 15
    13: "seal = x'00'",
}


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_a_switch_that_was_changed_leaves_its_periods_out(played: PlayedPilot, lang: Lang) -> None:
    for number, statement in SWITCHES.items():
        altered(played.plant.folder, f"{statement} WHERE seq = {2 * number + 2}")
    report = played.report()
    periods = (*SWITCHES, 15)
    assert named(report) == {f"{NODE}/event/_/exposure": periods}
    assert left_out(report) == set(periods)
    assert {each.code for each in report.kpis[0].periods if each.index in periods} == {"data-changed"}
    assert all(each.other > 0.9 for each in report.ran if each.period in periods), "it is not known"
    assert set(codes(report)["schedule-not-kept"]) == set(periods)
    html = page(report, lang)
    assert f"{NODE}/event/_/exposure, 000001-" in html
    assert {"en": "after they were stored", "ko": "저장된 뒤에 데이터가 변경되었다"}[lang] in html


def test_a_switch_whose_checksum_was_removed_may_be_of_every_period(played: PlayedPilot) -> None:
    altered(played.plant.folder, "seal = NULL WHERE seq = 10")
    report = played.report()
    assert named(report) == {f"{NODE}/event/_/exposure": tuple(range(20))}
    assert left_out(report) == set(range(20))


def test_a_wrong_state_does_not_reach_to_the_next_switch(played: PlayedPilot) -> None:
    """A second switch of a period is changed: what the first one stated does not hold from then on."""
    period = played.newest.plan.schedule.trial[4]
    again = played.switch(4, at_ms=period.start_ms + 300_000, actual="other", restart=True)
    played.plant.commit([again])
    altered(played.plant.folder, "body = replace(body, '\"other\"', '\"off\"') WHERE seq = 42")
    report = played.report()
    assert codes(report)["data-changed"] == (4,)
    assert 0.45 < report.ran[4].other < 0.6


def test_a_copy_of_another_switch_may_replace_any(played: PlayedPilot) -> None:
    columns = f"(SELECT {SEALED} FROM event WHERE seq = 12)"  # noqa: S608 - a constant
    altered(played.plant.folder, f"({SEALED}) = {columns} WHERE seq = 10")
    report = played.report()
    assert named(report) == {f"{NODE}/event/_/exposure": tuple(range(20))}
    assert codes(report)["schedule-not-kept"] == (4,)


@pytest.mark.parametrize("statement", ["ts = ts - 3600000", "type = 'exposure'"])
def test_a_plan_event_that_was_changed_dates_no_plan(played: PlayedPilot, statement: str) -> None:
    altered(played.plant.folder, f"{statement} WHERE type = 'pilot'")
    report = played.report()
    assert codes(report)["plan-not-recorded"] == ()
    assert not report.versions[0].in_time
    assert named(report)[f"{NODE}/event/_/pilot"] == ()
    assert left_out(report) == set()
    (found,) = (each for each in report.findings if each.where.startswith(f"{NODE}/event/_/pilot,"))
    assert found.args == {"periods": 0, "kpis": "level"}


ALARMS = {  # of each period: how one of its three alarms is changed
    2: "sev = 3",
    4: "type = 'alarms'",
    6: "device = 'other'",
    8: "ts = ts - 86400000",
    10: "ts = ts + 3600000",  # to period 16
    12: "node = 'acme/trial/hall/cell-09'",
}


def test_a_kpi_over_events_leaves_the_periods_of_changed_ones_out(plant: Plant) -> None:
    pilot = PlayedPilot(plant, ALARMS_PLAN)
    pilot.play()
    for number, period in enumerate(pilot.newest.plan.schedule.trial):
        at_ms = period.start_ms + 200_000
        plant.commit([plant.event(at_ms + 1_000 * n, "cell/alarm") for n in range(3)])
        if number == 18:
            plant.commit([plant.event(at_ms, "cell/note")])
    assert (named(pilot.report()), left_out(pilot.report())) == ({}, set())
    for number, statement in ALARMS.items():
        altered(plant.folder, f"{statement} WHERE seq = {42 + 3 * number}")
    altered(plant.folder, "type = 'alarm' WHERE type = 'note'")  # it becomes an alarm
    report = pilot.report()
    periods = (*ALARMS, 16, 18)
    assert named(report) == {f"{NODE}/event/cell/alarm": periods}
    assert left_out(report) == set(periods)


def test_an_end_whose_start_was_changed_long_before_is_in_doubt(plant: Plant) -> None:
    plan = changed(
        ("mean(level)", "lead-time"),
        ("{level: {field: cell/production/level}}", "{start: {event: cell/begin}, end: {event: cell/done}}"),
        ('unit: ""', "unit: s"),
    )
    pilot = PlayedPilot(plant, plan)
    pilot.play()
    trial = pilot.newest.plan.schedule.trial
    for number, period in enumerate(trial):
        begun = period.start_ms + 200_000
        plant.commit([plant.event(begun, "cell/begin", detail={"id": f"part-{number}"})])
        done = begun + (1_800_000 if number == 2 else 60_000)
        plant.commit([plant.event(done, "cell/done", detail={"id": f"part-{number}"})])
    assert "data-changed" not in codes(pilot.report())
    altered(plant.folder, "body = replace(body, 'part-2', 'part-x') WHERE seq = 46")
    assert codes(pilot.report())["data-changed"] == (2, 5)


@pytest.mark.parametrize("how", ["dropped", "damaged"])
def test_a_change_is_also_found_where_the_index_of_the_checksums_cannot_be_used(
    played: PlayedPilot, how: str
) -> None:
    altered(played.plant.folder, "sev = 3 WHERE seq = 10")
    before = played.report()
    unindexed(day_files(played.plant.folder)[0], "event_by_seal", how)
    assert played.report() == before
    assert named(before) == {f"{NODE}/event/_/exposure": (4,)}


@pytest.mark.parametrize("how", ["dropped", "damaged"])
@pytest.mark.parametrize("plan", [PLAN, ALARMS_PLAN])
def test_events_that_cannot_be_read_are_not_only_called_absent(plant: Plant, plan: str, how: str) -> None:
    pilot = PlayedPilot(plant, plan)
    pilot.play()
    (path,) = day_files(plant.folder)
    unindexed(path, "event_by_time", how)
    report = pilot.report()
    where = {each.where for each in report.findings if each.code == "data-damaged"}
    assert where == {f"day file {path.name} is damaged"}


def test_a_clock_step_that_was_changed_hides_no_step(played: PlayedPilot) -> None:
    at_ms = played.newest.plan.schedule.trial[3].start_ms + 200_000
    played.plant.commit([played.plant.event(at_ms, "_/clock-step", value=-3_600.0)])
    altered(played.plant.folder, "body = replace(body, '-3600', '0') WHERE type = 'clock-step'")
    assert set(named(played.report())) == {f"{NODE}/event/_/clock-step"}


def test_a_message_that_was_changed_before_it_was_packed_does_not_count(
    played: PlayedPilot, clock: Any
) -> None:
    plant = played.plant
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        (body,) = db.execute("SELECT body FROM raw WHERE id = 3").fetchone()
        message = msgspec.json.decode(unsealed(plain(body)))
        message["f"]["level"] = [2 * each for each in message["f"]["level"]]
        db.execute("UPDATE raw SET body = ? WHERE id = 3", (seal(msgspec.json.encode(message)),))
        db.commit()
    for _ in range(2):
        report = played.report()
        assert (codes(report)["no-data"], codes(report)["rows-fewer"]) == ((2,), ())
        assert left_out(report) == {2}
        plant.store.close()
        plant.store = SqliteStore(plant.folder, clock)  # it is not packed by the next start either
        clock.ms += 700_000
        plant.store.work()


def test_nothing_is_claimed_about_events_without_checksums(tmp_path: Path) -> None:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    versions = [read_signed((tmp_path / "plan.json").read_bytes())]
    before = report_of(tmp_path / "store", versions)
    assert (before.findings, before.word) == ((), "met")
    altered(tmp_path / "store", "sev = 3 WHERE seq = 10")
    after = report_of(tmp_path / "store", versions)
    assert (after.findings, after.word) == ((), "met")
