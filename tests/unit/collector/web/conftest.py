"""A collector with the data of one node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector.app import Collector
from tests.unit.collector.web.serving import Get, fill, serving, until_stored


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Collector, Get]]:
    async with serving(tmp_path) as (collector, get):
        fill(collector)
        await until_stored(collector, 32)
        yield collector, get
