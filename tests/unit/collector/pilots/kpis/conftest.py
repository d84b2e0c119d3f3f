"""A plant with an empty store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.collector.pilots.kpis.stored_rows import Plant


@pytest.fixture
def plant(tmp_path: Path, clock: Any) -> Iterator[Plant]:
    made = Plant(tmp_path / "store", clock)
    yield made
    made.store.close()
