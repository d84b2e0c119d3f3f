"""The ledger compares itself with the day files: what is in none of them is missing."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from collector.ledger.balance import GONE
from collector.ledger.comparison import compared
from collector.ledger.ledger import Ledger
from collector.store.folder import day_files
from collector.store.store import SqliteStore

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
DAY_MS = 86_400_000


def opened(folder: Path, clock: Any, days: int = 0) -> tuple[SqliteStore, Ledger]:
    store = SqliteStore(folder, clock, days)
    return store, Ledger(store.load().marks)


def forget(store: SqliteStore, ledger: Ledger) -> int:
    """Compare, and take out what no file has; how many messages that is."""
    gone = compared(store, ledger)
    for key, one in gone.items():
        ledger.forget(key, one.numbers, one.rows, T0)
    return sum(one.numbers.count() for one in gone.values())


def unlink(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def test_a_restored_backup_is_missing_what_came_after_it(
    folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    store, ledger = opened(folder, clock)
    commit(store, ledger, [*(batch(seq) for seq in range(1, 50)), event(50)])
    (path,) = day_files(folder)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(folder / "copy")) as target:
        source.backup(target)
    commit(store, ledger, [*(batch(seq) for seq in range(51, 80)), event(80)])
    store.close()
    unlink(path)
    shutil.move(folder / "copy", path)
    # the marks come from the newer copy, as after a restore of the day file alone
    store, _ = opened(folder, clock)
    assert forget(store, ledger) == 30
    (entry,) = ledger.entries()
    assert (entry.stored, entry.missing, entry.rows_stored) == (50, [(51, 80)], 50)
    ledger.claim(NODE, EP, claim(80))
    (entry,) = ledger.entries()
    assert (entry.missing, entry.absent[0][3]) == ([(51, 80)], GONE)
    built = commit(store, ledger, [batch(seq) for seq in range(40, 61)])
    assert (built.stored, built.duplicates) == (10, 11), "what comes again is stored"
    assert forget(store, ledger) == 0
    store.close()


def claim(head: int) -> Any:
    from collector.store.marks import Claim

    return Claim(head, head, 0, head, T0)


def test_day_files_that_are_gone(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = opened(folder, clock)
    commit(store, ledger, [batch(seq) for seq in range(1, 11)])
    clock.ms += DAY_MS
    commit(store, ledger, [batch(seq) for seq in range(11, 21)])
    store.close()
    assert forget(*opened_again(folder, clock)) == 0
    unlink(day_files(folder)[0])
    store, ledger = opened(folder, clock)
    assert forget(store, ledger) == 10
    (entry,) = ledger.entries()
    assert (entry.stored, entry.missing, entry.missing_count) == (10, [(1, 10)], 10)
    assert entry.absent == [(1, 10, T0, GONE)]
    commit(store, ledger, [batch(21)])
    store.close()
    for path in day_files(folder):
        unlink(path)
    store, ledger = opened(folder, clock)
    assert forget(store, ledger) > 0, "the marks of the copy name what was stored"
    assert ledger.entries()[0].stored == 0
    store.close()


def opened_again(folder: Path, clock: Any) -> tuple[SqliteStore, Ledger]:
    store, ledger = opened(folder, clock)
    store.close()
    return store, ledger


def test_files_that_were_removed_while_they_were_written(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = opened(folder, clock)
    commit(store, ledger, [batch(seq) for seq in range(1, 41)])
    unlink(day_files(folder)[0])
    commit(store, ledger, [batch(seq) for seq in range(41, 61)])
    assert forget(store, ledger) == 40
    store.close()
    store, again = opened(folder, clock)
    assert forget(store, again) == 40
    assert (again.entries()[0].stored, again.entries()[0].missing_count) == (20, 40)
    store.close()


def test_what_retention_removed_is_not_missing(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = opened(folder, clock, 2)
    for seq in range(1, 6):
        commit(store, ledger, [batch(10 * seq + n) for n in range(10)])
        clock.ms += DAY_MS
    assert forget(store, ledger) == 0
    unlink(day_files(folder)[-2])
    assert forget(store, ledger) == 10
    assert ledger.entries()[0].missing[-1] == (40, 49)
    store.close()


def test_a_store_of_an_older_release_with_retention_misses_nothing(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = opened(folder, clock, 1)
    for seq in range(1, 5):
        commit(store, ledger, [batch(seq)])
        clock.ms += DAY_MS
    store.close()
    (folder / "removed.json").unlink()
    store, ledger = opened(folder, clock, 1)
    assert forget(store, ledger) == 0
    commit(store, ledger, [batch(9)])
    assert forget(store, ledger) == 0
    unlink(day_files(folder)[0])
    assert forget(store, ledger) == 1
    store.close()
