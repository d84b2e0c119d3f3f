"""The store: committed data survive restarts, days and damage; one collector owns the folder."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.folder import aside, day_files
from collector.store.store import SqliteStore, peek
from tests.unit.collector.stored import stored
from wire.errors import TryAgain

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
DAY_MS = 86_400_000


def test_a_reopened_store_remembers(folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1), batch(2), event(3), batch(2)])
    store.close()
    store = SqliteStore(folder, clock)
    again = Ledger(store.load().marks)
    assert again.entries() == ledger.entries()
    assert (again.entries()[0].stored, again.entries()[0].duplicates) == (3, 1)
    built = commit(store, again, [batch(1), batch(4)])
    assert (built.stored, built.duplicates) == (1, 1)
    store.close()
    assert stored(folder) == [1, 2, 3, 4]
    assert Ledger(peek(folder).marks).entries() == again.entries()


def test_a_new_day_is_a_new_file_with_the_marks(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1), batch(2)])
    clock.ms += DAY_MS
    built = commit(store, ledger, [batch(2), batch(3)])
    assert built.duplicates == 1
    assert [path.name for path in day_files(folder)] == ["000001-2026-11-22.db", "000002-2026-11-23.db"]
    store.close()
    (day_files(folder)[0]).unlink()
    (folder / "marks.db").unlink()
    store = SqliteStore(folder, clock)
    assert Ledger(store.load().marks).entries()[0].stored == 3, "retention removes rows, not the account"
    store.close()


def test_a_clock_set_back_does_not_reopen_an_old_day(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    clock.ms -= DAY_MS
    commit(store, ledger, [batch(2)])
    store.close()
    assert [path.name for path in day_files(folder)] == ["000001-2026-11-22.db", "000002-2026-11-21.db"]
    store = SqliteStore(folder, clock)
    assert commit(store, Ledger(store.load().marks), [batch(1), batch(2)]).duplicates == 2
    store.close()


def test_a_full_disk_at_a_change_of_day_leaves_no_half_made_file(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    clock.ms += DAY_MS
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 4_096, 20_000, 40_000):  # bytes that a file may have: it fails at another step each time
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(TryAgain):
                commit(store, ledger, [batch(2)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in folder.glob("000002*")] == []
    assert commit(store, ledger, [batch(1), batch(2)]).duplicates == 1
    store.close()
    assert [path.name for path in day_files(folder)] == ["000001-2026-11-22.db", "000002-2026-11-23.db"]
    assert stored(folder) == [1, 2]


def test_retention_unlinks_whole_days(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock, retention_days=2), Ledger()
    for seq in range(1, 6):
        commit(store, ledger, [batch(seq)])
        clock.ms += DAY_MS
    store.close()
    assert [path.name[7:17] for path in day_files(folder)] == ["2026-11-24", "2026-11-25", "2026-11-26"]
    assert ledger.entries()[0].stored == 5


def test_a_clock_that_is_wrong_for_a_while_removes_no_days(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock, retention_days=2), Ledger()
    for seq in range(1, 4):
        commit(store, ledger, [batch(seq)])
        clock.ms += DAY_MS
    store.close()
    clock.ms += 50 * 365 * DAY_MS  # as it boots; then it is set
    store = SqliteStore(folder, clock, retention_days=2)
    commit(store, ledger, [batch(4)])
    clock.ms -= 50 * 365 * DAY_MS
    commit(store, ledger, [batch(5)])
    store.close()
    assert stored(folder) == [2, 3, 4, 5], "1 is three days old now"


def test_damage_while_running_is_survived(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(seq) for seq in range(1, 500)])
    store.close()
    store = SqliteStore(folder, clock)
    (path,) = day_files(folder)
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192))
    built = commit(store, ledger, [batch(7), batch(500)])
    assert (built.stored, built.duplicates) == (1, 1)
    assert len(aside(folder)) == 1
    store.close()
    assert stored(folder) == [500]


def test_one_collector_at_a_time(folder: Path, clock: Any) -> None:
    store = SqliteStore(folder, clock)
    with pytest.raises(TryAgain, match="another collector") as refused:
        SqliteStore(folder, clock)
    assert refused.value.exit_code == 75
    store.close()
    SqliteStore(folder, clock).close()
