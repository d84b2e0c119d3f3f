"""Questions to the day files: series, events, quarantine, and limits of time and number."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.folder import day_files
from collector.store.reader import Readers, read_series
from collector.store.source import TooSlow, read_cursor
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from wire.errors import EdgebedError

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


DAY_MS = 86_400_000


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
    readers = Readers(partial(SqliteSource, folder))
    ask = {"start_ms": T0, "end_ms": T0 + 3_600_000}
    with readers.source() as reader:
        fine = read_series(reader, (NODE, "arm", "joints"), "x", points=1000, **ask)
        coarse = read_series(reader, (NODE, "arm", "joints"), "x", points=60, **ask)
        nothing = read_series(reader, (NODE, "arm", "joints"), "y", points=60, **ask)
        edge = read_series(
            reader, (NODE, "arm", "joints"), "x", start_ms=T0 + 5_000, end_ms=T0 + 5_900, points=1000
        )
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
    with Readers(partial(SqliteSource, folder)).source() as reader:
        found = read_series(
            reader, (NODE, "arm", "joints"), "j1", start_ms=T0, end_ms=T0 + 2 * DAY_MS, points=5000
        )
    assert found.gaps == [(T0, T0 + 2 * DAY_MS, f"day file {old.name} is damaged")]
    assert sum(found.n) == 1


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
    readers = Readers(partial(SqliteSource, folder))
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

    def ask() -> None:
        with readers.source() as reader:
            assert isinstance(reader, SqliteSource)
            ((path, db),) = reader._days()
            with reader._guard(path):
                db.execute(endless).fetchone()

    with pytest.raises(TooSlow):
        ask()
    with readers.source() as reader:
        assert reader.quarantine(1)[0] == 0
    readers.close()
    store.close()


def test_questions_beyond_the_readers_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collector.store import reader as module

    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    folder.mkdir()
    readers = Readers(partial(SqliteSource, folder), count=1)
    with readers.source(), pytest.raises(TooSlow, match="too many"), readers.source():
        pass
    with readers.source() as reader:
        assert reader.quarantine(1) == (0, [])
    readers.close()
