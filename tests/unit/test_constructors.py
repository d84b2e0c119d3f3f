"""A constructor has six parameters at most: what belongs together is a struct with a name of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("agent", "collector", "adapters", "edgebed")
MOST = 6  # besides self

# class -> why its constructor has more
ALLOWED = {
    "adapters.can.slcan.SerialCan": "python-can names the options of a bus, and passes each by its name",
}


def constructors() -> Iterator[tuple[str, int]]:
    """Each class with a constructor of its own, and how many parameters that has."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    for inner in node.body:
                        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                            given = inner.args
                            yield (
                                f"{module}.{node.name}",
                                len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1,
                            )


def test_constructors_have_six_parameters_at_most() -> None:
    found = dict(constructors())
    assert len(found) > 150, "the classes were found"
    assert {name for name, count in found.items() if count > MOST} == set(ALLOWED)
