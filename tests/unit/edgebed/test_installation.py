"""edgebed's import names are common words: no other installed distribution may use one of them."""

from __future__ import annotations

import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from edgebed import __version__

NAMES = ("wire", "adapters", "agent", "collector", "simulators", "edgebed")
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", NAMES)
def test_no_other_distribution_owns_our_names(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"edgebed"}


def test_the_version_is_said_once_more_and_equally() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
