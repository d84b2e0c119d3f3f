"""`croissant.json` by the rules of Croissant 1.1, and by its reference library where that is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.pilots.export.croissant import About
from tests.unit.collector.pilots.export.conftest import Export, opened
from tests.unit.collector.pilots.kpis.stored_rows import EP, NODE, T0, Plant

ABOUT = About(published="2027-04-01", licence="https://spdx.org/licenses/CC-BY-4.0", creator="Acme {Ltd}")
REQUIRED = [
    "@context",
    "@type",
    "conformsTo",
    "description",
    "license",
    "name",
    "url",
    "creator",
    "datePublished",
    "distribution",
]


@pytest.fixture
def folder(plant: Plant, exported: Export, tmp_path: Path) -> Path:
    plant.commit(plant.series({"parts": list(range(120)), "state": ["a", None, "b"] * 40}))
    plant.commit([plant.event(T0 + 5, "cell/alarm", detail={"id": 7})])
    exported("out", about=ABOUT)
    return tmp_path / "out"


def load(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((folder / "croissant.json").read_bytes())
    return found


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document but its context."""
    if isinstance(value, dict):
        yield value
        for name, each in value.items():
            yield from parts(each) if name != "@context" else ()
    elif isinstance(value, list):
        for each in value:
            yield from parts(each)


def test_every_term_is_in_the_context_and_every_reference_is_there(folder: Path) -> None:
    document = load(folder)
    assert not [name for name in REQUIRED if not document.get(name)]
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    context, several = document["@context"], list(parts(document))
    prefixes = {name for name, value in context.items() if str(value).startswith("http")}
    words = {word for each in several for name in each for word in [name, *_types(each)] if ":" in word}
    assert {word.split(":")[0] for word in words} <= prefixes
    croissant = {name for each in several if each.get("@type", "").startswith("cr:") for name in each}
    schema = {"name", "description", "contentUrl", "contentSize", "encodingFormat", "sha256"}
    assert {name for name in croissant if not name.startswith("@")} - schema <= set(context)
    made = [each["@id"] for each in several if "@id" in each and len(each) > 1]
    assert len(made) == len(set(made)), "an id names one thing"
    named = {each["@id"] for each in several if set(each) == {"@id"} and not each["@id"].startswith("urn:")}
    assert named <= set(made)


def _types(each: dict[str, Any]) -> list[str]:
    return [each[name] for name in ("@type", "dataType") if name in each]


def test_every_file_is_there_with_its_size_and_sum(folder: Path) -> None:
    document = load(folder)
    for each in document["distribution"]:
        content = (folder / each["contentUrl"]).read_bytes()
        assert each["contentSize"] == f"{len(content)} B"
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert files == {each["@id"] for each in document["distribution"]} | {"croissant.json"}


def test_it_says_where_the_data_are_from_and_how_to_cite_them(folder: Path) -> None:
    document, hashed = load(folder), opened()[1].hash
    assert document["license"] == ABOUT.licence
    assert document["prov:wasDerivedFrom"] == [
        {"@id": f"urn:edgebed:plan:sha256:{hashed}"}, {"@id": f"urn:edgebed:outbox:{NODE}:{EP}"},
    ]  # fmt: skip
    made = document["prov:wasGeneratedBy"]
    assert made["prov:wasAssociatedWith"]["prov:label"] == "edgebed 0.1.0"
    assert (
        f"author={{Acme Ltd}}, year={{2027}}, note={{data of a pilot; frozen plan sha256 {hashed}}}"
        in document["citeAs"]
    )


def test_without_a_licence_none_is_granted(plant: Plant, exported: Export, tmp_path: Path) -> None:
    plant.commit([plant.data(T0, {"parts": [1]})])
    exported("out")
    assert load(tmp_path / "out")["license"] == "No licence is granted: ask the owner of the data."
    assert load(tmp_path / "out")["creator"]["name"] == "acme"


@pytest.mark.slow  # it imports pandas and scipy
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_reference_library_finds_nothing_wrong(folder: Path) -> None:
    found = pytest.importorskip("mlcroissant").Dataset(folder / "croissant.json")
    issues = found.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    assert found.metadata.is_v1_1() if hasattr(found.metadata, "is_v1_1") else found.metadata.ctx.is_v1_1()
    assert {each.uuid for each in found.metadata.record_sets} >= {"events", "periods", "kpis", "exposure"}
