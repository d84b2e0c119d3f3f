"""docs/writing-an-adapter.md prints the example package; EDGEBED_WRITE_DOCS=1 writes it."""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "writing-an-adapter.md"
PACKAGE = DOCS / "examples/edgebed-thermometer"
PRINTED = re.compile(r"^```(\w+) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page_prints_the_package() -> None:
    text = PAGE.read_text()
    wanted = PRINTED.sub(
        lambda found: f"```{found[1]} {found[2]}\n{(PACKAGE / found[2]).read_text()}```", text
    )
    if os.environ.get("EDGEBED_WRITE_DOCS") == "1":
        PAGE.write_text(wanted)
        text = wanted
    assert text == wanted, "the example package changed: run with EDGEBED_WRITE_DOCS=1"


def test_what_a_reader_needs_is_printed() -> None:
    printed = {found[2] for found in PRINTED.finditer(PAGE.read_text())}
    assert printed == {
        "src/edgebed_thermometer/thermometer.py",
        "tests/test_thermometer.py",
        "pyproject.toml",
    }
    assert "](examples/edgebed-thermometer)" in PAGE.read_text()
    others = {"README.md", "thermometer.yaml", "src/edgebed_thermometer/__init__.py", "tests/conftest.py"}
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.is_file()}
    assert {name for name in found if "__pycache__" not in name} == printed | others
