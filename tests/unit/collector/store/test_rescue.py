"""A damaged day file is read again: what it gives is in a sound file of its name, and the rest is counted."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store import landed
from collector.store.folder import aside, day_files
from collector.store.group import Group
from collector.store.reader import read_rows, read_series
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore

NODE, T0 = "acme/trial/hall/cobot-01", 1_795_356_000_000
SPAN = {"start_ms": 0, "end_ms": 2**45}
_made: dict[str, Path] = {}


@pytest.fixture(params=["packed", "landed"])
def sound(
    tmp_path_factory: pytest.TempPathFactory,
    clock: Any,
    batch: Any,
    event: Any,
    commit: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Path:
    """A store with 200 messages of ten rows, packed or not, and 20 events in one file; copy it.

    It is made once: each of its messages is flushed to the disk.
    """
    monkeypatch.setattr(landed, "PACK_MESSAGES", 1 if request.param == "packed" else 1_000)
    if request.param in _made:
        return _made[request.param]
    folder = tmp_path_factory.mktemp("sound") / "store"
    store, ledger = SqliteStore(folder, clock), Ledger()
    for seq in range(1, 221):
        values = {"j1": [seq + n / 10 for n in range(10)], "word": ["a"] * 10}
        one = event(seq, ts=T0 + seq) if seq % 11 == 0 else batch(seq, values, t0=T0 + seq * 1000, per=100)
        commit(store, ledger, [one])
    store.close()
    return _made.setdefault(request.param, folder)


def harmed(path: Path, first: int, bits: int, seed: int) -> None:
    raw, chance = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(bits):
        raw[chance.randrange(first, len(raw))] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)


def rows(folder: Path) -> int:
    with closing(SqliteSource(folder)) as reader:
        return len(read_rows(reader, (NODE, "arm", "joints"), **SPAN))


def is_sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


@pytest.mark.parametrize(("first", "bits"), [(4096, 60), (4096, 5), (200, 40), (16384, 200), (0, 3)])
# with seed 1 the index `raw_by_stream` has fewer rows, which only the comparison with the ledger finds
@pytest.mark.parametrize("seed", [0, 2, 3, 4])
def test_flipped_bits_cost_the_rows_that_they_hit(
    sound: Path, folder: Path, clock: Any, first: int, bits: int, seed: int
) -> None:
    shutil.copytree(sound, folder)
    (path,) = day_files(folder)
    harmed(path, first, bits, seed)
    store = SqliteStore(folder, clock)
    with closing(SqliteSource(folder)) as reader:
        read_rows(reader, (NODE, "arm", "joints"), **SPAN)
        suspects = reader.suspects
    store.rescue(suspects)
    store.commit(Group(clock.now_ms()))  # a file that is being written is set aside with the next commit
    rescued = store.rescue()
    lost = rescued.get(path.name, 0)
    found = rows(folder)
    assert found + lost >= 2000, "every row is readable or counted"
    assert found > 2000 - 20 * 10 * min(bits, 30)
    assert found >= 1000 or bits > 5
    assert all(is_sound(folder / name) for name in rescued)
    store.close()
    store = SqliteStore(folder, clock)
    assert rows(folder) == found
    store.close()


def test_the_hole_is_named_in_time_and_the_rest_is_drawn(
    sound: Path, folder: Path, clock: Any, batch: Any, commit: Any
) -> None:
    shutil.copytree(sound, folder)
    (path,) = day_files(folder)
    with closing(sqlite3.connect(path)) as db:
        for table in ("chunk", "raw"):
            db.execute(f"UPDATE {table} SET body = x'00' WHERE id BETWEEN 91 AND 100")  # noqa: S608 - constants
        db.commit()
    store = SqliteStore(folder, clock)
    ledger = Ledger(store.load().marks)
    assert store.rescue({path.name}) == {}
    commit(store, ledger, [batch(500, t0=T0 + 500_000)])
    assert [each.name for each in aside(folder)] == [f"{path.name}.damaged"]
    assert store.rescue() == {path.name: 100}
    assert store.rescue() == {path.name: 100}, "as long as the damaged file is kept"
    with closing(SqliteSource(folder)) as reader:
        series = read_series(
            reader, (NODE, "arm", "joints"), "j1", points=5000, start_ms=T0, end_ms=T0 + 600_000
        )
        before = read_rows(reader, (NODE, "arm", "joints"), start_ms=T0, end_ms=T0 + 50_000)
    assert sum(series.n) == 1900 + 1
    ((low, high, why),) = series.gaps
    assert why == f"day file {path.name} is damaged: at least 100 rows cannot be read"
    assert T0 + 95_000 < low < high < T0 + 115_000
    assert before.gaps == []
    store.close()


def test_a_file_that_gives_nothing_stays_aside(sound: Path, folder: Path, clock: Any) -> None:
    shutil.copytree(sound, folder)
    (path,) = day_files(folder)
    path.write_bytes(b"\xff" * path.stat().st_size)
    store = SqliteStore(folder, clock)
    assert store.rescue() == {}
    assert sorted(each.name for each in folder.glob("000001*")) == [f"{path.name}.damaged"]
    with closing(SqliteSource(folder)) as reader:
        table = read_rows(reader, (NODE, "arm", "joints"), **SPAN)
    assert [why for _, _, why in table.gaps] == [f"day file {path.name} is damaged"]
    store.close()


def test_a_file_that_was_cut_off_gives_its_beginning(sound: Path, folder: Path, clock: Any) -> None:
    shutil.copytree(sound, folder)
    (path,) = day_files(folder)
    path.write_bytes(path.read_bytes()[: -3 * 8192])
    store = SqliteStore(folder, clock)
    with closing(SqliteSource(folder)) as reader:
        read_rows(reader, (NODE, "arm", "joints"), **SPAN)
        store.rescue(reader.suspects)
    store.commit(Group(clock.now_ms()))
    lost = store.rescue()
    assert 100 < rows(folder) < 2000
    assert lost[path.name] > 0
    store.close()
