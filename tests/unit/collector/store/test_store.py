"""The store: what was committed is there after anything, days follow each other, damage stays contained."""

from __future__ import annotations

import resource
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.day_file import SCHEMA, StoreBusy, StoreError
from collector.store.reader import Readers, StoreReader, TooSlow, read_cursor
from collector.store.store import SqliteStore, aside, day_files, peek
from wire.errors import EdgebedError, TryAgain

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
DAY_MS = 86_400_000


def stored(folder: Path) -> list[int]:
    """Every seq in the day files, as often as it is there."""
    reader = StoreReader(folder)
    try:
        return sorted(seq for _, _, seqs, _ in reader.chunks() for seq in seqs)
    finally:
        reader.close()


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


def test_last_values_and_states_come_back(
    folder: Path, clock: Any, batch: Any, empty_group: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1, {"x": [1.0, 2.0]}), batch(2, {"x": [9.0]}, t0=T0 - 5000)])
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
    (last,) = found.last
    assert (last.ts, last.values) == (T0 + 20, {"x": 2.0}), "an older row does not replace a newer one"


def test_a_new_day_is_a_new_file_that_remembers(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
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
    assert Ledger(store.load().marks).entries()[0].stored == 3, "retention takes rows, not the account"
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


def test_a_disk_that_is_full_when_the_day_changes_leaves_no_halves_behind(
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


def test_a_clock_that_is_wrong_for_a_while_takes_no_days_along(
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
    assert stored(folder) == [2, 3, 4, 5], "1 is three days old by now"


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


def test_a_day_file_from_a_backup_is_believed_and_not_the_copy_beside_it(
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
    assert again.entries()[0].stored == 2, "of 3 there is no row"
    assert commit(store, again, [batch(2), batch(3)]).duplicates == 1
    store.close()
    assert stored(folder) == [1, 2, 3]


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


def test_a_lost_copy_is_written_again(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    store.close()
    (folder / "marks.db").write_bytes(b"this is no database" * 100)
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


def test_one_collector_at_a_time(folder: Path, clock: Any) -> None:
    store = SqliteStore(folder, clock)
    with pytest.raises(TryAgain, match="another collector") as refused:
        SqliteStore(folder, clock)
    assert refused.value.exit_code == 75
    store.close()
    SqliteStore(folder, clock).close()


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
    with Readers(folder).reader() as reader:
        total, items = reader.quarantine(100)
    store.close()
    assert (total, len(items)) == (8, 5)
    assert [one.recv - T0 for one in items] == [4, 3, 2, 1, 0]
    assert (len(items[0].topic), len(items[0].why), len(items[0].head)) == (256, 500, 512)


def test_series_come_from_rows_and_rollups_over_days(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    values = [float(n % 10) for n in range(100)]
    for first in range(1, 361, 60):  # an hour at 10 Hz
        seqs = range(first, first + 60)
        commit(store, ledger, [batch(n, {"x": values}, t0=T0 + (n - 1) * 10_000, per=100) for n in seqs])
        if first == 121:
            clock.ms += DAY_MS
    readers = Readers(folder)
    ask = {"start_ms": T0, "end_ms": T0 + 3_600_000}
    with readers.reader() as reader:
        fine = reader.series(NODE, "arm", "joints", "x", points=1000, **ask)
        coarse = reader.series(NODE, "arm", "joints", "x", points=60, **ask)
        nothing = reader.series(NODE, "arm", "joints", "y", points=60, **ask)
        edge = reader.series(NODE, "arm", "joints", "x", start_ms=T0 + 5_000, end_ms=T0 + 5_900, points=1000)
    readers.close()
    store.close()
    assert (fine.source, coarse.source) == ("rows", "rollup")
    assert len(fine.t) <= 1000
    assert len(coarse.t) <= 60
    assert sum(fine.n) == sum(coarse.n) == 36_000
    total = sum(mean * n for mean, n in zip(fine.mean, fine.n, strict=True) if mean is not None)
    assert total == pytest.approx(4.5 * 36_000)
    assert coarse.mean == pytest.approx([4.5] * len(coarse.t))
    assert set(coarse.min) == {0.0}
    assert (nothing.t, nothing.gaps) == ([], [])
    assert (edge.t, edge.mean) == ([T0 + 5000 + 100 * n for n in range(10)], [float(n) for n in range(10)])


def test_a_damaged_old_day_is_named_in_the_series(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(seq) for seq in range(1, 300)])
    clock.ms += DAY_MS
    commit(store, ledger, [batch(300, t0=T0 + DAY_MS)])
    store.close()
    old = day_files(folder)[0]
    with old.open("r+b") as file:
        file.seek(16_384)
        file.write(b"\xff" * (old.stat().st_size - 16_384))
    with Readers(folder).reader() as reader:
        found = reader.series(NODE, "arm", "joints", "j1", start_ms=T0, end_ms=T0 + 2 * DAY_MS, points=5000)
    assert found.gaps == [(T0, T0 + 2 * DAY_MS, f"day file {old.name} is damaged")]
    assert sum(found.n) == 1


def test_events_page_through_days_without_a_double(folder: Path, clock: Any, event: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    times = [T0 + n // 3 * 1000 for n in range(30)]  # three share each time
    for seq, ts in enumerate(times, 1):
        commit(store, ledger, [event(seq, "alarm" if seq % 2 else "count", ts=ts, why=f"n{seq}")])
        if seq in (10, 20):
            clock.ms += DAY_MS
    reader = StoreReader(folder)
    seen: list[str] = []
    before = read_cursor(str(2**50))
    while page := reader.events(NODE, "arm", limit=4, before=before):
        seen += [found["why"] for _, found in page]
        before = read_cursor(page[-1][0])
    assert len(seen) == len(set(seen)) == 30
    assert seen == [f"n{n}" for n in range(30, 0, -1)]
    alarms = reader.events(NODE, "arm", limit=100, before=read_cursor(str(2**50)), kind="alarm")
    assert len(alarms) == 15
    earlier = reader.events(NODE, "arm", limit=100, before=read_cursor(str(T0 + 1000)))
    assert [found["ts"] for _, found in earlier] == [T0] * 3
    assert reader.events(NODE, "leg", limit=100, before=read_cursor("9999999999999")) == []
    reader.close()
    store.close()


@pytest.mark.parametrize("text", ["", "x", "-1", "1.2", "1.2.3.4", "1.x.3", "9" * 30])
def test_a_bad_cursor_is_refused(text: str) -> None:
    with pytest.raises(EdgebedError):
        read_cursor(text)


def test_a_question_without_end_is_cut_off(
    folder: Path, clock: Any, batch: Any, commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collector.store import reader as module

    store = SqliteStore(folder, clock)
    commit(store, Ledger(), [batch(1)])
    readers = Readers(folder)
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def ask() -> None:
        with readers.reader() as reader:
            ((_, db),) = reader._days()
            db.execute(endless).fetchone()

    with pytest.raises(TooSlow):
        ask()
    with readers.reader() as reader:
        assert reader.quarantine(1)[0] == 0
    readers.close()
    store.close()


def test_askers_beyond_the_readers_wait_their_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collector.store import reader as module

    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    folder.mkdir()
    readers = Readers(folder, count=1)
    with readers.reader(), pytest.raises(TooSlow, match="too many"), readers.reader():
        pass
    with readers.reader() as reader:
        assert reader.quarantine(1) == (0, [])
    readers.close()


def test_readers_see_whole_groups_only(
    folder: Path, clock: Any, batch: Callable[..., Any], commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    done = threading.Event()
    torn: list[int] = []

    def watch() -> None:
        reader = StoreReader(folder)
        while not done.is_set():
            count = sum(len(seqs) for _, _, seqs, _ in reader.chunks())
            if count % 7:
                torn.append(count)
        reader.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for start in range(1, 211, 7):
        commit(store, ledger, [batch(seq, stream=f"s{seq % 3}") for seq in range(start, start + 7)])
    done.set()
    watcher.join()
    store.close()
    assert torn == []
