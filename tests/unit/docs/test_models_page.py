"""docs/models.md names every key of a manifest; EDGEBED_WRITE_DOCS=1 writes its tables."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.inference import manifest
from agent.inference.manifest import ManifestKey
from agent.inference.package import load_package

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/models.md"
BEGIN = "## Every key of a manifest\n"


def _tables() -> Iterator[str]:
    yield BEGIN
    for part, keys in groupby(manifest.documented(), key=lambda key: key.path.rpartition(".")[0]):
        yield f"### {part or 'The manifest'}\n"
        yield "| key | default | |\n|---|---|---|\n" + "\n".join(map(_row, keys)) + "\n"


def _row(key: ManifestKey) -> str:
    default = "must be there" if key.required else f"`{key.default}`" if key.default else ""
    return f"| `{key.path.rpartition('.')[2]}` | {default} | {key.meaning} |"


def test_every_key_is_documented() -> None:
    text = PAGE.read_text()
    before, begin, _ = text.partition(BEGIN)
    wanted = before + "\n".join(_tables())
    if os.environ.get("EDGEBED_WRITE_DOCS") == "1":
        PAGE.write_text(wanted)
        text = wanted
    assert begin
    assert text == wanted, (
        "docs/models.md is not what the structs say: run this test with EDGEBED_WRITE_DOCS=1"
    )


@pytest.mark.parametrize("number", range(19))
def test_the_examples_are_manifests(number: int, tmp_path: Path) -> None:
    """Each YAML block of the page loads, with the placeholder hash of its model."""
    blocks = [part.split("```")[0] for part in PAGE.read_text().split("```yaml\n")[1:]]
    assert len(blocks) == 19
    (tmp_path / "manifest.yaml").write_text(blocks[number])
    (tmp_path / "coco.names").write_text("person\ncar\n")
    (tmp_path / "characters.txt").write_text("a\nb\n")
    assert manifest.load(tmp_path).name == yaml.safe_load(blocks[number])["name"]


def test_the_shipped_packages_load() -> None:
    folders = [path.parent for path in (ROOT / "models").glob("*/manifest.yaml")]
    assert folders
    for folder in folders:
        package = load_package(folder)
        assert package.manifest.licence == "Apache-2.0"
        card = (folder / "README.md").read_text().lower()
        assert any(word in card for word in ("synthetic", "recording", "nothing was trained"))
        # figures of what it was trained on would say little
        assert "held" in card + str(package.manifest.quality) + str(package.manifest.data)
        assert package.manifest.quality
        assert sorted((folder / "golden").glob("*.npz"))
        for vector in (folder / "golden").glob("*.npz"):
            with np.load(vector) as arrays:
                assert {"input", "output_0"} <= set(arrays.files)


def test_the_decoder_of_the_page_passes_the_contract_suite(tmp_path: Path) -> None:
    """As a package of its own, which names it as an entry point."""
    module, suite = (part.split("```")[0] for part in PAGE.read_text().split("```python\n")[1:3])
    (points,) = (part.split("```")[0] for part in PAGE.read_text().split("```toml\n")[1:])
    package, info = tmp_path / "my_package", tmp_path / "my_package-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").touch()
    (package / "hottest.py").write_text(module)
    (tmp_path / "test_hottest.py").write_text(suite)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    ((group, names),) = tomllib.loads(points)["project"]["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hottest.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert " skipped" not in done.stdout
