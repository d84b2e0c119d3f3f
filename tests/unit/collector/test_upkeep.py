"""A collector that runs reports a damaged day file at once and rescues it; its ledger names what is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.health import CollectorProblems
from collector.ledger.balance import GONE
from collector.ledger.comparison import Gone
from collector.ledger.ledger import Ledger
from collector.pruning import Pruner
from collector.store.folder import day_files
from collector.store.reader import Readers, read_rows
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from collector.upkeep import AGAIN_S, COMPARE_S, Upkeep

NODE, T0 = "acme/trial/hall/cobot-01", 1_795_356_000_000


class Site:
    def __init__(self, folder: Path, clock: Any) -> None:
        self.store = SqliteStore(folder, clock)
        self.ledger = Ledger(self.store.load().marks)
        self.readers = Readers(partial(SqliteSource, folder))
        self.problems = CollectorProblems(clock)
        self.upkeep = Upkeep(Pruner(self.store), self.readers, self.ledger, self.problems, clock, self.forget)

    def forget(self, gone: Gone) -> None:
        for key, one in gone.items():
            self.ledger.forget(key, one.numbers, one.rows, T0)

    def codes(self) -> list[str]:
        return [one.code for one in self.problems.current()]

    def rows(self) -> int:
        with self.readers.source() as reader:
            return len(read_rows(reader, (NODE, "arm", "joints"), start_ms=0, end_ms=2**45))

    def close(self) -> None:
        self.readers.close()
        self.store.close()


@pytest.mark.usefixtures("packed_at_once")
def test_a_damaged_chunk_is_seen_counted_and_missing(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    site = Site(folder, clock)
    for seq in range(1, 11):
        commit(site.store, site.ledger, [batch(seq)])
    site.upkeep.step()
    assert site.codes() == []
    (path,) = day_files(folder)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE chunk SET body = x'00' WHERE id = 4")
        db.commit()
    assert site.rows() == 9
    site.upkeep.step()
    commit(site.store, site.ledger, [batch(11)])  # the file that is written is set aside between two commits
    site.upkeep.note_damage()
    assert site.codes() == ["day-file-damaged"]
    site.upkeep.step()
    assert site.codes() == ["rows-unreadable", "messages-gone"]
    assert site.problems.current()[0].args == {"day": path.name, "rows": 1}
    (entry,) = site.ledger.entries()
    assert (entry.stored, entry.absent) == (10, [(4, 4, T0, GONE)])
    assert site.rows() == 10
    path.with_name(f"{path.name}.damaged").unlink()
    clock.ms += int(2 * COMPARE_S * 1000) + 1
    site.upkeep.step()
    assert site.codes() == []
    site.close()


@pytest.mark.usefixtures("packed_at_once")
def test_a_damaged_file_whose_own_count_is_damaged_claims_no_number_of_rows(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    site = Site(folder, clock)
    for seq in range(1, 11):
        commit(site.store, site.ledger, [batch(seq)])
    clock.ms += 86_400_000
    commit(site.store, site.ledger, [batch(11)])
    path = day_files(folder)[0]
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM chunk WHERE id > 4")
        db.execute("DELETE FROM hour")
        db.commit()
    path.rename(path.with_name(f"{path.name}.damaged"))
    site.upkeep.step()
    assert site.codes() == ["day-file-damaged", "messages-gone"]
    assert site.problems.current()[0].why == f"day file {path.name} is damaged"
    site.close()


def test_a_sound_file_that_breaks_beside_its_damaged_one_is_a_problem_in_one_sentence(
    folder: Path, clock: Any, batch: Any, commit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(folder, clock)
    commit(site.store, site.ledger, [batch(1)])
    clock.ms += 86_400_000
    commit(site.store, site.ledger, [batch(2)])
    site.store.work()
    path = day_files(folder)[0]
    path.with_name(f"{path.name}.damaged").write_bytes(path.read_bytes())
    path.write_bytes(b"\xff" * path.stat().st_size)
    site.upkeep.step()
    assert site.codes() == ["day-file-damaged", "store-unchecked"]
    assert path.name in site.problems.current()[1].why
    assert not [one for one in caplog.records if one.exc_info]
    site.close()


def test_a_check_that_fails_is_a_problem_and_tried_again(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    site = Site(folder, clock)
    commit(site.store, site.ledger, [batch(1)])
    (folder / "removed.json").unlink()
    (folder / "removed.json").mkdir()
    site.upkeep.step()
    assert site.codes() == ["store-unchecked"]
    (folder / "removed.json").rmdir()
    site.upkeep.step()
    assert site.codes() == ["store-unchecked"]
    clock.ms += int(AGAIN_S * 1000) + 1
    site.upkeep.step()
    clock.ms += 60_000
    assert site.codes() == []
    site.close()
