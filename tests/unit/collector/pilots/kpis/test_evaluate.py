"""KPIs of periods from rows in a real store: reference values, and each reason that leaves a period out."""

from __future__ import annotations

import random
import sqlite3
import struct
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import zstandard
from msgspec.structs import replace

from collector.pilots.kpis.evaluate import Changed, PeriodValue, evaluate
from collector.store.clock_skew import Offset
from collector.store.folder import day_files
from tests.unit.collector.pilots.kpis.stored_rows import (
    EP,
    HOUR,
    NODE,
    OTHER,
    T0,
    Plant,
    a_plan,
    condition,
    kpi,
)
from wire.pilot.plan import Data, Exclude, Input, LeftOut, Window
from wire.pilot.schedule import schedule

OEE = {"running": "", "planned": "", "parts": "{part}", "rejects": "{part}"}
RATE = kpi("units-per-hour", "{part}/h", parts="{part}")


def shift(parts: int = 19_271, rejects: int = 423) -> dict[str, list[Any]]:
    """8 h: 60 min not planned, 47 min down, a row every 10 s; the row at the start is the state before."""
    rows = 480 * 6
    minutes = [at / 6 for at in range(rows)]
    return {
        "running": [not 120 <= at < 180 and not 300 <= at < 347 for at in minutes],
        "planned": [not 120 <= at < 180 for at in minutes],
        "parts": [round(parts * at / (rows - 1)) for at in range(rows)],
        "rejects": [round(rejects * at / (rows - 1)) for at in range(rows)],
    }


@pytest.mark.parametrize(
    ("formula", "given", "inputs", "value"),
    [
        ("oee", {"ideal_s": 1.0}, OEE, 0.747937),
        ("availability", {}, {"running": "", "planned": ""}, 0.888095),
        ("performance", {"ideal_s": 1.0}, {"running": "", "parts": "{part}"}, 0.861081),
        ("quality-ratio", {}, {"parts": "{part}", "rejects": "{part}"}, 0.978050),
    ],
)
def test_oee_and_its_parts_are_those_of_the_reference(
    plant: Plant, formula: str, given: dict[str, float], inputs: dict[str, str], value: float
) -> None:
    plant.commit(plant.series(shift()))
    found = plant.value(kpi(formula, given=given, **inputs))
    assert found.value == pytest.approx(value, abs=5e-7)
    assert (found.status, found.completeness, found.rows) == ("used", 1.0, 2_880 * len(inputs))


def test_stops_and_the_times_between_and_to_repair(plant: Plant) -> None:
    plant.commit(plant.series(shift()))
    inputs = {"running": "", "planned": ""}
    assert plant.value(kpi("downtime", "min", **inputs)).value == 47.0
    assert plant.value(kpi("stops", **inputs)).value == 1.0  # the break is planned
    assert plant.value(kpi("mtbf", "min", **inputs)).value == 373.0
    assert plant.value(kpi("mttr", "h", **inputs)).value == pytest.approx(47 / 60)


def test_a_stop_counts_in_the_period_in_which_it_begins(plant: Plant) -> None:
    plant.commit(plant.series({"running": [True] * 360 + [False] * 720 + [True] * 360}))
    found = plant.values(kpi("stops", running=""), hours=(0, 1, 2, 3, 4))
    assert [each.value for each in found] == [0.0, 1.0, 0.0, 0.0]
    assert [each.arm for each in found] == ["off", "on", "off", "on"]


def test_rows_at_the_edges_belong_to_the_period_that_begins(plant: Plant) -> None:
    plant.commit(plant.series({"level": [0.0] * 360 + [1.0] * 360}))
    found = plant.values(kpi("sum(level)", level=""), hours=(0, 1, 2))
    assert [(each.value, each.rows) for each in found] == [(0.0, 360), (360.0, 360)]


def test_the_sum_of_the_periods_of_a_counter_is_its_movement(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(100, 100 + 8 * 360))}))
    found = plant.values(kpi("delta(parts)", "{part}", parts="{part}"), hours=(0, 1, 2.5, 8))
    assert sum(each.value or 0 for each in found) == 8 * 360 - 1


@pytest.mark.parametrize(
    ("values", "moved"),
    [
        ([10, 20, 30, 5, 15], 35.0),  # starts again from 0
        ([65_500, 65_520, 4, 24], 60.0),  # 16 bit
        ([4_294_967_280.0, 4_294_967_290.0, 4.0], 20.0),  # 32 bit
        ([32_757, 32_767, -32_759], 20.0),  # signed
        ([60_000, 60_001, 2, 3], 4.0),  # started again, far from the end of the register
        ([5, 5, 5], 0.0),
    ],
)
def test_a_counter_that_wraps_or_starts_again_goes_on(plant: Plant, values: list[Any], moved: float) -> None:
    plant.commit([plant.data(T0, {"parts": values})])
    assert plant.value(kpi("delta(parts)", parts=""), hours=(0, 0.02)).value == moved


def test_a_missing_day_is_named(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(360))}))
    found = plant.values(RATE, hours=(0, 1, 25, 49))
    assert [(each.status, each.code) for each in found] == [
        ("used", ""), ("missing", "no-data"), ("missing", "no-data"),
    ]  # fmt: skip
    assert (found[1].value, found[1].rows, found[2].completeness) == (None, 0, 0.0)


def test_a_device_that_was_silent_makes_a_period_incomplete(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(2_000))}))
    found = plant.value(RATE)
    assert (found.status, found.code) == ("incomplete", "device-silent")
    assert found.completeness == pytest.approx(2_000 / 2_880, abs=0.002)


def test_a_declared_gap_is_named_and_not_filled(plant: Plant) -> None:
    several = plant.series({"running": [True] * 2_880})
    plant.commit([each for at, each in enumerate(several) if not 10 <= at < 16])
    found = plant.value(kpi("availability", running=""))
    assert (found.status, found.code) == ("incomplete", "data-missing")
    plant.commit([plant.gap(T0 + 8 * HOUR, 11, 16)])
    found = plant.value(kpi("availability", running=""))
    assert (found.status, found.code) == ("incomplete", "data-lost")
    assert found.why == f"messages 11..16 of outbox {EP}: quota"
    # a row before the gap would hold for 30 s: over lost rows nothing holds
    assert found.completeness == pytest.approx(1 - 3_610 / 28_800, abs=1e-9)


def test_rows_of_another_stream_that_are_lost_cost_nothing(plant: Plant) -> None:
    mine = plant.series({"running": [True] * 1_440})
    plant.data(T0, {"other": [1.0]}, path="cell/other")
    mine += plant.series({"running": [True] * 1_440}, start_ms=T0 + 4 * HOUR)
    plant.commit(mine)
    assert plant.value(kpi("availability", running="")).status == "used"


def test_lost_numbers_between_rare_events_are_placed_in_time(plant: Plant) -> None:
    several = [plant.event(T0 + at * HOUR, "cell/alarm") for at in range(16)]
    plant.commit([*several[:3], *several[5:]])
    found = plant.values(kpi("alarms-per-hour", "/h", alarms=Input(event="cell/alarm")), hours=(0, 2, 8, 16))
    assert [(each.status, each.code) for each in found] == [
        ("used", ""), ("incomplete", "data-missing"), ("used", ""),
    ]  # fmt: skip
    assert found[2].value == 1.0


def test_what_an_old_outbox_lost_is_not_of_today(plant: Plant) -> None:
    several = plant.series({"parts": list(range(360))})
    plant.commit([*several[:2], *several[3:]])
    plant.new_outbox("ffeeddccbbaa9988")
    plant.commit(plant.series({"parts": list(range(720))}, start_ms=T0 + 50 * HOUR), T0 + 51 * HOUR)
    found = plant.values(RATE, hours=(0, 1, 50, 51, 52))
    assert [(each.status, each.code) for each in found] == [
        ("incomplete", "data-missing"), ("missing", "no-data"), ("used", ""), ("used", ""),
    ]  # fmt: skip


def test_rows_lost_at_the_end_of_a_run_are_not_taken_for_none(plant: Plant) -> None:
    plant.commit(plant.series({"running": [True] * 360}))
    plant.data(T0, {"running": [False] * 60})  # the agent stops before it is sent
    plant.commit([plant.data(T0 + HOUR * 3 // 2, {"running": [True] * 60}, no=(8, 1))])
    found = plant.value(kpi("availability", running=""), hours=(0, 1.6))
    assert (found.status, found.code) == ("incomplete", "data-missing")


@pytest.mark.parametrize("formula", ["mean(level)", "sum(level)", "level * mean(level)", "delta(level)"])
def test_values_beyond_all_sums_are_no_value_and_no_crash(plant: Plant, formula: str) -> None:
    plant.commit([plant.data(T0, {"level": [1e308, -1e308, 1e308, 1e308]})])
    text = formula.replace("level *", "max(level) *")
    found = plant.value(kpi(text, level=""), hours=(0, 40 / 3600))
    assert (found.status, found.code, found.value) == ("missing", "no-value", None)


def test_a_changed_row_in_a_day_file_is_named(plant: Plant, packed_at_once: None) -> None:
    plant.commit(plant.series(shift()))
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        number, body = db.execute("SELECT id, body FROM chunk").fetchone()
        harmed = bytearray(body)
        harmed[len(body) // 2] ^= 4
        db.execute("UPDATE chunk SET body = ? WHERE id = ?", (bytes(harmed), number))
        db.commit()
    found = plant.value(RATE)
    assert (found.status, found.code) == ("missing", "data-damaged")
    assert path.name in found.why


def test_a_row_that_somebody_packed_again_differs_from_its_sums(plant: Plant, packed_at_once: None) -> None:
    plant.commit(plant.series({"level": [float(at % 7) for at in range(720)]}))
    asked = kpi("mean(level)", level="")
    (path,) = day_files(plant.folder)
    with closing(sqlite3.connect(path)) as db:
        number, body = db.execute("SELECT id, body FROM chunk").fetchone()
        plain = bytearray(zstandard.ZstdDecompressor().decompress(body))
        plain[-8 * 400 : -8 * 399] = struct.pack("<d", 3.25)  # minute 53, within its limits
        again = zstandard.ZstdCompressor().compress(bytes(plain))
        db.execute("UPDATE chunk SET body = ? WHERE id = ?", (again, number))
        db.commit()
    found = plant.values(asked, hours=(0, 0.5, 1, 1.5))
    assert [(each.status, each.code) for each in found] == [
        ("used", ""), ("incomplete", "data-changed"), ("used", ""),
    ]  # fmt: skip
    assert found[1].why == f"the rows of {at_minute(320)} UTC differ from their sums"


def at_minute(row: int) -> str:
    at = datetime.fromtimestamp((T0 + row * 10_000) // 60_000 * 60, UTC)
    return f"{at:%Y-%m-%d %H:%M}"


ALARMS = {"alarms": Input(event="cell/alarm")}


def alter_event(plant: Plant, statement: str) -> None:
    with closing(sqlite3.connect(day_files(plant.folder)[0])) as db:
        assert db.execute(f"UPDATE event SET {statement}").rowcount == 1  # noqa: S608
        db.commit()


def test_an_event_that_somebody_changed_counts_whatever_share_of_the_data_is_asked_for(plant: Plant) -> None:
    nodes = [f"acme/trial/hall/cell-{n:02}" for n in range(1, 31)]
    plant.commit([plant.event(T0 + 1_000, "cell/alarm", node=node) for node in nodes])
    alter_event(plant, f"sev = 3 WHERE node = '{nodes[7]}'")
    asked, plan = kpi("alarms-per-hour", "/h", **ALARMS), a_plan(*nodes, data=Data(min_complete=0.0))
    first, second = plant.values(asked, plan, hours=(0, 1, 2))
    assert (first.status, first.code) == ("incomplete", "data-changed")
    assert first.why.startswith(f"{nodes[7]}/event/cell/alarm, 000001-")
    assert second.status == "used"


def test_an_alarm_belongs_to_an_event_beside_the_period_that_somebody_changed(plant: Plant) -> None:
    edge = T0 + HOUR
    plant.commit([plant.event(edge - 10_000, "cell/alarm"), plant.event(edge + 10_000, "cell/truth")])
    alter_event(plant, "ts = ts + 3600000 WHERE type = 'truth'")
    inputs = {**ALARMS, "truth": Input(event="cell/truth")}
    asked = kpi("detection-precision", given={"within_s": 30.0}, **inputs)
    found = plant.values(asked, hours=(0, 1, 2, 3, 4))
    assert [each.code == "data-changed" for each in found] == [True, True, True, False]


def test_a_condition_over_events_that_somebody_changed_is_not_known(plant: Plant) -> None:
    plant.commit([*plant.series({"parts": list(range(720))}), plant.event(T0 + 1_000, "cell/alarm")])
    alter_event(plant, "sev = 3")
    when = replace(condition("count(alarms) > 5", alarms=""), inputs=ALARMS)
    found = plant.values(RATE, a_plan(exclude=Exclude(when=(when,))), hours=(0, 1, 2))
    assert [(each.status, each.code) for each in found] == [
        ("incomplete", "condition-unknown"),
        ("used", ""),
    ]


def test_an_event_of_a_switch_that_somebody_changed_costs_the_machines_of_its_node(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(1_080))}))
    several = [Changed(NODE, T0 + HOUR + 5, "switch"), Changed(OTHER, T0 - 1, "before")]
    plan = a_plan(NODE, f"{NODE}0", OTHER)
    for machine, is_hit in (("", True), (NODE, True), (f"{NODE}/cell", True), (f"{NODE}0", False)):
        found = plant.values(RATE, plan, (0, 1, 2), machine=machine, changed=several)
        assert [each.code == "data-changed" for each in found] == [False, is_hit]
    (found_all,) = plant.values(RATE, hours=(0, 1), changed=[Changed(NODE, None, "at any time")])
    assert (found_all.status, found_all.why) == ("incomplete", "at any time")


def test_pruned_rows_are_not_a_quiet_period(plant: Plant, clock: Any) -> None:
    for day in (0, 1):
        parts = list(range(360 * day, 360 * day + 360))
        plant.commit(plant.series({"parts": parts}, start_ms=T0 + 24 * day * HOUR))
        plant.commit([plant.event(T0 + 24 * day * HOUR + 9, "cell/alarm")])
        clock.ms += 86_400_000
    plant.commit([plant.event(T0 + 50 * HOUR, "cell/alarm")])
    clock.ms += 700_000
    for _ in range(3):
        plant.store.work()
        clock.ms += 2_000
    assert plant.store.prune(day_files(plant.folder)[0], lambda _node, _cls: True, lambda _size: None)
    for asked in (RATE, kpi("alarms-per-hour", "/h", alarms=Input(event="cell/alarm"))):
        found = plant.values(asked, hours=(0, 1, 24, 25))
        assert found[0].status in ("missing", "incomplete")
        assert found[0].code == "data-pruned"
        assert found[2].status == "used"


def test_a_clock_that_was_set_back_is_found(plant: Plant) -> None:
    plant.commit(
        [
            *plant.series({"parts": list(range(360))}),
            *plant.series({"parts": list(range(360, 720))}, start_ms=T0 + HOUR // 2),
        ]
    )
    found = plant.values(RATE, hours=(0, 1, 1.5))
    assert [(each.status, each.code) for each in found] == [("clock", "clock-stepped"), ("used", "")]


@pytest.mark.parametrize(
    ("moved_s", "at_h", "clocks"),
    [(-1800.0, 1.0, "cc."), (1800.0, 1.5, "cc."), (0.2, 1.0, "..."), (1e9, 2.5, "..c")],
)
def test_an_event_of_a_set_clock_touches_its_periods(
    plant: Plant, moved_s: float, at_h: float, clocks: str
) -> None:
    plant.commit(plant.series({"parts": list(range(1_080))}))
    plant.commit([plant.event(T0 + round(at_h * HOUR), "_/clock-step", value=moved_s)])
    found = plant.values(RATE, hours=(0, 1.2, 2, 3))
    assert "".join("c" if each.code == "clock-stepped" else "." for each in found) == clocks


def test_a_step_of_a_clock_does_not_hide_behind_a_thousand_others(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(720))}))
    plant.commit([plant.event(T0 + HOUR // 2, "_/clock-step", value=-900.0)])
    plant.commit([plant.event(T0 + HOUR + at, "_/clock-step", value=0.0) for at in range(1_100)])
    found = plant.values(RATE, hours=(0, 1, 2))
    assert [each.code for each in found] == ["clock-stepped", ""]
    plant.commit([plant.event(T0 + HOUR // 2, "_/clock-step", value=-1e305)])
    assert {each.code for each in plant.values(RATE, hours=(0, 1, 2))} == {"clock-stepped"}


def test_a_clock_that_is_unset_or_off_is_found(plant: Plant) -> None:
    clocks = [(0, Offset()), (1, Offset(900, 200)), (1, Offset(-3, 2)), (0, Offset(40, 9))]
    for hour, (clk, plant.offset) in enumerate(clocks):
        parts = list(range(360 * hour, 360 * hour + 360))
        plant.commit(plant.series({"parts": parts}, start_ms=T0 + hour * HOUR, clk=clk))
    found = plant.values(RATE, a_plan(data=Data(clock_max_ms=1_000)), hours=(0, 1, 2, 3, 4))
    assert [(each.status, each.code, each.clock_ms) for each in found] == [
        ("clock", "clock-unset", None), ("clock", "clock-off", 1_100), ("used", "", 5), ("used", "", 49),
    ]  # fmt: skip


def test_flagged_rows_and_values_that_are_not_numbers_are_left_out(plant: Plant) -> None:
    flagged = [1.0, 9.0, None, 2.0, None, 9.0, 3.0]
    plant.commit([plant.data(T0, {"level": flagged}, q=[0, 4, 2, 0, 0, 1, 5])])
    found = plant.value(kpi("sum(level)", level=""), hours=(0, 0.02))
    # null without a flag is a row that does not have the field; 5 is a repeated time
    assert (found.value, found.rows, found.left_out) == (6.0, 3, 3)


def test_a_mean_is_weighted_by_time_and_does_not_hold_for_ever(plant: Plant) -> None:
    plant.commit(
        [plant.data(T0, {"level": [1.0] * 60}), plant.data(T0 + 600_000, {"level": [4.0] * 10}, per=30_000)]
    )
    level = kpi("mean(level)", level="")
    assert plant.value(level, hours=(0, 0.25)).value == pytest.approx((600 * 1 + 300 * 4) / 900)
    long = replace(level, inputs={"level": Input(field="cell/production/level", hold_s=600.0)})
    short = replace(level, inputs={"level": Input(field="cell/production/level", hold_s=10.0)})
    assert plant.value(long, hours=(0, 0.375)).completeness == 1.0
    assert plant.value(short, hours=(0, 0.25)).completeness == pytest.approx(700 / 900)


def test_two_nodes_are_added_up(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(360))}))
    plant.commit(plant.series({"parts": list(range(0, 720, 2))}, node=OTHER))
    made = kpi("delta(parts)", parts="")
    both = a_plan(NODE, OTHER)
    assert plant.value(made, both, hours=(0, 1)).value == 359 * 3
    assert plant.value(made, both, hours=(0, 1), machine=OTHER).value == 359 * 2
    assert plant.value(made, both, hours=(0, 1), machine=f"{NODE}/cell").value == 359


def test_a_machine_shares_the_inputs_of_a_named_node(plant: Plant) -> None:
    plant.commit(plant.series({"planned": [True] * 180 + [False] * 180}))
    plant.commit(plant.series({"running": [True] * 360}, node=OTHER))
    planned = Input(field="cell/production/planned", node=NODE)
    asked = kpi("downtime", "min", running="", planned=planned)
    assert plant.value(asked, a_plan(NODE, OTHER), hours=(0, 1), machine=OTHER).value == 0.0
    share = kpi("time(planned)", "h", planned=planned)
    assert plant.value(share, a_plan(NODE, OTHER), hours=(0, 1), machine=f"{OTHER}/arm").value == 0.5
    assert plant.value(asked, a_plan(NODE), hours=(0, 1), machine=OTHER).completeness == 0.0


def test_a_node_that_is_silent_is_not_left_out_quietly(plant: Plant) -> None:
    plant.commit(plant.series({"running": [True] * 720}))
    plant.commit(plant.series({"running": [True] * 360}, node=OTHER))
    found = plant.values(kpi("availability", running=""), a_plan(NODE, OTHER), hours=(0, 1, 2))
    assert [(each.status, each.completeness) for each in found] == [
        ("used", 1.0),
        ("incomplete", pytest.approx(0.5, abs=0.01)),
    ]


def test_a_declared_rate_shows_rows_that_never_came(plant: Plant) -> None:
    plant.commit(plant.series({"level": [1.0] * 180}, per=20_000))
    found = plant.value(kpi("mean(level)", level=""), hours=(0, 1), rates={(NODE, "cell", "production"): 0.1})
    assert (found.status, found.completeness) == ("incomplete", 0.5)


def test_conditions_and_times_leave_periods_out(plant: Plant) -> None:
    plant.commit(plant.series({"planned": [True] * 360 + [False] * 360, "parts": list(range(720))}))
    when = Exclude(when=(condition("share(planned) < 0.25", planned="planned"),))
    found = plant.values(RATE, a_plan(exclude=when), hours=(0, 1, 2))
    assert [(each.status, each.code, each.why) for each in found] == [
        ("used", "", ""),
        ("excluded", "condition", "no-orders"),
    ]
    holiday = Exclude(times=(LeftOut(start="2026-11-23", end="2026-11-24", why="holiday"),))
    plan = a_plan(exclude=holiday)
    plan = replace(plan, windows=replace(plan.windows, tz="UTC"))
    day_h = (1_795_392_000_000 - T0) / HOUR  # 2026-11-23 00:00 UTC
    plant.commit(plant.series({"parts": list(range(720, 1_440))}, start_ms=T0 + round((day_h - 1) * HOUR)))
    found = plant.values(RATE, plan, hours=(day_h - 1, day_h, day_h + 1))
    assert [(each.status, each.why) for each in found] == [("used", ""), ("excluded", "holiday")]


def test_a_condition_without_data_is_not_taken_as_false(plant: Plant) -> None:
    plant.commit(plant.series({"parts": list(range(360))}))
    when = Exclude(when=(condition("share(planned) < 0.25", planned="planned"),))
    found = plant.value(RATE, a_plan(exclude=when), hours=(0, 1))
    assert (found.status, found.code, found.why) == ("incomplete", "condition-unknown", "no-orders")


def test_a_period_that_settles_is_cut_and_a_wash_out_shortens(plant: Plant) -> None:
    plant.commit(plant.series({"level": [5.0] * 360 + [1.0] * 720}))
    plan = a_plan()
    plan = replace(plan, design=replace(plan.design, settle_s=3_600.0, washout_s=1_800.0))
    first, second, third = plant.values(kpi("mean(level)", level=""), plan, hours=(0, 1, 2, 3))
    assert (first.status, first.code, first.value) == ("cut", "settling", None)
    assert (second.start_ms, second.end_ms, second.value) == (T0 + HOUR + HOUR // 2, T0 + 2 * HOUR, 1.0)
    assert third.status == "used"


def test_a_ratio_takes_a_period_whose_own_value_does_not_exist(plant: Plant) -> None:
    plant.commit(plant.series({"parts": [7] * 360, "rejects": [0] * 360}))
    ratio = kpi("defect-rate", parts="", rejects="")
    found = plant.value(ratio, hours=(0, 1))
    assert (found.status, found.value, found.numerator, found.denominator) == ("used", None, 0.0, 0.0)
    alone = plant.value(replace(ratio, estimand="mean"), hours=(0, 1))
    assert (alone.status, alone.code) == ("missing", "no-value")


def test_days_follow_the_local_clock_of_the_plan(plant: Plant) -> None:
    design = replace(a_plan().design, unit="day", periods=12, washout_s=0.0)
    window = Window(start="2026-03-24", end="2026-04-05")
    windows = replace(a_plan().windows, tz="Europe/Berlin", baseline=None, trial=window)
    plan = replace(a_plan(), design=design, windows=windows)
    made = schedule(plan)
    start_ms = made.periods[0].start_ms
    plant.commit(plant.series({"parts": list(range(12 * 144))}, start_ms=start_ms, per=600_000))
    with closing(plant.store.source()) as source:
        found = evaluate(RATE, plan, made, source, plant.ledger)
    assert [round((each.numerator or 0) / 6) for each in found] == [24] * 5 + [23] + [24] * 6
    assert {each.status for each in found} == {"used"}
    assert [round(each.denominator or 0) for each in found][5] == 23


def lines(found: list[PeriodValue]) -> bytes:
    return msgspec.json.encode(
        [(each.value, each.numerator, each.denominator, each.rows, each.completeness) for each in found]
    )


def test_any_order_and_any_chunks_give_the_same_bytes(tmp_path: Any, clock: Any) -> None:
    spread = random.Random(7)
    level = [spread.uniform(-1e6, 1e6) * 10 ** spread.randint(-9, 9) for _ in range(720)]
    asked = [
        kpi(word, level="")
        for word in (
            "mean(level)",
            "sum(level)",
            "p95(level)",
            "delta(level)",
            "mean(level) * 3 / sum(level)",
        )
    ]
    seen = set()
    for turn in range(4):
        plant = Plant(tmp_path / str(turn), clock)
        several = plant.series({"level": level}, batch=10)
        if turn:
            spread.shuffle(several)
        size = (20, 7, 71, 72)[turn]
        for at in range(0, len(several), size):
            plant.commit(several[at : at + size])
        seen.add(b"".join(lines(plant.values(each, hours=(0, 0.7, 1.3, 2))) for each in asked))
        plant.store.close()
    assert len(seen) == 1
