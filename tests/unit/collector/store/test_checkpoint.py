"""Marks and states survive the loss of a day file and of their copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.folder import aside, day_files
from collector.store.store import SqliteStore
from tests.unit.collector.stored import stored

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


def test_states_come_back(folder: Path, clock: Any, empty_group: Any) -> None:
    store = SqliteStore(folder, clock)
    group = empty_group()
    group.states = {"status/a": b"1", "status/b": b"2"}
    store.commit(group)
    group.states = {"status/b": b""}
    store.commit(group)
    store.close()
    saved = SqliteStore(folder, clock)
    found = saved.load()
    saved.close()
    assert found.states == {"status/a": b"1"}


@pytest.mark.parametrize("where", [0, 5_000])
def test_a_damaged_day_is_set_aside_and_nothing_is_forgotten(
    folder: Path, clock: Any, batch: Any, commit: Any, where: int
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(seq) for seq in range(1, 500)])
    store.close()
    (path,) = day_files(folder)
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"\xff" * (path.stat().st_size - where))
    store = SqliteStore(folder, clock)
    again = Ledger(store.load().marks)
    assert commit(store, again, [batch(1), batch(500)]).duplicates == 1
    assert [path.name for path in aside(folder)] == ["000001-2026-11-22.db.damaged"]
    assert store.status().damaged == ["000001-2026-11-22.db.damaged"]
    store.close()
    assert again.entries()[0].stored == 500
    store = SqliteStore(folder, clock)
    assert Ledger(store.load().marks).entries()[0].stored == 500, "and not at the next start either"
    store.close()


def test_a_day_file_from_a_backup_counts_and_not_the_copy_beside_it(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1), batch(2)])
    store.close()
    (path,) = day_files(folder)
    backup = path.read_bytes()
    store = SqliteStore(folder, clock)
    commit(store, ledger, [batch(3)])
    store.close()
    path.write_bytes(backup)
    store = SqliteStore(folder, clock)
    again = Ledger(store.load().marks)
    assert again.entries()[0].stored == 2, "message 3 has no row"
    assert commit(store, again, [batch(2), batch(3)]).duplicates == 1
    store.close()
    assert stored(folder) == [1, 2, 3]


def test_a_lost_copy_is_written_again(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    store.close()
    (folder / "marks.db").write_bytes(b"this is not a database" * 100)
    store = SqliteStore(folder, clock)
    again = Ledger(store.load().marks)
    for seq in (2, 3, 4):
        clock.ms += 10_000
        commit(store, again, [batch(seq)])
    store.close()
    for path in day_files(folder):
        path.unlink()
    store = SqliteStore(folder, clock)
    assert Ledger(store.load().marks).entries()[0].stored == 4
    store.close()
