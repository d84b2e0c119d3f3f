"""`edgebed model card`: what it writes for any manifest, and what it refuses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from edgebed.model_tools import card
from tests.unit.agent.conftest import Packages
from wire.errors import ConfigError

FIGURES = {
    "mae": 1.25,
    "mae_95": [1.0, 1.5],
    "by": {"a b": 0.5},
    "word": "x",
    "card": {"rows": ["| a | 1 |", "| b | 2 |"], "cars": 20000},
}
METRIC = {"type": "mae", "name": "mean error", "value": ["mae"], "interval": ["mae_95"]}


@pytest.fixture
def folder(packages: Packages) -> Path:
    """A package with figures and no card."""
    return packages.write(packages.constant(np.zeros((1, 1)), shape=(1, 4, 2)), quality=FIGURES)


def change(folder: Path, **keys: Any) -> None:
    manifest = folder / "manifest.yaml"
    manifest.write_text(yaml.safe_dump({**yaml.safe_load(manifest.read_text()), **keys}, sort_keys=False))


def texts(**keys: Any) -> dict[str, Any]:
    return {"intended_use": "use", "limits": "none", **keys}


def test_the_texts_show_the_figures(folder: Path) -> None:
    use = "{q[mae]:.1f} and {q[by][a b]:.0%}, {cars:,}: {q[word]} of {q[mae_95][1]}; {No one} {}\n\n{rows}"
    change(folder, card=texts(intended_use=use, metrics=[METRIC]))
    card.write(folder)
    text = (folder / "README.md").read_text()
    assert "1.2 and 50%, 20,000: x of 1.5; {No one} {}\n\n| a | 1 |\n| b | 2 |\n" in text
    front = yaml.safe_load(text.split("---\n")[1])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 1.25
    assert result["metrics"][0]["args"]["confidence_interval"] == [1.0, 1.5]
    assert front["license"] == "cc0-1.0"


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ("{q[none]}", "card: 'q.none' is not a figure of quality"),
        ("{q[mae_95][7]}", "'q.mae_95.7' is not a figure"),
        ("{q[mae_95][__class__]}", "is not a figure"),
        ("{absent}", "'absent' is not a figure"),
        ("{q[word]:.1f}", "is not a number"),
    ],
)
def test_a_text_that_names_no_figure_is_refused(folder: Path, use: str, why: str) -> None:
    change(folder, card=texts(intended_use=use))
    with pytest.raises(ModelError, match=re.escape(why)):
        card.write(folder)
    assert not (folder / "README.md").exists()


def test_no_format_takes_memory_or_runs_code(folder: Path) -> None:
    use = "{q[mae]:999999999f} {q.mae} {q[mae]!r} {q[mae].__class__}"
    change(folder, card=texts(intended_use=use))
    assert use in card.readme(load_package(folder).manifest), "what is not a plain figure is text"


@pytest.mark.parametrize(
    "metric", [{"value": ["word"]}, {"interval": ["mae"]}, {"interval": ["card", "rows"]}]
)
def test_a_metric_without_numbers_is_refused(folder: Path, metric: dict[str, Any]) -> None:
    change(folder, card=texts(metrics=[{**METRIC, **metric}]))
    with pytest.raises(ModelError, match="'mean error' is not a number with an interval"):
        card.write(folder)


@pytest.mark.parametrize("licence", ["Apache-2.0", "AGPL-3.0-only", "private \u202e terms"])
@pytest.mark.parametrize("cards", [None, texts(metrics=[METRIC])])
def test_the_document_is_valid_cyclonedx(folder: Path, licence: str, cards: dict[str, Any] | None) -> None:
    pytest.importorskip("cyclonedx", reason="its schema is needed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    change(folder, licence=licence, **({"card": cards} if cards else {}))
    found = load_package(folder).manifest
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(card.sbom(found)) is None
    assert card.readme(found).count("---\n") == 2


def test_a_card_moves_no_terminal_and_replaces_what_is_not_a_file(folder: Path) -> None:
    change(folder, card=texts(intended_use="a\x1b[31mred\u202e\tb\n\n| c |", sections={"d\x07": "e\r"}))
    for name in ("README.md", "sbom.cdx.json"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    card.write(folder, force=True)
    text = (folder / "README.md").read_text()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "a\\x1b[31mred\\u202e\\tb\n\n| c |" in text
    assert (folder / "sbom.cdx.json").is_file()


def test_a_readme_of_another_hand_stays(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="was not written by this command: --force replaces it"):
        card.write(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert card.write(folder, force=True) == ["README.md", "sbom.cdx.json"]
    card.write(folder)
    (folder / "README.md").unlink()
    (folder / "other").write_text("other")
    (folder / "README.md").symlink_to("other")
    card.write(folder, force=True)
    assert (folder / "other").read_text() == "other", "a link is replaced, not followed"
