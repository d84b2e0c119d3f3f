"""docs/adapters.md names every counter of every adapter, and none that is not there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import adapters
from wire.messages import Quality

ROOT = Path(__file__).parents[3]
SECTION = (ROOT / "docs/adapters.md").read_text().partition("## What is counted")[2]
ROW = re.compile(r"^\| (`[^|]+`) \| ([a-z0-9, ]+) \| (.+) \|$", re.MULTILINE)
NAMING = {"Unusable", "BadSentence"}  # errors whose first argument names a counter
TABLES = {"counters", "_counters", "_thread_counters"}
COMPOSED = {"exception_": "exception_N", "refused_": "refused_WHY", "_events": "WORD_events"}


def documented() -> dict[str, set[str]]:
    """Counter to the adapters that have it."""
    found: dict[str, set[str]] = {}
    for names, words, _ in ROW.findall(SECTION):
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, f"{name} stands twice"
            found[name] = set(words.split(", "))
    return found


@cache
def counted(module: str) -> frozenset[str]:
    """The counters that the source of a module names, given as `adapters.<...>`."""
    tree = ast.parse(source(module))
    return frozenset(name for node in ast.walk(tree) for name in _named(node))


def source(module: str) -> str:
    """The text of a module, which may be a package."""
    path = ROOT / module.replace(".", "/")
    return (path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py").read_text()


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        holder = getattr(getattr(node.func, "value", None), "attr", "")
        if called in NAMING or (holder, called) == ("_bad_lines", "count"):
            yield from _words(node.args[0])
        if called == "setdefault" and _table(node.func):
            yield from _words(node.args[0])
    elif isinstance(node, ast.Subscript) and _table(node):
        yield from _words(node.slice)


def _table(node: ast.AST | None) -> bool:
    holder = getattr(node, "value", None)
    return getattr(holder, "attr", getattr(holder, "id", "")) in TABLES


def _words(node: ast.AST | None) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*_words(node.body), *_words(node.orelse))
    elif isinstance(node, ast.JoinedStr):
        fixed = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        yield COMPOSED[fixed]


@cache
def modules(word: str) -> frozenset[str]:
    """The modules an adapter is made of."""
    found: set[str] = set()
    waiting = [adapters.BUILT_IN[word][0]]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        waiting += re.findall(r"^ *from (adapters\.[\w.]+) import", source(module), re.MULTILINE)
    return frozenset(found)


def test_every_counter_is_documented() -> None:
    """And for each adapter that has its module, unless another adapter of that module has it."""
    known = documented()
    for path in (ROOT / "adapters").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        owners = {word for word in adapters.BUILT_IN if module in modules(word)}
        for name in counted(module):
            assert name in known, f"{module} counts {name!r}, docs/adapters.md does not name it"
            assert known[name] & owners, f"{name}: docs/adapters.md says {known[name]}, it is of {owners}"


@pytest.mark.parametrize("word", adapters.BUILT_IN)
def test_an_adapter_has_the_counters_it_is_said_to_have(word: str) -> None:
    there = set().union(*map(counted, modules(word)))
    said = {name for name, words in documented().items() if word in words}
    assert said <= there, f"{word} does not count {said - there}"
    room = f"adapters.{word}"
    own = set().union(*(counted(m) for m in modules(word) if m == room or m.startswith(f"{room}.")))
    assert own <= said, f"docs/adapters.md does not say that {word} counts {own - said}"


def test_the_agents_own_counters_are_named_and_no_adapter_takes_their_names() -> None:
    """Both come in one table of the status: the same name would count a row twice."""
    own = {quality.name.lower() for quality in Quality if quality}
    tree = ast.parse((ROOT / "agent/pipeline/validation.py").read_text())
    own |= {
        word
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and getattr(node.value, "attr", getattr(node.value, "id", "")) in TABLES
        for word in _words(node.slice)
    }
    assert own >= {"out_of_range", "impossible_time", "undeclared_field"}
    assert not own & documented().keys()
    before = SECTION.partition("| counter |")[0]
    assert own == set(re.findall(r"`([a-z_]+)`", before)) - {"counters", "lost", "readings"}
