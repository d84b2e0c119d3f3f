"""Fixtures for the tools of model packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.agent.conftest import Packages


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    """Makes model packages in the test's folder."""
    return Packages(tmp_path)
