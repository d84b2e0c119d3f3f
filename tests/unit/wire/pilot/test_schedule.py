"""The schedule of a pilot: golden draws for any language, days of 23 and 25 hours, what is cut."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.unit.wire.pilot.plans import PLAN, changed
from wire.errors import WireError
from wire.pilot.plan import Plan, Window, parse
from wire.pilot.schedule import (
    Period,
    counted,
    drawn_machines,
    drawn_start,
    schedule,
    spans,
    switchback,
    utc_ms,
)

SEOUL, BERLIN = ZoneInfo("Asia/Seoul"), ZoneInfo("Europe/Berlin")
HOUR = 3_600_000


def plan(*pairs: tuple[str, str]) -> Plan:
    return parse(changed(*pairs), "pilot.yaml")


def test_the_draw_of_a_switchback_is_that_of_the_documentation() -> None:
    # printf 'edgebed switchback 20270301 0' | sha256sum: 29 4e 3f 68 2b 07; an even byte is on before off
    order = "off on, on off, off on, on off, off on, off on"
    assert switchback(20270301, 12) == order.replace(",", "").split()
    assert switchback(20270301, 13) == [*order.replace(",", "").split(), "off"]


def test_each_pair_has_one_period_on_and_both_orders_come() -> None:
    for seed in range(20):
        arms = switchback(seed, 40)
        assert all(set(arms[at : at + 2]) == {"on", "off"} for at in range(0, 40, 2))
    first = [switchback(seed, 2)[0] for seed in range(400)]
    assert 150 < first.count("on") < 250


def test_machines_and_a_start_are_drawn_as_documented() -> None:
    # SHA-256 of `edgebed machine 7 MACHINE`: m1 ae8a4c95, m2 17c41a1f, m3 934d5b27, m4 ac91e766
    machines = tuple(f"a/b/c/d/m{at}" for at in (1, 2, 3, 4))
    assert drawn_machines(7, machines, 2) == ("a/b/c/d/m2", "a/b/c/d/m3")
    assert drawn_machines(7, machines[::-1], 2) == ("a/b/c/d/m2", "a/b/c/d/m3")
    # SHA-256 of `edgebed start 7` begins with ccee4a16d65bc0a4
    starts = ("2027-03-01", "2027-03-02", "2027-03-03")
    assert drawn_start(7, starts) == starts[0xCCEE4A16D65BC0A4 % 3]


def test_the_periods_of_a_plan() -> None:
    found = schedule(plan())
    start = utc_ms("2027-03-01 06:00", SEOUL)
    assert len(found.trial) == 20
    assert found.trial_ms == (start, start + 160 * HOUR)
    assert found.trial[0] == Period(start, start + 8 * HOUR, "trial", switchback(7, 20)[0])
    assert found.periods[0] == Period(
        utc_ms("2027-02-01", SEOUL), utc_ms("2027-02-01 08:00", SEOUL), "baseline", "off"
    )
    assert found.at(start) == found.trial[0]
    assert found.at(start + 8 * HOUR) == found.trial[1]
    assert found.at(start - 1) is None
    assert found.at(start + 160 * HOUR) is None


@pytest.mark.parametrize(
    ("unit", "window", "zone", "hours"),
    [
        # clocks go forward on 28 March 2027 and back on 31 October 2027
        ("day", ("2027-03-27", "2027-03-30"), BERLIN, [24, 23, 24]),
        ("day", ("2027-10-30", "2027-11-02"), BERLIN, [24, 25, 24]),
        ("day", ("2027-03-27", "2027-03-30"), SEOUL, [24, 24, 24]),
        ("shift", ("2027-03-27 22:00", "2027-03-28 22:00"), BERLIN, [7, 8, 8]),
        ("shift", ("2027-10-30 22:00", "2027-10-31 22:00"), BERLIN, [9, 8, 8]),
        ("8h", ("2027-03-28", "2027-03-29 01:00"), BERLIN, [8, 8, 8]),
        # a day that starts within the skipped hour: 02:30 is the moment shown as 03:30
        ("day", ("2027-03-27 02:30", "2027-03-29 02:30"), BERLIN, [24, 23]),
        # and one that starts within the repeated hour: the first of the two
        ("day", ("2027-10-30 02:30", "2027-11-01 02:30"), BERLIN, [24, 25]),
    ],
)
def test_days_and_shifts_follow_the_local_clock(
    unit: str, window: tuple[str, str], zone: ZoneInfo, hours: list[int]
) -> None:
    shifts = ', shifts: ["06:00", "14:00", "22:00"]' if unit == "shift" else ""
    pairs = (
        ("unit: 8h", f"unit: {unit}{shifts}"),
        ("2027-03-01 06:00, to: 2027-03-07 22:00", "2027-03-01 06:00, to: 2027-03-21 06:00"),
        ("from: 2027-02-01, to: 2027-03-01}", "from: 2027-02-01 06:00, to: 2027-03-01 06:00}"),
        *([("periods: 20", "periods: 60")] if unit == "shift" else []),
    )
    design = plan(*pairs if unit != "8h" else ()).design
    found = spans(Window(start=window[0], end=window[1]), design, zone)
    assert [(end - start) / HOUR for start, end in found] == hours
    for at, (start, end) in enumerate(found[1:], 1):
        assert start == found[at - 1][1]
        assert start < end


def test_a_skipped_hour_is_the_moment_after_it() -> None:
    shown = datetime.fromtimestamp(utc_ms("2027-03-28 02:30", BERLIN) / 1000, BERLIN)
    assert (shown.hour, shown.minute) == (3, 30)


def test_a_window_must_hold_whole_periods() -> None:
    with pytest.raises(WireError, match="within a period of 8h, after 2 whole ones"):
        spans(Window(start="2027-03-01", end="2027-03-01 23:00"), plan().design, SEOUL)
    with pytest.raises(WireError, match="ends before"):
        spans(Window(start="2027-03-02", end="2027-03-01"), plan().design, SEOUL)
    with pytest.raises(WireError, match="more than 500"):
        spans(Window(start="2027-03-01", end="2028-03-01"), plan().design, SEOUL)


def test_wash_out_and_settling_are_cut_from_the_trial_alone() -> None:
    made = plan(("washout_s: 60", "washout_s: 60, settle_s: 30000"))
    found = schedule(made)
    start = found.trial_ms[0]
    baseline, first, second, third = found.periods[0], *found.trial[:3]
    assert counted(baseline, made, start) == (baseline.start_ms, baseline.end_ms)
    assert counted(first, made, start) == (first.end_ms, first.end_ms)  # 8 h are 28,800 s
    assert counted(second, made, start) == (start + 30_000_000, second.end_ms)
    assert counted(third, made, start) == (third.start_ms + 60_000, third.end_ms)


def test_a_parallel_design_treats_the_drawn_machines_from_the_drawn_start() -> None:
    machines = [f"acme/p1/s1/n{at}" for at in range(8)]
    groups = f"{{machines: [{', '.join(machines)}], treated: 4, starts: [2027-03-02, 2027-03-03]}}"
    made = plan(
        (
            "kind: switchback, unit: 8h, periods: 20, seed: 7, washout_s: 60, carry_over_s: 60",
            f"kind: parallel, unit: day, periods: 20, seed: 7, groups: {groups}",
        ),
        ("2027-03-01 06:00, to: 2027-03-07 22:00", "2027-03-01, to: 2027-03-21"),
        ("[acme/p1/s1/n1, acme/p1/s1/n2]", f"[{', '.join(machines)}]"),
    )
    found = schedule(made)
    assert found.treated == drawn_machines(7, tuple(machines), 4)
    chosen = drawn_start(7, ("2027-03-02", "2027-03-03"))
    off = {"2027-03-02": 1, "2027-03-03": 2}[chosen]
    assert [period.arm for period in found.trial] == ["off"] * off + ["on"] * (20 - off)


def test_the_text_of_the_tests_is_a_plan() -> None:
    assert parse(PLAN, "pilot.yaml").primary.id == "stops"
