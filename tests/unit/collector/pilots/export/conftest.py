"""A plant with an empty store, and exports of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.ledger.ledger import Ledger
from collector.ledger.saved import saved_ledger
from collector.pilots.export.croissant import About
from collector.pilots.export.export import Made, Stored, write
from collector.store.sqlite_source import SqliteSource
from collector.store.store import peek
from tests.unit.collector.pilots.kpis.stored_rows import HOUR, T0, Plant, a_plan, kpi, periods
from wire.pilot.frozen import FrozenPlan, Opened, envelope, read_signed

NOW = T0 + 100 * HOUR

Export = Callable[..., Made]


@pytest.fixture
def plant(tmp_path: Path, clock: Any) -> Iterator[Plant]:
    made = Plant(tmp_path / "store", clock)
    yield made
    made.store.close()


def opened(*nodes: str, hours: tuple[float, ...] = (0, 1, 2), **more: Any) -> tuple[bytes, Opened]:
    """The envelope of a frozen plan over these hours, and what is in it."""
    asked = kpi("units-per-hour", "{part}/h", parts="{part}")
    plan = a_plan(*nodes, kpis=(msgspec.structs.replace(asked, primary=True),))
    frozen = FrozenPlan(plan=plan, schedule=periods(*hours), **more)
    body = msgspec.json.encode(envelope(frozen.payload, (("ab" * 32, b"signature"),)))
    return body, read_signed(body)


@pytest.fixture
def exported(plant: Plant, tmp_path: Path) -> Export:
    """`exported("name", *plans)`: export the plant into a folder of this name; `meanwhile` runs beside it."""

    def make(
        name: str,
        *plans: tuple[bytes, Opened],
        about: About | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Made:
        def ledger() -> Ledger:
            found = saved_ledger(plant.folder)
            meanwhile()
            return found

        with closing(SqliteSource(plant.folder)) as source:
            stored = Stored(source, peek(plant.folder), ledger, NOW)
            given = about or About(published="2027-04-01")
            return write(dict(plans or (opened(),)), stored, tmp_path / name, given, "0.1.0")

    return make
