"""Reports and values of a store from which retention removes data meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.ledger.saved import saved_ledger
from collector.pilots.report import from_store
from collector.pilots.report.from_store import TRIES, of_store, undisturbed, values_of_store
from collector.store.folder import day_files
from tests.unit.collector.pilots.kpis.stored_rows import Plant
from tests.unit.collector.pilots.report.played_pilot import BASELINE, PlayedPilot, changed
from wire.errors import TryAgain

DAY_MS = 86_400_000


def end_day(plant: Plant, clock: Any) -> None:
    """Begin the next day file with a row, and pack what waits in the one before."""
    clock.ms += DAY_MS
    plant.commit([plant.data(clock.ms, {"level": [1.0]})])
    for _ in range(3):
        clock.ms += 2_000
        plant.store.work()


def prune(plant: Plant, cls: str, day: int = 0) -> None:
    assert plant.store.prune(
        day_files(plant.folder)[day], lambda _node, each: each == cls, lambda _size: None
    )


@pytest.mark.parametrize(
    ("made_by", "cls"), [("assemble", "data"), ("assemble", "event"), ("baseline_values", "data")]
)
def test_what_retention_removes_while_a_report_is_made_is_not_called_missing(
    plant: Plant, clock: Any, monkeypatch: pytest.MonkeyPatch, made_by: str, cls: str
) -> None:
    pilot = PlayedPilot(plant, changed(("  trial: {from", f"{BASELINE}  trial: {{from")))
    pilot.play()
    end_day(plant, clock)
    plan, end_ms = pilot.newest.plan, pilot.newest.plan.schedule.trial_ms[1]
    make: Callable[[], Any] = {
        "assemble": lambda: of_store(plant.folder, pilot.versions, end_ms),
        "baseline_values": lambda: values_of_store(plant.folder, plan.plan, end_ms),
    }[made_by]
    whole, times = getattr(from_store, made_by), iter(range(TRIES))

    def pruned_first(*given: Any) -> Any:
        if next(times) == 0:
            prune(plant, cls)
        return whole(*given)

    monkeypatch.setattr(from_store, made_by, pruned_first)
    meanwhile = make()
    monkeypatch.undo()
    assert meanwhile == make()
    if made_by == "assemble":
        assert "rows-fewer" not in {each.code for each in meanwhile.findings}


def test_while_retention_goes_on_removing_data_there_is_no_report(plant: Plant, clock: Any) -> None:
    for _ in range(TRIES + 2):
        end_day(plant, clock)
    days = iter(range(1, TRIES + 1))  # nothing came on the first

    def make(_ledger: Ledger) -> None:
        prune(plant, "data", next(days))

    with pytest.raises(TryAgain, match="retention is removing data"):
        undisturbed(partial(saved_ledger, plant.folder), make)
    assert list(days) == []
