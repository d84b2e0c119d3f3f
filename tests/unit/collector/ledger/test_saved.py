"""The ledger in the files of a store, read beside the collector that writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collector.ledger.balance import Balance
from collector.ledger.saved import saved_ledger
from tests.unit.collector.pilots.kpis.stored_rows import EP, NODE, T0, Plant


def test_it_has_what_is_on_disk_at_each_call(tmp_path: Path, clock: Any) -> None:
    plant = Plant(tmp_path / "store", clock)
    for count in (1, 2):
        plant.commit(plant.series({"level": [1.0] * 60}))
        plant.commit([plant.event(T0, "cell/alarm")])
        (known,) = saved_ledger(plant.folder).known_of(NODE)
        balance = Balance(known)
        assert (known.account.ep, known.account.rows, balance.taken) == (EP, 61 * count, 2 * count)
        assert balance.missing.count() == 0
    plant.store.close()
