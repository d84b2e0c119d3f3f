"""The cards: README.md and sbom.cdx.json are what the manifest gives, and have all parts of a card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from agent.inference.package import load_package
from edgebed.intervals import bootstrap
from edgebed.model_tools import card

pytest.importorskip("onnx", reason="onnx is needed to rebuild a model")
MODELS = Path(__file__).resolve().parents[3] / "models"
PACKAGES = sorted(path.parent.name for path in MODELS.glob("*/manifest.yaml"))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_card_is_what_the_manifest_gives(name: str) -> None:
    found = load_package(MODELS / name).manifest
    assert card.readme(found) == (MODELS / name / "README.md").read_text()
    assert card.sbom(found) == (MODELS / name / "sbom.cdx.json").read_text()


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "street-detector"])
def test_every_figure_of_the_card_is_what_make_writes(
    name: str, make_of: Callable[[Path], ModuleType]
) -> None:
    quality = load_package(MODELS / name).manifest.quality
    assert make_of(MODELS / name).figures(quality) == quality["card"]


@pytest.mark.parametrize("name", PACKAGES)
def test_make_keeps_the_texts(name: str, make_of: Callable[[Path], ModuleType]) -> None:
    before = (MODELS / name / "manifest.yaml").read_text()
    kept = make_of(MODELS / name).texts()
    assert before.endswith("\n" + kept)
    assert yaml.safe_load(kept)["card"] == yaml.safe_load(before)["card"]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_card_of_a_package_is_valid_cyclonedx(name: str) -> None:
    pytest.importorskip("cyclonedx", reason="its schema is needed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (MODELS / name / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    performance = json.loads(text)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    assert any("confidenceInterval" in each for each in performance["performanceMetrics"])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_card_has_its_data_measurement_and_limits(name: str) -> None:
    text = (MODELS / name / "README.md").read_text()
    manifest = load_package(MODELS / name).manifest
    assert f"Licence: {manifest.licence}" in text
    assert manifest.data["held_out"], "the data of the measurement"
    assert re.search(r"^## Limits$", text, re.MULTILINE)
    assert re.search(r"baseline|rule|persistence", text)
    assert "95 %" in text, "the interval of the figures"
    assert "synthetic" in text or "real recordings" in text
    assert "## Rebuild" in text


def test_the_bootstrap_interval_is_wide_if_groups_differ() -> None:
    low, high = bootstrap([0, 0, 0, 0, 0, 20], [1] * 6, 2)
    assert (low, high) == (0.0, pytest.approx(10.0, abs=2.0))
    assert bootstrap([3] * 6, [1] * 6, 2) == [3.0, 3.0]
    assert bootstrap([1, 9], [1, 3], 2) == [1.0, 3.0]
