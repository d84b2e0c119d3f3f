"""Retention: what is due goes from old day files, their space comes back, the rest stays."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.backup.pace import Pace
from collector.backup.verify import verify
from collector.ledger.comparison import compared
from collector.ledger.ledger import Ledger
from collector.store import prune as module
from collector.store.day_schema import Damaged, StoreBusy, connect
from collector.store.folder import day_files
from collector.store.prune import bytes_in, planned
from collector.store.pruned import of_files, sums
from collector.store.reader import read_rows
from collector.store.retention import RetentionRule
from collector.store.snapshot import Stopped
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from tests.unit.collector.stored import stored

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
OTHER = "blue/trial/hall/cobot-01"
DAY_MS = 86_400_000


def no_pause(_size: int) -> None:
    pass


def data_of(node: str) -> Callable[[str, str], bool]:
    return lambda owner, cls: (owner, cls) == (node, "data")


def two_days(store: SqliteStore, clock: Any, batch: Any, event: Any, commit: Any) -> Ledger:
    """A day with 100 data messages and 10 events of a node and 50 of another; then a day with one."""
    ledger = Ledger()
    for first in range(1, 111, 11):
        mine = [batch(seq, recv=clock.ms) for seq in range(first, first + 10)]
        others = [batch(seq, node=OTHER) for seq in range(first // 2 + 1, first // 2 + 6)]
        commit(store, ledger, [*mine, event(first + 10), *others], clock.ms)
    clock.ms += DAY_MS
    commit(store, ledger, [batch(111)], clock.ms)
    work(store, clock)
    return ledger


def work(store: SqliteStore, clock: Any) -> None:
    """Pack what waits, and close the file that ended."""
    clock.ms += 700_000
    for _ in range(3):
        store.work()
        clock.ms += 2_000


@pytest.fixture
def store(folder: Path, clock: Any) -> Any:
    opened = SqliteStore(folder, clock)
    yield opened
    opened.close()


def numbers(store: SqliteStore, ledger: Ledger) -> int:
    """How many messages are in no day file, by the comparison."""
    return sum(one.numbers.count() for one in compared(store, ledger).values())


def test_only_what_is_due_goes_and_is_stated(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    gone = store.prune(old, data_of(NODE), no_pause)
    assert gone.sizes.keys() == {(NODE, "data")}
    with closing(SqliteSource(folder)) as source:
        assert source.counts() == {NODE: 11, OTHER: 50}
        assert len(read_rows(source, (OTHER, "arm", "joints"), start_ms=0, end_ms=2**45)) == 50
        assert len(read_rows(source, (NODE, "arm", "joints"), start_ms=0, end_ms=2**45)) == 1
        assert len(source.events(NODE, "arm", limit=100, before=(2**60, "", 0))) == 10
    (one,) = of_files(folder)
    assert (one.node, one.cls, one.messages, one.rows) == (NODE, "data", 100, 100)
    assert (one.first_day, one.last_day) == ("2026-11-22", "2026-11-22")
    assert (one.numbers[0], one.numbers[-1], len(one.numbers)) == ((1, 10), (100, 109), 10)
    assert numbers(store, ledger) == 0, "what retention removed is not lost"
    assert verify(folder, Pace(pauses=False)).problems == []
    assert not store.prune(old, data_of(NODE), no_pause), "there is nothing more to remove"


def test_signed_statements_stay_and_what_is_removed_twice_is_joined(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    with closing(sqlite3.connect(old)) as db:
        db.execute("UPDATE event SET type = 'custody' WHERE seq = 11")
        db.commit()
    assert store.prune(old, lambda owner, cls: owner == NODE and cls == "event", no_pause)
    assert store.prune(old, lambda owner, _: owner == NODE, no_pause)
    found = {one.cls: one.messages for one in of_files(folder)}
    assert found == {"event": 9, "data": 100}
    with closing(SqliteSource(folder)) as source:
        assert source.counts()[NODE] == 2, "the statement, and the message of the next day"
    assert numbers(store, ledger) == 0
    assert not store.prune(old, lambda owner, _: owner == NODE, no_pause)


def test_the_space_comes_back_and_readers_go_on(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = Ledger()
    noise = random.Random(1)
    big = [{f"j{n}": [noise.random() for _ in range(100)] for n in range(20)} for _ in range(80)]
    built = commit(store, ledger, [batch(seq, one) for seq, one in enumerate(big, 1)], clock.ms)
    assert built.stored == 80
    commit(store, ledger, [event(81), batch(1, node=OTHER)], clock.ms)
    clock.ms += DAY_MS
    commit(store, ledger, [batch(82)], clock.ms)
    work(store, clock)
    old, _ = day_files(folder)
    before = old.stat().st_size
    assert before > 1_000_000
    held = bytes_in(old)
    assert 0.7 * before < held[NODE] < 1.1 * before
    with closing(SqliteSource(folder)) as reading, closing(connect(old)) as other:
        rows = other.execute("SELECT id FROM chunk ORDER BY id")
        assert rows.fetchone() is not None
        assert reading.counts()[NODE] == 82
        assert store.prune(old, data_of(NODE), no_pause)
        assert len(rows.fetchall()) > 0, "who has the old file open reads it to its end"
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reading.counts() == {NODE: 2, OTHER: 1}
        assert not reading.damaged
    assert old.stat().st_size < 0.2 * before
    assert not list(folder.glob("*.prune*")), "nothing of the work stays"
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_the_first_pages_are_those_of_every_file_so_a_rescue_can_repair_them(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    assert store.prune(old, data_of(NODE), no_pause)
    with old.open("r+b") as file:
        file.write(b"\xff" * 8192)
    assert old.name in store.rescue([old.name])
    with closing(SqliteSource(folder)) as source:
        assert source.counts() == {NODE: 11, OTHER: 50}
    assert numbers(store, ledger) == 0, "the rescued file states what was removed from it"


def test_damage_after_a_prune_is_not_taken_for_retention(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    assert store.prune(old, lambda owner, cls: owner == NODE and cls == "event", no_pause)
    with closing(sqlite3.connect(old)) as db:
        query = "SELECT min(c.id) FROM chunk c JOIN stream s ON s.id = c.stream WHERE node = ?"
        (at,) = db.execute(query, (NODE,)).fetchone()
        db.execute("UPDATE chunk SET body = x'00' WHERE id = ?", (at,))
        db.commit()
    assert store.rescue([old.name]) != {}
    gone = compared(store, ledger)[(NODE, EP)]
    assert gone.numbers.count() in range(1, 101)
    events = set(range(11, 111, 11))
    assert not events & {n for first, last in gone.numbers for n in range(first, last + 1)}


def test_a_damaged_file_and_one_that_is_not_packed_stay(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = two_days(store, clock, batch, event, commit)
    old, new = day_files(folder)
    commit(store, ledger, [batch(112)], clock.ms)
    with pytest.raises(StoreBusy, match="wait to be packed"):
        planned(new, data_of(NODE))
    assert new not in store.ended_days(), "the file that is written is not touched"
    with closing(sqlite3.connect(old)) as db:
        db.execute("UPDATE chunk SET body = x'00' WHERE id = 1")
        db.commit()
    before = old.read_bytes()
    with pytest.raises(Damaged, match="not a column chunk"):
        store.prune(old, lambda _owner, cls: cls == "data", no_pause)
    assert old.read_bytes() == before
    assert not list(folder.glob("*.prune*"))


def test_a_prune_that_is_stopped_or_finds_no_room_changes_nothing(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    before = old.read_bytes()
    pace = Pace(pauses=False)
    pace.stop()
    with pytest.raises(Stopped):
        store.prune(old, data_of(NODE), pace.step)
    monkeypatch.setattr(module, "ROOM_BYTES", 2**62)
    with pytest.raises(StoreBusy, match="free disk"):
        store.prune(old, data_of(NODE), no_pause)
    assert old.read_bytes() == before
    assert not list(folder.glob("*.prune*"))


POINTS = ("rewrite", "place", "unlink", "replace", "end")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_file(
    point: str, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    store = SqliteStore(folder, clock)
    ledger = two_days(store, clock, batch, event, commit)
    store.close()
    old, _ = day_files(folder)
    child = os.fork()
    if child == 0:  # dies like a process that is killed
        try:
            again = SqliteStore(folder, clock)
            _kill_at(point)
            again.prune(old, data_of(NODE), no_pause)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    store = SqliteStore(folder, clock)
    is_new = point in ("replace", "end")
    assert not list(folder.glob("*.prune*"))
    assert sum(one.messages for one in of_files(folder)) == (100 if is_new else 0)
    assert numbers(store, ledger) == 0
    assert len(stored(folder)) == 161 - (100 if is_new else 0)
    assert bool(store.prune(old, data_of(NODE), no_pause)) != is_new
    assert sums(folder)[(NODE, EP)][0].messages == 100, "counted once"
    store.close()
    assert verify(folder, Pace(pauses=False)).problems == []


def _kill_at(point: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    whole = Path.unlink, Path.replace
    if point == "rewrite":
        module._Copying._check = die  # type: ignore[method-assign]
    elif point == "place":
        module.shutil.copymode = die  # type: ignore[assignment]
    elif point == "unlink":
        Path.replace = die  # type: ignore[method-assign, assignment]
    elif point == "replace":

        def replaced(path: Path, target: Path) -> Any:
            whole[1](path, target)
            die()

        Path.replace = replaced  # type: ignore[method-assign, assignment]


def test_whole_days_that_go_take_their_statements_along(
    folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    store = SqliteStore(folder, clock, 3, [RetentionRule(nodes="acme/*", cls="data", keep_days=1)])
    ledger = two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    assert store.prune(old, data_of(NODE), no_pause)
    for _ in range(4):
        clock.ms += DAY_MS
        commit(store, ledger, [batch(ledger.highest((NODE, EP)) + 1)], clock.ms)
    assert old not in day_files(folder)
    assert numbers(store, ledger) == 0
    assert store.removed.messages() == {NODE: 111, OTHER: 50}
    found = {one.cls: (one.messages, one.first, one.last) for one in sums(folder)[(NODE, EP)]}
    assert found == {"data": (101, 1, 111), "event": (10, 11, 110)}
    (other,) = sums(folder)[(OTHER, EP)]
    assert (other.messages, other.first_day) == (50, "2026-11-22")
    store.close()


def test_old_numbers_that_come_again_are_duplicates_and_new_ones_are_stored(
    store: Any, folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    ledger = two_days(store, clock, batch, event, commit)
    old, _ = day_files(folder)
    assert store.prune(old, data_of(NODE), no_pause)
    built = commit(store, ledger, [batch(5), batch(300)], clock.ms)
    assert (built.stored, built.duplicates) == (1, 1)
    assert 5 in built.acked[(NODE, EP)], "its node may forget it"
    assert numbers(store, ledger) == 0
