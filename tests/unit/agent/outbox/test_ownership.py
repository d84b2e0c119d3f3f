"""Who may change what in the outbox, read from its source: locks, segments and descriptors have one owner."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import agent.outbox
from agent.outbox.record import Records
from agent.outbox.segment import Header, Segment, SegmentTotals

ROOM = Path(agent.outbox.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in ROOM.glob("*.py")}
FIELDS = set(vars(Segment(Path(), Header("data", "", 1, 1, 1, SegmentTotals()))))


def attributes(tree: ast.AST, kind: type[ast.expr_context]) -> Iterator[tuple[str, str]]:
    """Each `object.attribute` that is read or assigned, as the two names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, kind):
            yield ast.unparse(node.value), node.attr


# What a class assigns besides its own attributes: values that only one thread has.
PLAIN = {
    "buffer": {"body"},
    "cursors": {"cursor", "newest"},
    "reader": {"cursor"},
    "recovery": {"state"},  # what was found at the opening
}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"segment"}))
def test_only_a_segment_assigns_its_fields(module: str) -> None:
    owners = {owner for owner, _ in attributes(MODULES[module], ast.Store)}
    assert owners <= {"self"} | PLAIN.get(module, set())


def test_the_fields_of_a_segment_are_those_of_the_test() -> None:
    assert {"end", "low", "acked", "sealed", "_fd", "_ahead"} <= FIELDS
    assert isinstance(Segment(Path(), Header("data", "", 1, 1, 1, SegmentTotals())).records, Records)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_private_names_stay_in_their_class(module: str) -> None:
    every = [*attributes(MODULES[module], ast.Load), *attributes(MODULES[module], ast.Store)]
    foreign = {
        f"{owner}.{name}" for owner, name in every if name.startswith("_") and owner not in ("self", "cls")
    }
    # the part of the module that opens a file continues the work of the constructor
    assert foreign - {"segment._seen"} == set()


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"outbox"}))
def test_only_the_outbox_has_locks(module: str) -> None:
    names = {node.id for node in ast.walk(MODULES[module]) if isinstance(node, ast.Name)}
    imported = {
        alias.name
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {"threading", "Lock", "RLock", "Condition"} & (names | imported)
    assert not [
        name
        for _, name in attributes(MODULES[module], ast.Load)
        if name.endswith("lock") and name != "_clock"
    ]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"segment"}))
def test_only_a_segment_handles_the_descriptors_of_its_file(module: str) -> None:
    """Others open folders alone: the outbox its own, to lock it, and the pool to flush names."""
    calls = {name for owner, name in attributes(MODULES[module], ast.Load) if owner == "os"}
    allowed = {"outbox": {"open", "close"}, "segment_pool": {"open", "close", "fsync"}}.get(module, set())
    assert calls & {"open", "close", "pread", "pwrite", "fsync", "fdatasync", "write", "read"} <= allowed


@pytest.mark.parametrize("module", ["state", "reader", "cursors", "copies", "buffer", "gaps", "row_counter"])
def test_what_is_called_under_the_lock_does_no_work_on_the_disk(module: str) -> None:
    disk = {"begin", "write", "flush", "seal", "mark", "wipe_rest", "read", "peek", "read_run"}
    assert not {name for _, name in attributes(MODULES[module], ast.Load)} & disk


def test_a_constructor_has_at_most_six_parameters() -> None:
    long = {}
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len(node.args.args) + len(node.args.kwonlyargs) - 1
                if count > 6:
                    long[name] = count
    assert long == {}
    assert len(inspect.signature(Segment).parameters) <= 6
