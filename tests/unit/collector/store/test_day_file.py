"""One day file: whole or refused, one transaction per group, bounded."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.day_schema import SCHEMA, StoreBusy, StoreError
from collector.store.folder import day_files
from collector.store.reader import Readers
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore, peek
from tests.unit.collector.stored import stored
from wire.errors import EdgebedError

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


DAY_MS = 86_400_000


def test_a_file_whose_making_was_cut_short_is_made_again(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    store.close()
    (folder / "marks.db").unlink()
    sqlite3.connect(folder / "000002-2026-11-23.db").close()
    clock.ms += DAY_MS
    store = SqliteStore(folder, clock)
    assert commit(store, Ledger(store.load().marks), [batch(1), batch(2)]).duplicates == 1
    store.close()
    assert stored(folder) == [1, 2]


def test_a_newer_schema_is_refused_untouched(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store = SqliteStore(folder, clock)
    commit(store, Ledger(), [batch(1)])
    store.close()
    (path,) = day_files(folder)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="upgrade edgebed") as refused:
        SqliteStore(folder, clock)
    assert refused.value.exit_code == 78
    assert path.read_bytes() == before
    with pytest.raises(StoreError):
        peek(folder)


def test_a_foreign_database_is_refused(folder: Path, clock: Any) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / "000001-2026-11-22.db") as db:
        db.execute("PRAGMA application_id = 42")
        db.execute("PRAGMA user_version = 1")
    db.close()
    with pytest.raises(StoreError, match="another program"):
        SqliteStore(folder, clock)


def test_a_locked_file_is_busy_and_the_same_group_goes_in_later(
    folder: Path, clock: Any, batch: Any, commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    assert store._day is not None
    store._day._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(day_files(folder)[0], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="locked"):
        commit(store, ledger, [batch(1)])
    assert ledger.entries() == []
    other.execute("COMMIT")
    other.close()
    assert commit(store, ledger, [batch(1)]).stored == 1
    store.close()
    assert stored(folder) == [1]


def test_a_group_that_fails_leaves_no_trace(
    folder: Path, clock: Any, batch: Any, commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collector.store import day_file

    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    monkeypatch.setattr(day_file, "MAX_FIELDS", 3)
    with pytest.raises(EdgebedError, match="more than 3 field names"):
        commit(store, ledger, [batch(2), batch(3, {name: [1.0] for name in "abcd"}, stream="other")])
    monkeypatch.undo()
    commit(store, ledger, [batch(2), batch(3, {name: [1.0] for name in "abcd"}, stream="other")])
    store.close()
    assert stored(folder) == [1, 2, 3]


def test_the_quarantine_is_bounded_and_counted(
    folder: Path, clock: Any, empty_group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collector.store import day_file
    from collector.store.group import Quarantined

    monkeypatch.setattr(day_file, "MAX_QUARANTINED", 5)
    store = SqliteStore(folder, clock)
    for start in (0, 4):
        group = empty_group()
        group.quarantine = [
            Quarantined(T0 + start + n, "t" * 5000, "w" * 5000, 9, b"x" * 5000) for n in range(4)
        ]
        store.commit(group)
    with Readers(partial(SqliteSource, folder)).source() as reader:
        total, items = reader.quarantine(100)
    store.close()
    assert (total, len(items)) == (8, 5)
    assert [one.recv - T0 for one in items] == [4, 3, 2, 1, 0]
    assert (len(items[0].topic), len(items[0].why), len(items[0].head)) == (256, 500, 512)


def test_one_node_does_not_fill_the_quarantine_of_the_day(
    folder: Path, clock: Any, empty_group: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collector.store import day_file
    from collector.store.group import Quarantined

    monkeypatch.setattr(day_file, "NODE_QUARANTINED", 3)
    for _ in range(2):  # also after a restart
        store = SqliteStore(folder, clock)
        group = empty_group()
        group.quarantine = [Quarantined(T0, f"tb1/evil/t/h/n/data/d/s{n}", "bad", 9) for n in range(9)]
        group.quarantine.append(Quarantined(T0, "tb1/acme/t/h/n/data/d/s", "bad", 9))
        store.commit(group)
        store.close()
    with Readers(partial(SqliteSource, folder)).source() as reader:
        total, items = reader.quarantine(100)
    assert (total, sum("evil" in one.topic for one in items), len(items)) == (20, 3, 5)
