"""A source of more days than it keeps open: it opens those of the span alone, and forgets no hole."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.store import sqlite_source
from collector.store.folder import day_files
from collector.store.source import Hole
from collector.store.sqlite_source import SqliteSource
from collector.store.store import SqliteStore
from tests.unit.collector.pilots.kpis.stored_rows import NODE, T0, Plant
from wire.clock import NS_PER_MS, Clock

KEY = (NODE, "cell", "production")
DAY_MS = 86_400_000
DAYS = 5


class Set(Clock):
    """A clock that a test sets."""

    ms = T0

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS


@pytest.fixture
def days(tmp_path: Path, packed_at_once: None) -> Iterator[Path]:
    """Five days with an hour of rows each, and the sixth."""
    clock = Set()
    plant = Plant(tmp_path / "store", clock)
    for day in range(DAYS + 1):
        clock.ms = T0 + day * DAY_MS
        plant.commit(plant.series({"level": [1.0 + day] * 360}, start_ms=clock.ms), clock.ms)
        plant.commit([plant.event(clock.ms, "cell/alarm")], clock.ms)
    plant.store.close()
    return plant.folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that sources open; each keeps one open."""
    names, connect = list[str](), sqlite_source.connect

    def noting(path: Path) -> sqlite3.Connection:
        names.append(path.name[:6])
        return connect(path)

    monkeypatch.setattr(sqlite_source, "connect", noting)
    monkeypatch.setattr(sqlite_source, "OPEN_FILES", 1)
    return names


def span(day: int) -> tuple[int, int]:
    start_us = (T0 + day * DAY_MS) * 1000
    return start_us, start_us + 3_600_000_000


def test_a_question_opens_the_days_of_its_span_and_the_newest(days: Path, opened: list[str]) -> None:
    with closing(SqliteSource(days)) as source:
        for day in range(DAYS):
            assert source.rows_between(KEY, *span(day)) == 360
        opened.clear()
        for day in range(DAYS):
            assert source.rows_between(KEY, *span(day)) == 360
            chunks = [each for each in source.chunks_between(KEY, *span(day)) if not isinstance(each, Hole)]
            assert {each.content.columns["level"][0] for each in chunks} == {1.0 + day}
            sums = list(source.rollups_between(KEY, "level", *span(day)))
            assert sum(each.n.sum() for each in sums if not isinstance(each, Hole)) == 360
        assert len(opened) <= 3 * DAYS * 2
        (last, *_) = day_files(days)
        assert last.name[:6] in opened


def test_a_hole_of_a_day_that_is_closed_is_still_named(days: Path, opened: list[str]) -> None:
    name = day_files(days)[3].name
    with closing(sqlite3.connect(days / name)) as db:
        db.execute("UPDATE chunk SET body = x'00' WHERE id = 1")
        db.commit()
    store = SqliteStore(days, Set())
    assert store.rescue({name})[name] > 0
    store.close()
    with closing(SqliteSource(days)) as source:
        for _ in range(2):
            holes = [each for each in source.chunks_between(KEY, *span(0)) if isinstance(each, Hole)]
            assert [name in each.why for each in holes] == [True]


def test_events_since_a_time_are_not_read_before_it(days: Path) -> None:
    with closing(SqliteSource(days)) as source:
        since_ms = T0 + 2 * DAY_MS
        found = source.events(NODE, "cell", limit=10, before=(2**50, "", 0), kind="alarm", since_ms=since_ms)
        assert [event["ts"] for _, event in found] == [T0 + day * DAY_MS for day in (5, 4, 3, 2)]
