"""The library has every formula of plans, its rows on the page, and units that convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.pilots.kpis.evaluate import Status
from collector.pilots.kpis.library import LIBRARY
from collector.pilots.kpis.reasons import REASONS
from tests.unit.collector.pilots.kpis.stored_rows import HOUR, T0, Plant, kpi
from wire.errors import WireError
from wire.pilot.formulas import FORMULAS
from wire.pilot.plan import Input

PAGE = (Path(__file__).parents[5] / "docs/pilots.md").read_text()
ALARM, TRUTH = Input(event="cell/alarm"), Input(event="cell/truth")
START, END = Input(event="cell/start"), Input(event="cell/end")


def test_every_formula_of_a_plan_can_be_calculated() -> None:
    assert list(LIBRARY) == list(FORMULAS)


@pytest.mark.parametrize("word", LIBRARY)
def test_an_entry_is_on_the_page(word: str) -> None:
    one = LIBRARY[word]
    cells = [f"`{word}`", one.kpi_class, f"{one.en}, {one.ko}", one.text, one.better, one.source]
    assert f"| {' | '.join(cells)} |" in PAGE


@pytest.mark.parametrize("code", REASONS)
def test_a_reason_is_on_the_page(code: str) -> None:
    status, english, korean = REASONS[code]
    assert f"| {status} | `{code}` | {english} |" in PAGE
    assert status in Status.__args__  # type: ignore[attr-defined]  # a Literal
    assert not korean.isascii()


def events(plant: Plant, several: dict[str, list[float]], **more: Any) -> None:
    """Events `name` at minutes after T0, beside a stream that shows that the node works."""
    plant.commit(plant.series({"level": [1.0] * 360}, path="cell/other"))
    found = sorted((at, name) for name, minutes in several.items() for at in minutes)
    plant.commit([plant.event(T0 + round(at * 60_000), f"cell/{name}", **more) for at, name in found])


def test_alarms_are_compared_with_what_happened(plant: Plant) -> None:
    # right: 1 (before its truth) and 31; false: 10 and 50; the alarm after the hour finds the truth at 59.5
    events(plant, {"alarm": [1, 10, 31, 50, 60.5], "truth": [2, 30, 40, 59.5]})
    given = {"within_s": 90.0}
    asked = {"alarms": ALARM, "truth": TRUTH}
    false = plant.value(kpi("false-alarms-per-hour", "/h", given=given, **asked), hours=(0, 1))
    assert (false.value, false.numerator, false.status, false.rows) == (2.0, 2.0, "used", 8)
    found = plant.value(kpi("detection-sensitivity", "%", given=given, **asked), hours=(0, 1))
    assert (found.value, found.denominator) == (75.0, 4.0)
    right = plant.value(kpi("detection-precision", given=given, **asked), hours=(0, 1))
    assert (right.numerator, right.denominator) == (2.0, 4.0)


def test_an_hour_without_alarms_is_a_zero_and_a_silent_node_is_not(plant: Plant) -> None:
    events(plant, {"alarm": [70]})
    found = plant.values(kpi("alarms-per-hour", "/h", alarms=ALARM), hours=(0, 1, 2, 3))
    assert [(each.status, each.value) for each in found[:1]] == [("used", 0.0)]
    assert [(each.status, each.code) for each in found[1:]] == [("incomplete", "device-silent")] * 2


def test_a_lead_time_counts_where_it_ends(plant: Plant) -> None:
    plant.commit(plant.series({"level": [1.0] * 720}, path="cell/other"))
    for at, name, number in (
        (50, "start", 1),
        (55, "start", 2),
        (58, "end", 2),
        (70, "end", 1),
        (80, "end", 9),
    ):
        plant.commit([plant.event(T0 + at * 60_000, f"cell/{name}", detail={"id": number})])
    lead = kpi("lead-time", "min", start=START, end=END)
    assert [each.value for each in plant.values(lead, hours=(0, 1, 2))] == [3.0, 20.0]
    on_time = kpi("on-time-share", "%", given={"within_s": 600.0}, start=START, end=END)
    assert [each.value for each in plant.values(on_time, hours=(0, 1, 2))] == [100.0, 0.0]


def test_without_an_id_the_first_to_start_is_the_first_to_end(plant: Plant) -> None:
    events(plant, {"start": [5, 6, 50], "end": [1, 15, 26, 70]})
    lead = kpi("lead-time", "min", start=START, end=END)
    assert plant.value(lead, hours=(0, 1)).value == 15.0


def test_energy_is_given_in_another_unit_of_the_same_dimension(plant: Plant) -> None:
    energy, parts, way = [at * 0.5 for at in range(361)], list(range(361)), [at * 0.25 for at in range(361)]
    plant.commit(plant.series({"energy": energy, "parts": parts, "way": way}))
    hours = (0, 1.1)
    asked = {"energy": "kW.h", "parts": "{part}"}
    assert plant.value(kpi("energy", "MJ", energy="kW.h"), hours=hours).value == 648.0
    assert plant.value(kpi("energy-per-part", "W.h/{part}", **asked), hours=hours).value == 500.0
    distance = Input(field="cell/production/way", unit="m")
    per = kpi("energy-per-distance", "kW.h/km", energy="kW.h", distance=distance)
    assert plant.value(per, hours=hours).value == pytest.approx(2_000.0)
    with pytest.raises(WireError, match=r"a value in kW\.h cannot be given in km: write a unit like it"):
        plant.value(kpi("energy", "km", energy="kW.h"), hours=hours)


def test_emissions_follow_from_the_energy(plant: Plant) -> None:
    plant.commit(plant.series({"energy": [at * 1.0 for at in range(360)]}))
    found = plant.value(kpi("emissions", "kg", energy="MJ", given={"g_per_kwh": 360.0}), hours=(0, 1))
    assert found.value == pytest.approx(359 / 3.6 * 0.36)


def test_time_in_a_state_and_above_a_limit(plant: Plant) -> None:
    plant.commit(plant.series({"state": [1] * 90 + [3] * 180 + [4] * 90, "level": [5.0] * 270 + [7.5] * 90}))
    state = kpi("state-time", "min", state="", given={"state_value": 3.0})
    assert plant.value(state, hours=(0, 1)).value == 30.0
    assert plant.value(kpi("share-above", "%", level="", given={"limit": 7.0}), hours=(0, 1)).value == 25.0
    assert plant.value(kpi("share-above", level="", given={"limit": 7.5}), hours=(0, 1)).value == 0.0


def test_events_are_counted_per_days_of_patients_and_per_users(plant: Plant) -> None:
    rows = {"present": [True] * 180 + [False] * 180, "users": [at * 10 for at in range(360)]}
    plant.commit(plant.series(rows))
    plant.commit([plant.event(T0 + at * 60_000, "cell/alarm") for at in (10, 20, 25)])
    alarms = plant.value(kpi("alarms-per-patient-day", "/d", alarms=ALARM, present=""), hours=(0, 1))
    assert (alarms.numerator, alarms.denominator, alarms.value) == (3.0, 0.5 / 24, 144.0)
    conflicts = plant.value(kpi("conflicts-per-1000", conflicts=ALARM, users=""), hours=(0, 1))
    assert conflicts.value == pytest.approx(3 / 3.59)


def test_an_expression_divides_two_sums(plant: Plant) -> None:
    plant.commit(plant.series({"good": [1.0] * 300 + [0.0] * 60, "bad": [0.0] * 300 + [1.0] * 60}))
    asked = kpi("sum(good) / (sum(good) + sum(bad)) * x", "%", given={"x": 100.0}, good="", bad="")
    assert plant.value(asked, hours=(0, 1)).value == pytest.approx(500 / 6)
    parts = plant.value(kpi("sum(good) / (sum(good) + sum(bad))", good="", bad=""), hours=(0, 1))
    assert (parts.numerator, parts.denominator) == (300.0, 360.0)


@pytest.mark.parametrize(
    ("word", "value"),
    [("min", 0.0), ("median", 179.0), ("p95", 341.0), ("max", 359.0), ("count", 360.0), ("mean", 179.5)],
)
def test_words_of_the_rows_of_a_field(plant: Plant, word: str, value: float) -> None:
    plant.commit(plant.series({"level": list(range(360))}))
    assert plant.value(kpi(f"{word}(level)", level=""), hours=(0, 1)).value == value


def test_time_and_share_of_a_flag(plant: Plant) -> None:
    plant.commit(plant.series({"on": [True] * 90 + [False] * 270}))
    assert plant.value(kpi("time(on)", "h", on=""), hours=(0, 1)).value == 0.25
    assert plant.value(kpi("share(on)", on=""), hours=(0, 1)).value == 0.25
    assert plant.value(kpi("rate(alarm)", "/h", alarm=ALARM), hours=(0, 1)).value == 0.0
    assert HOUR == 3_600_000
