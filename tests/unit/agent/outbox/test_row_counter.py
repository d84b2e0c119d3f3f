"""The row counter: each number and each row belongs to one part of one day."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox.row_counter import RowCounter
from wire.clock import NS_PER_S
from wire.custody import MAX_STREAMS


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 3), st.booleans()), max_size=60),
    st.integers(1, 10**6),
)
def test_each_number_and_each_row_is_in_one_part(taken: list[tuple[int, int, int, bool]], run: int) -> None:
    """With any steps of the clock, parts follow one another, and a longer part replaces the shorter one."""
    row_counter, parts, numbers, truth = RowCounter(run), {}, [], dict[str, int]()
    for at, (stream, rows, day, stated) in enumerate(taken):
        name = f"data/arm/s{stream}"
        number = row_counter.add(run + at, name, rows, day * 86_400 * NS_PER_S)
        assert number == (run, truth.get(name, 0) + 1)
        truth[name] = truth.get(name, 0) + rows
        numbers.append((run + at, day))
        if stated:
            parts.update({part.first: part for part in row_counter.parts()})
    parts.update({part.first: part for part in row_counter.parts()})
    assert row_counter.parts() == []
    covered = [(seq, part.day) for part in parts.values() for seq in range(part.first, part.upto + 1)]
    assert sorted(covered) == [(seq, f"1970-01-{day + 1:02}") for seq, day in numbers]
    rows = dict[str, int]()
    for _, part in sorted(parts.items()):
        for name, (_messages, first, last) in part.streams.items():
            assert first == rows.get(name, 0) + 1
            rows[name] = last
    assert rows == truth
    assert sum(messages for part in parts.values() for messages, *_ in part.streams.values()) == len(taken)


def test_statements_alone_need_no_statement() -> None:
    row_counter = RowCounter(1)
    row_counter.add(1, "event/_/custody", 1, 0)
    assert not row_counter.unstated
    row_counter.add(2, "data/arm/joints", 10, 0)
    assert row_counter.unstated
    (part,) = row_counter.parts()
    assert (part.first, part.upto) == (1, 2)
    row_counter.add(3, "event/_/custody", 1, 0)
    assert not row_counter.unstated
    row_counter.add(4, "event/_/custody", 1, 86_400 * NS_PER_S)
    (ended,) = row_counter.parts()  # the part of the day before grew by its own statement
    assert (ended.first, ended.upto, ended.day) == (1, 3, "1970-01-01")
    row_counter.add(5, "event/_/custody", 1, 86_400 * NS_PER_S)
    assert not row_counter.unstated
    assert row_counter.parts() == []


def test_a_day_is_one_of_utc_wherever_the_device_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        row_counter = RowCounter(1)
        for seq, at_s in ((1, 1_795_391_999), (2, 1_795_392_000)):  # the last second of a day, and the next
            row_counter.add(seq, "data/arm/joints", 1, at_s * NS_PER_S)
        days = [(part.day, part.first, part.upto) for part in row_counter.parts()]
        assert days == [("2026-11-22", 1, 1), ("2026-11-23", 2, 2)]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_that_was_never_set_or_runs_wild_has_a_day() -> None:
    row_counter = RowCounter(5)
    row_counter.add(5, "data/a/b", 1, -1)
    assert not row_counter.has_closed
    row_counter.add(6, "data/a/b", 1, 2**62 * 1_000)
    assert row_counter.has_closed
    assert [(part.day, part.run) for part in row_counter.parts()] == [("1970-01-01", 5), ("9999-12-31", 5)]
    assert not row_counter.has_closed


def test_parts_that_wait_for_a_statement_are_bounded() -> None:
    row_counter = RowCounter(1)
    for seq in range(1, 201):
        row_counter.add(seq, "data/a/b", 1, seq % 2 * 86_400 * NS_PER_S)
    parts = row_counter.parts()
    assert [part.first for part in parts] == [*range(1, 65), 200]


def test_the_busiest_streams_are_stated() -> None:
    row_counter = RowCounter(1)
    for seq in range(1, MAX_STREAMS + 2):
        row_counter.add(seq, f"data/a/s{seq}", 3, 0)
    row_counter.add(MAX_STREAMS + 2, f"data/a/s{MAX_STREAMS + 1}", 3, 0)
    (part,) = row_counter.parts()
    assert len(part.streams) == MAX_STREAMS
    assert part.streams[f"data/a/s{MAX_STREAMS + 1}"] == (2, 1, 6)
