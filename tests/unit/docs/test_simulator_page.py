"""docs/writing-a-simulator.md prints the example, which runs; EDGEBED_WRITE_DOCS=1 updates the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "writing-a-simulator.md"
EXAMPLE = DOCS / "examples/tank-simulator"
PRINTED = re.compile(r"^```python (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page_prints_every_file_of_the_example() -> None:
    text = PAGE.read_text()
    expected = PRINTED.sub(lambda found: f"```python {found[1]}\n{(EXAMPLE / found[1]).read_text()}```", text)
    if os.environ.get("EDGEBED_WRITE_DOCS") == "1":
        PAGE.write_text(expected)
        text = expected
    assert text == expected, "the example changed: run with EDGEBED_WRITE_DOCS=1"
    printed = {found[1] for found in PRINTED.finditer(text)}
    assert printed == {str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*.py")}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_keeps_the_contract() -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "tests")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


def test_edgebed_sim_runs_the_example() -> None:
    done = run("sim.py", "sim", "run", "tank", "--seed", "3", "--fault", "leak@60x2", "--for", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tcp://127.0.0.1:")
    refused = run("sim.py", "sim", "run", "tank", "--fault", "dragon")
    assert (refused.returncode, "is not one of leak, silent, stuck" in refused.stderr) == (2, True)
