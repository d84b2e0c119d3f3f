"""What is acknowledged is in a file that is on its path: files removed or replaced while they are written."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.checkpoint import COPY_EVERY_S, read_copy
from collector.store.day_schema import StoreBusy
from collector.store.folder import day_files
from collector.store.reader import read_rows
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from tests.unit.collector.stored import stored

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


def remove(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()


@pytest.mark.parametrize(
    ("suffixes", "kept"),
    [(("", "-wal", "-shm"), False), (("",), False), (("-wal",), True), (("-shm",), True)],
)
def test_what_follows_a_removed_file_is_in_a_new_one(
    folder: Path, clock: Any, batch: Any, commit: Any, suffixes: tuple[str, ...], kept: bool
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1), batch(2)])
    (path,) = day_files(folder)
    with OpenPage(folder):  # a question that was answered before keeps the old files open
        remove(path, *suffixes)
        commit(store, ledger, [batch(3)])
        commit(store, ledger, [batch(4)])
        assert stored(folder) == ([1, 2, 3, 4] if kept else [3, 4])
    assert ("was removed or replaced" in store.status().problem) == (not kept)
    store.close()
    assert stored(folder) == ([1, 2, 3, 4] if kept else [3, 4])
    for file in day_files(folder):
        with sqlite3.connect(file) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()


class OpenPage:
    """A reader that has answered a question and stays open."""

    def __init__(self, folder: Path) -> None:
        self.reader = SqliteSource(folder)

    def __enter__(self) -> SqliteSource:
        assert read_rows(self.reader, (NODE, "arm", "joints"), start_ms=0, end_ms=2**45).rows
        return self.reader

    def __exit__(self, *_: object) -> None:
        self.reader.close()


@pytest.mark.parametrize("suffixes", [("", "-wal", "-shm"), ("-wal",)])
def test_an_open_page_reads_on_in_the_new_file(
    folder: Path, clock: Any, batch: Any, commit: Any, suffixes: tuple[str, ...]
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    with OpenPage(folder) as reader:
        remove(day_files(folder)[0], *suffixes)
        for seq in range(2, 6):
            commit(store, ledger, [batch(seq)])
        found = read_rows(reader, (NODE, "arm", "joints"), start_ms=0, end_ms=2**45)
    assert {values["j1"] for _, values, _ in found} >= {2.0, 3.0, 4.0, 5.0}
    store.close()


def test_a_file_that_was_replaced_is_left_alone(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    (path,) = day_files(folder)
    copy = folder / "copy"
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    commit(store, ledger, [batch(2)])
    remove(path, "-wal", "-shm")
    copy.replace(path)
    built = commit(store, ledger, [batch(2), batch(3)])
    assert (built.stored, built.duplicates) == (1, 1), "the ledger compares itself with the files later"
    assert stored(folder) == [1, 3]
    store.close()


def test_an_emptied_folder_is_used_again(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    for path in folder.iterdir():
        path.unlink()
    commit(store, ledger, [batch(2)])
    assert stored(folder) == [2]
    with pytest.raises(Exception, match="another collector"):
        SqliteStore(folder, clock)
    shutil.rmtree(folder)
    commit(store, ledger, [batch(3)])
    store.close()
    assert stored(folder) == [3]


def test_another_folder_on_the_path_is_refused(folder: Path, clock: Any, batch: Any, commit: Any) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    folder.rename(folder.with_name("elsewhere"))
    other = SqliteStore(folder, clock)
    with pytest.raises(StoreBusy, match="not the folder that this collector opened"):
        commit(store, ledger, [batch(2)])
    other.close()
    shutil.rmtree(folder)
    folder.with_name("elsewhere").rename(folder)
    commit(store, ledger, [batch(2)])
    store.close()
    assert stored(folder) == [1, 2]


def test_the_copy_of_the_marks_is_whole_after_it_was_removed(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1, ep="0123456789abcdef")])
    clock.ms += int(COPY_EVERY_S * 1000)
    commit(store, ledger, [batch(1)])
    remove(folder / "marks.db", "")
    clock.ms += int(COPY_EVERY_S * 1000)
    commit(store, ledger, [batch(2)])
    assert {mark.ep for mark in read_copy(folder).marks} == {EP, "0123456789abcdef"}
    store.close()


def test_a_table_that_is_gone_costs_the_file_not_the_messages(
    folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    commit(store, ledger, [batch(1)])
    (path,) = day_files(folder)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE hour")
    db.close()
    built = commit(store, ledger, [batch(2)])
    assert (built.stored, built.group.quarantine) == (1, [])
    assert 2 in stored(folder)
    store.close()
