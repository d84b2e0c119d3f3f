"""A declared loss is a hole in time, with its reason, in the streams that lost messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.ledger.ledger import Ledger
from collector.store.declared import Lost, lost
from collector.store.reader import read_series
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000
ROWS = {"j1": [float(row) for row in range(50)]}  # one second at 50 Hz


@pytest.fixture
def gaps(folder: Path, clock: Any, batch: Any, event: Any, commit: Any) -> Callable[..., list[Any]]:
    """`gaps(seqs, lost, from_s, to_s)`: stores second n of joints as message n, returns the gaps."""

    def ask(seqs: list[int], losses: list[tuple[int, int]], from_s: float, to_s: float) -> list[Any]:
        store, ledger = SqliteStore(folder, clock), Ledger()
        for seq in seqs:
            commit(store, ledger, [batch(seq, ROWS, t0=T0 + seq * 1000)])
        commit(store, ledger, [event(1000, "gap", device="_", why="quota", lost=losses)])
        store.close()
        found: list[Lost] = lost(ledger.entries(NODE))
        reader = SqliteSource(folder)
        try:
            start, end = int(T0 + from_s * 1000), int(T0 + to_s * 1000)
            series = read_series(
                reader, (NODE, "arm", "joints"), "j1", start_ms=start, end_ms=end, points=500, losses=found
            )
        finally:
            reader.close()
        return [((a - T0) / 1000, (b - T0) / 1000, why) for a, b, why in series.gaps]

    return ask


def test_a_lost_range_is_the_hole_between_its_neighbours(gaps: Any) -> None:
    assert gaps([1, 2, 3, 7, 8], [(4, 6)], 0, 20) == [(3.98, 7.0, "quota")]


def test_a_hole_is_cut_to_the_span_asked_for(gaps: Any) -> None:
    assert gaps([1, 2, 3, 37, 38], [(4, 36)], 10, 20) == [(10.0, 20.0, "quota")]


def test_numbers_of_other_streams_leave_no_hole(gaps: Any) -> None:
    assert gaps([1, 2, 3, 4, 5], [(500, 510)], 0, 20) == []


def test_a_loss_without_a_later_message_is_not_drawn_yet(gaps: Any) -> None:
    assert gaps([1, 2, 3], [(4, 6)], 0, 20) == []


def test_two_holes_and_an_undeclared_one(gaps: Any) -> None:
    assert gaps([1, 2, 4, 5, 8, 9, 12], [(3, 3), (10, 11)], 0, 20) == [
        (2.98, 4.0, "quota"),
        (9.98, 12.0, "quota"),
    ]


def test_a_loss_within_one_commit_is_found(
    folder: Path, clock: Any, batch: Any, event: Any, commit: Any
) -> None:
    store, ledger = SqliteStore(folder, clock), Ledger()
    seconds = [batch(seq, ROWS, t0=T0 + seq * 1000) for seq in (1, 2, 5, 6)]
    commit(store, ledger, [*seconds, event(7, "gap", device="_", why="disk", lost=[(3, 4)])])
    store.close()
    reader = SqliteSource(folder)
    try:
        series = read_series(
            reader,
            (NODE, "arm", "joints"),
            "j1",
            start_ms=T0,
            end_ms=T0 + 9000,
            points=500,
            losses=lost(ledger.entries()),
        )
        assert series.gaps == [(T0 + 2980, T0 + 5000, "disk")]
        without = read_series(
            reader, (NODE, "arm", "joints"), "j1", start_ms=T0, end_ms=T0 + 9000, points=500
        )
        assert without.gaps == []
        assert without.mean == series.mean
    finally:
        reader.close()
