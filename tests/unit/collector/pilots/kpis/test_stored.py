"""What is read for one KPI of a period is not read again for the others, and the values are the same."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import pytest

from collector.pilots.kpis import rows, stored
from collector.pilots.kpis.evaluate import PeriodValue, evaluate, evaluate_all
from collector.store.sqlite_source import SqliteSource
from tests.unit.collector.pilots.kpis.stored_rows import (
    NODE,
    OTHER,
    T0,
    Plant,
    a_plan,
    condition,
    kpi,
    periods,
)
from wire.pilot.plan import Exclude, Input, Kpi, Plan

HOURS = (0, 1, 2, 3)
ALARMS = {"alarms": Input(event="cell/alarm")}
KPIS = [
    kpi("downtime", "min", running=""),
    kpi("availability", running="", planned=""),
    kpi("units-per-hour", "/h", parts=""),
    kpi("mean(level)", "", level=""),
    kpi("p95(level)", "", level=""),
    kpi("alarms-per-hour", "/h", **ALARMS),
]


class Counting(SqliteSource):
    """A source that counts what it is asked."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: Counter[str] = Counter()

    def chunks_between(self, *given: Any, **more: Any) -> Any:
        self.asked["chunks"] += 1
        return super().chunks_between(*given, **more)

    def events(self, *given: Any, **more: Any) -> Any:
        self.asked[f"events {more['kind']}"] += 1
        return super().events(*given, **more)


@pytest.fixture
def two_cells(plant: Plant) -> Plan:
    """Three hours of two nodes with alarms, and the plan of them."""
    for node in (NODE, OTHER):
        columns = {
            "running": [at % 17 != 3 for at in range(1080)],
            "planned": [at % 100 < 90 for at in range(1080)],
            "parts": list(range(1080)),
            "level": [(at * 7919 % 1000) / 10 for at in range(1080)],
        }
        plant.commit(plant.series(columns, node=node))
        plant.commit([plant.event(T0 + at * 600_000, "cell/alarm", node=node) for at in range(18)])
    exclude = Exclude(when=(condition("share(planned) < 0.1", planned="planned"),))
    return a_plan(NODE, OTHER, kpis=tuple(KPIS), exclude=exclude)


def values(
    plant: Plant, plan: Plan, asked: list[Kpi], source: SqliteSource | None = None
) -> list[list[PeriodValue]]:
    with closing(source or SqliteSource(plant.folder)) as opened:
        return evaluate_all([(each, "") for each in asked], plan, periods(*HOURS), opened, plant.ledger)


def test_a_stream_is_read_once_a_period_for_all_kpis(plant: Plant, two_cells: Plan) -> None:
    source = Counting(plant.folder)
    values(plant, two_cells, KPIS, source)
    assert source.asked["chunks"] == 2 * 3, "two nodes, three periods"
    assert source.asked["events alarm"] == source.asked["events clock-step"] == 2 * 3


def test_the_values_do_not_depend_on_what_is_remembered(
    plant: Plant, two_cells: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = values(plant, two_cells, KPIS)
    assert [each.status for one in found for each in one] == ["used"] * 18
    with closing(SqliteSource(plant.folder)) as source:
        alone = [evaluate(each, two_cells, periods(*HOURS), source, plant.ledger) for each in KPIS]
    assert found == alone
    source = Counting(plant.folder)
    monkeypatch.setattr(stored, "MOST_BYTES", 20_000)  # some of it
    assert values(plant, two_cells, KPIS, source) == found
    assert source.asked["chunks"] > 6
    monkeypatch.setattr(rows, "MOST_SHARED", 10)  # a field at a time
    assert values(plant, two_cells, KPIS) == found


def test_a_flood_is_counted_once_and_spoils_every_kpi_of_its_stream(
    plant: Plant, two_cells: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_ROWS", 500)
    source = Counting(plant.folder)
    found = values(plant, two_cells, KPIS[:5], source)
    assert {each.code for one in found for each in one[1:]} == {"too-many"}
    assert source.asked["chunks"] <= 3 * 2
