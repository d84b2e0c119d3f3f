"""What was changed in a store after a trial, or went wrong in it: each is named in the report."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from msgspec import UNSET

from collector.ledger.ledger import Ledger
from collector.pilots.kpis import events, rows
from collector.pilots.report.assemble import assemble
from collector.pilots.report.document import Report
from collector.pilots.report.from_store import of_store
from collector.pilots.report.pages import page
from collector.pilots.report.pages.figures import Lang
from collector.store.folder import day_files
from collector.store.sqlite_source import SqliteSource
from collector.store.store import peek
from tests.unit.collector.pilots.kpis.stored_rows import NODE, Plant
from tests.unit.collector.pilots.report.played_pilot import PLAN, PlayedPilot, level, report_of
from wire.errors import ConfigError
from wire.pilot.canonical import canonical
from wire.pilot.frozen import envelope, read_signed

Db = sqlite3.Connection
_SAME_CHUNK = "stream, first_us, last_us, recv_ms, late, rows, ep, seq_a, seq_b, body"
_SAME_EVENT = "node, device, type, sev, ts, recv, ep, seq, body, seal"
_NTH_SWITCH = "(SELECT id FROM event WHERE type = 'exposure' LIMIT 1 OFFSET 4)"
_SUMS = "FROM rollup WHERE minute BETWEEN (SELECT first_us FROM chunk WHERE id = 5) / 60000000 AND"
_SUMS += " (SELECT last_us FROM chunk WHERE id = 5) / 60000000"


def codes(report: Report) -> dict[str, tuple[int, ...]]:
    """The findings, and their periods."""
    return {each.code: each.periods for each in report.findings}


def pack_again(db: Db, number: int, values: dict[int, float]) -> None:
    """Change rows of a chunk, as somebody does who knows its form."""
    (body,) = db.execute("SELECT body FROM chunk WHERE id = ?", (number,)).fetchone()
    plain = bytearray(zstandard.ZstdDecompressor().decompress(body))
    for row, value in values.items():  # 60 rows of one column at the end, the quality of all is good
        at = len(plain) - 8 * (60 - row)
        plain[at : at + 8] = struct.pack("<d", value)
    again = zstandard.ZstdCompressor().compress(bytes(plain))
    db.execute("UPDATE chunk SET body = ? WHERE id = ?", (again, number))


def a_row_is_changed(db: Db) -> None:
    pack_again(db, 5, {30: 9.99})


def a_row_and_all_sums_are_changed(db: Db) -> None:
    pack_again(db, 5, {30: 9.99})
    db.execute("DELETE FROM rollup")


def a_sum_is_changed(db: Db) -> None:
    minute = "(SELECT minute FROM rollup LIMIT 1 OFFSET 53)"
    db.execute(f"UPDATE rollup SET total = total + 1 WHERE minute = {minute}")  # noqa: S608 - constants, also below


def a_message_is_removed(db: Db) -> None:
    db.execute("DELETE FROM chunk WHERE id = 5")


def a_message_and_its_sums_are_removed(db: Db) -> None:
    db.execute(f"DELETE {_SUMS}")
    db.execute("DELETE FROM chunk WHERE id = 5")


def a_message_is_there_twice_with_other_values(db: Db) -> None:
    db.execute(f"INSERT INTO chunk({_SAME_CHUNK}) SELECT {_SAME_CHUNK} FROM chunk WHERE id = 5")  # noqa: S608
    pack_again(db, 21, dict.fromkeys(range(60), 1.0))


def a_switch_is_removed(db: Db) -> None:
    db.execute(f"DELETE FROM event WHERE id = {_NTH_SWITCH}")  # noqa: S608


def a_switch_is_added(db: Db) -> None:
    more = _SAME_EVENT.replace("ts", "ts + 5000").replace("seq", "seq + 100")
    db.execute(f"INSERT INTO event({_SAME_EVENT}) SELECT {more} FROM event WHERE id = {_NTH_SWITCH}")  # noqa: S608


def the_plan_is_recorded_twice(db: Db) -> None:
    more = _SAME_EVENT.replace("ts", "ts - 5000")
    db.execute(f"INSERT INTO event({_SAME_EVENT}) SELECT {more} FROM event WHERE type = 'pilot'")  # noqa: S608


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (a_row_is_changed, {"data-changed": (4,)}),
        (a_row_and_all_sums_are_changed, {"data-changed": tuple(range(20))}),
        (a_sum_is_changed, {"data-changed": (5,)}),
        (a_message_is_removed, {"data-changed": (4,), "rows-fewer": ()}),
        (a_message_and_its_sums_are_removed, {"no-data": (4,), "rows-fewer": ()}),
        (a_message_is_there_twice_with_other_values, {"data-changed": (4,), "rows-more": ()}),
        (a_switch_is_removed, {"schedule-not-kept": (4,), "rows-fewer": ()}),
        (a_switch_is_added, {"rows-more": (), "schedule-not-kept": (4,), "data-changed": (4,)}),
        (the_plan_is_recorded_twice, {"rows-more": (), "data-changed": ()}),
    ],
)
def test_a_store_that_somebody_changed_is_named(
    plant: Plant, packed_at_once: None, change: Callable[[Db], None], found: dict[str, tuple[int, ...]]
) -> None:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    assert codes(pilot.report()) == {}
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        change(db)
        db.commit()
    report = pilot.report()
    named = {
        code: tuple(index for each in report.findings if each.code == code for index in each.periods)
        for code in codes(report)
    }
    assert named == found
    assert all(each.where.startswith(NODE) for each in report.findings if each.code.startswith("rows-"))


def test_rows_that_an_old_agent_did_not_number_are_not_called_added(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    plant.commit([plant.data(1_000, {"level": [1.0] * 5}, no=UNSET)])
    pilot.play()
    assert codes(pilot.report()) == {}


def test_rows_that_come_while_a_copy_of_the_ledger_is_used_are_not_called_added(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()

    def copy() -> Ledger:
        saved = peek(plant.folder)
        return Ledger(saved.marks, saved.states)

    before, end_ms = copy(), pilot.newest.plan.schedule.trial_ms[1]
    plant.commit([plant.data(end_ms + 5_000, {"level": [1.0] * 5})])
    with closing(SqliteSource(plant.folder)) as source:
        stale = assemble(pilot.versions, source, before, end_ms)
        right = assemble(pilot.versions, source, before, end_ms, copy)
    assert codes(stale) == {"rows-more": ()}
    assert codes(right) == {}
    assert codes(of_store(plant.folder, pilot.versions, end_ms)) == {}


def test_a_day_file_that_is_gone_or_an_older_one_is_named(tmp_path: Path, clock: Any) -> None:
    plant, older = Plant(tmp_path / "store", clock), tmp_path / "older.db"
    pilot = PlayedPilot(plant, PLAN)
    plant.commit([pilot.freeze()])
    for index in range(20):
        if index == 5:
            with closing(sqlite3.connect(day_files(plant.folder)[0])) as db:
                db.execute("VACUUM INTO ?", (str(older),))
        if index == 10:
            clock.ms += 86_400_000
        plant.commit([pilot.switch(index), pilot.rows(index)])
    plant.store.close()

    def found() -> dict[str, tuple[int, ...]]:
        return codes(report_of(plant.folder, pilot.versions))

    first, second = day_files(plant.folder)
    assert found() == {}
    whole = first.read_bytes()
    first.write_bytes(older.read_bytes())
    assert found() == {
        "schedule-not-kept": tuple(range(5, 10)),
        "no-data": tuple(range(5, 10)),
        "rows-fewer": (),
    }
    first.unlink()
    gone = tuple(range(10))
    assert found() == {"plan-not-recorded": (), "schedule-not-kept": gone, "no-data": gone, "rows-fewer": ()}
    first.write_bytes(whole)
    second.unlink()
    assert found() == {"schedule-not-kept": tuple(range(10, 20)), "no-data": tuple(range(10, 20))}


def test_a_config_that_was_changed_in_the_trial_is_named(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    plant.commit([pilot.freeze()])
    for index, setup in enumerate("aaaaabbbbbaaaaaaaaaa"):
        plant.commit([pilot.switch(index, setup=setup), pilot.rows(index)])
    (found,) = pilot.report().findings
    assert (found.code, found.where, found.periods) == ("setup-changed", NODE, (5, 10))


def test_a_plan_that_was_dated_back_is_named(plant: Plant) -> None:
    pilot = PlayedPilot(plant, PLAN)
    for index in range(20):
        plant.commit([pilot.switch(index), pilot.rows(index)])
    plant.commit([pilot.freeze()])  # by its time an hour before the trial
    report = pilot.report()
    assert codes(report) == {"plan-backdated": ()}
    assert not report.versions[0].in_time


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_clock_two_hours_ahead_spoils_every_period_that_it_touches(plant: Plant, is_noted: bool) -> None:
    pilot = PlayedPilot(plant, PLAN)
    trial = pilot.newest.plan.schedule.trial
    plant.commit([pilot.freeze()])
    for index, period in enumerate(trial):
        is_ahead = 5 <= index < 8
        rows = plant.data(period.start_ms + 7_200_000 * is_ahead, level(index, period))
        steps = (
            [plant.event(period.start_ms, "_/clock-step", value=7_200.0)] if index == 5 and is_noted else []
        )
        steps += (
            [plant.event(period.start_ms, "_/clock-step", value=-7_200.0)] if index == 8 and is_noted else []
        )
        plant.commit([*steps, pilot.switch(index), rows])
    (kpi,) = pilot.report().kpis
    statuses = {each.index: each.code for each in kpi.periods}
    assert [statuses[index] for index in (5, 6, 7)] == ["no-data"] * 3
    assert [statuses[index] for index in (17, 18, 19)] == ["clock-stepped"] * 3, (
        "rows of two periods are there"
    )
    assert statuses[4] == statuses[3] == ""


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"primary": False}, "none is primary"),
        ({"formula": "downtimes"}, "is not known"),
        ({"formula": "mean(other)"}, "is not in `from`"),
        ({"formula": "limit * mean(level)"}, "is not a number of `given`"),
        ({"from": {}}, "is not in `from`"),
        ({"from": {"level": {"unit": ""}}}, "name a field"),
    ],
)
def test_a_plan_that_was_made_by_hand_is_refused_with_its_mistakes(
    plant: Plant, change: dict[str, Any], mistake: str
) -> None:
    pilot = PlayedPilot(plant, PLAN)
    pilot.play()
    plain = json.loads(pilot.newest.payload)
    plain["plan"]["kpis"][0] |= change
    by_hand = read_signed(msgspec.json.encode(envelope(canonical(plain))))
    with pytest.raises(ConfigError, match=mistake):
        report_of(plant.folder, [by_hand])


def test_a_device_that_floods_one_period_costs_that_period_alone(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_EVENTS", 40)
    monkeypatch.setattr(rows, "MAX_ROWS", 600)  # the rows of the hour before are read as well
    counted = "  - {id: alarms, class: S, formula: alarms-per-hour, unit: /h, direction: decrease,\n"
    counted += "     from: {alarms: {event: cell/alarm}}, guardrail: {worse_than: 0.5}}\n"
    pilot = PlayedPilot(plant, PLAN + counted)
    pilot.play()
    trial = pilot.newest.plan.schedule.trial
    plant.commit([plant.event(trial[3].start_ms + 61_000 + at, "cell/alarm") for at in range(50)])
    plant.commit([plant.data(trial[19].start_ms + 1, {"level": [9.0] * 59}) for _ in range(5)])
    report = pilot.report()
    assert {each.periods for each in report.findings if each.code == "too-many"} == {(3,), (19,)}
    assert report.word == "met"


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_what_could_not_be_applied_is_on_the_page(plant: Plant, lang: Lang) -> None:
    pilot = PlayedPilot(plant, PLAN)
    plant.commit([pilot.freeze()])
    for index in range(20):
        other: dict[str, Any] = {"actual": "other", "code": "pilot-set-point-other"} if index == 4 else {}
        plant.commit([pilot.switch(index, **other), pilot.rows(index)])
    report = pilot.report()
    assert codes(report) == {"schedule-not-kept": (4,), "not-applied": (4,)}
    assert 'data-code="not-applied"' in page(report, lang)
