"""A collector with the data of one node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector.app import Collector
from tests.unit.collector.web.serving import Get, fill, serving


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Collector, Get]]:
    async with serving(tmp_path) as (collector, get):
        fill(collector)
        deadline = asyncio.get_running_loop().time() + 20
        while True:
            if collector.ingest.counters.stored == 32:
                break
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        yield collector, get
