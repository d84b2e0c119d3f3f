"""The row counter: each number and each row belongs to one part of one day."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.outbox.row_counter import RowCounter
from wire.clock import NS_PER_S


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
