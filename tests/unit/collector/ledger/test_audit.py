"""The audit: it counts every stored message again and finds what differs from the ledger."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.ledger.audit import differences
from collector.ledger.ledger import Ledger
from collector.store.folder import day_files
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore

NODE, OTHER, EP = "acme/trial/hall/cobot-01", "acme/trial/hall/cam-01", "00112233aabbccdd"


def found_in(folder: Path, *asked: Any) -> list[str]:
    with closing(SqliteSource(folder)) as source:
        return list(differences(source, *asked))


@pytest.fixture
def audited(folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> tuple[Path, Any]:
    """A store with messages of two nodes, and the ledger's entries of it as a report has them."""
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1, {"x": [1.0, 2.0]}), batch(2), event(3), batch(1, node=OTHER)])
    store.close()
    entries = {(one.node, one.ep): msgspec.to_builtins(one) for one in ledger.entries()}
    return folder, entries


def test_a_sound_store_has_no_difference(audited: Any) -> None:
    folder, entries = audited
    assert found_in(folder, entries) == []
    assert found_in(folder, {(OTHER, EP): entries[(OTHER, EP)]}, OTHER.__eq__) == []


def test_other_counts_of_messages_and_rows_are_found(audited: Any) -> None:
    folder, entries = audited
    entries[(NODE, EP)]["stored"] += 1
    entries[(OTHER, EP)]["rows_stored"] += 5
    assert found_in(folder, entries) == [
        f"{OTHER} ep {EP}: the files have 1 rows, the ledger has 6",
        f"{NODE} ep {EP}: the files have 3 messages, the ledger has 4",
    ]


def test_messages_of_an_outbox_that_the_ledger_does_not_know(audited: Any) -> None:
    folder, entries = audited
    del entries[(OTHER, EP)]
    assert found_in(folder, entries) == [
        f"{OTHER} ep {EP}: the files have 1 messages, the ledger has 0",
        f"{OTHER} ep {EP}: the files have 1 rows, the ledger has 0",
    ]


def test_a_message_that_is_stored_twice(audited: Any, clock: Any, batch: Any, commit: Any) -> None:
    folder, entries = audited
    store = SqliteStore(folder, clock)
    commit(store, Ledger(), [batch(2)])
    store.close()
    assert f"{NODE} ep {EP}: seq 2 is stored twice" in found_in(folder, entries, NODE.__eq__)


def test_a_damaged_file_is_named(audited: Any) -> None:
    folder, entries = audited
    (path,) = day_files(folder)
    path.rename(f"{path}.damaged")
    found = found_in(folder, {(NODE, EP): entries[(NODE, EP)]}, NODE.__eq__)
    assert found[0] == f"day file {path.name} is damaged and was not counted"
    assert f"{NODE} ep {EP}: the files have 0 messages, the ledger has 3" in found
    assert f"{NODE} ep {EP}: the files have 0 rows, the ledger has 4" in found


def test_twenty_messages_that_are_stored_twice_are_named(
    audited: Any, clock: Any, batch: Any, commit: Any
) -> None:
    folder, entries = audited
    store = SqliteStore(folder, clock)
    for _ in range(2):
        commit(store, Ledger(), [batch(seq) for seq in range(10, 35)])
    store.close()
    found = [line for line in found_in(folder, entries) if "twice" in line]
    assert found == [f"{NODE} ep {EP}: seq {seq} is stored twice" for seq in range(10, 30)]
