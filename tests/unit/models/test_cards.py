"""The cards: README.md is what make.py writes from the manifest's figures, and has all parts of a card."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from agent.inference.package import load_package
from edgebed.intervals import bootstrap

pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
MODELS = Path(__file__).resolve().parents[3] / "models"
PACKAGES = sorted(path.parent.name for path in MODELS.glob("*/manifest.yaml"))


@pytest.mark.parametrize("name", PACKAGES)
def test_every_figure_of_the_card_is_the_manifests(name: str, make_of: Callable[[Path], ModuleType]) -> None:
    quality = load_package(MODELS / name).manifest.quality
    assert make_of(MODELS / name).card(quality) == (MODELS / name / "README.md").read_text()


@pytest.mark.parametrize("name", PACKAGES)
def test_a_card_has_its_data_measurement_and_limits(name: str) -> None:
    card = (MODELS / name / "README.md").read_text()
    manifest = load_package(MODELS / name).manifest
    assert f"Licence: {manifest.licence}" in card
    assert manifest.data["held_out"], "the data of the measurement"
    assert re.search(r"^## Limits$", card, re.MULTILINE)
    assert re.search(r"baseline|rule|persistence", card)
    assert "95 %" in card, "the interval of the figures"
    assert "synthetic" in card or "real recordings" in card
    assert "## Rebuild" in card


def test_the_bootstrap_interval_is_wide_if_groups_differ() -> None:
    low, high = bootstrap([0, 0, 0, 0, 0, 20], [1] * 6, 2)
    assert (low, high) == (0.0, pytest.approx(10.0, abs=2.0))
    assert bootstrap([3] * 6, [1] * 6, 2) == [3.0, 3.0]
    assert bootstrap([1, 9], [1, 3], 2) == [1.0, 3.0]
