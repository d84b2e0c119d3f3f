"""A site with one slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.slots.sites import Site


@pytest.fixture
def site(tmp_path: Path, packages: Any) -> Site:
    return Site(tmp_path, packages)
