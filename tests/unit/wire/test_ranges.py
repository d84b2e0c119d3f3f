"""Ranges behave like a plain set of integers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.ranges import Ranges

pairs = st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(pairs, max_size=30), pairs)
def test_ranges_are_the_set_they_stand_for(added: list[tuple[int, int]], window: tuple[int, int]) -> None:
    ranges, plain = Ranges(added), {n for first, last in added for n in range(first, last + 1)}
    assert ranges.count() == len(plain)
    assert [n in ranges for n in range(80)] == [n in plain for n in range(80)]
    holes = {n for first, last in ranges.missing(*window) for n in range(first, last + 1)}
    assert holes == set(range(window[0], window[1] + 1)) - plain
    flat = list(ranges)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(flat))
    assert (len(ranges), bool(ranges), ranges.highest()) == (len(flat), bool(plain), max(plain, default=0))
    inside = plain & set(range(window[0], window[1] + 1))
    assert {n for first, last in ranges.within(*window) for n in range(first, last + 1)} == inside
    assert ranges.count_in(*window) == len(inside)


@given(st.lists(pairs, max_size=30), st.lists(pairs, max_size=30))
def test_one_set_without_another(all_: list[tuple[int, int]], some: list[tuple[int, int]]) -> None:
    ranges, others = Ranges(all_), Ranges(some)
    left = ranges.without(others)
    assert [n in left for n in range(80)] == [n in ranges and n not in others for n in range(80)]


@given(st.permutations(range(1, 40)))
def test_order_of_adding_does_not_matter(order: list[int]) -> None:
    ranges = Ranges()
    for number in order:
        ranges.add(number)
    assert list(ranges) == [(1, 39)]


@given(st.lists(pairs, max_size=30), st.lists(pairs, min_size=50, max_size=90))
def test_many_ranges_at_once_are_added_as_one_by_one(
    known: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    spread = [(3 * first, 3 * last) for first, last in more]
    at_once, one_by_one = Ranges(known), Ranges(known)
    at_once.update(spread)
    for first, last in spread:
        one_by_one.add(first, last)
    assert at_once == one_by_one


def test_a_copy_changes_alone() -> None:
    ranges = Ranges([(1, 3), (7, 9)])
    twin = ranges.copy()
    assert twin == ranges
    twin.add(5)
    assert (list(ranges), list(twin)) == ([(1, 3), (7, 9)], [(1, 3), (5, 5), (7, 9)])
    assert ranges != twin
    assert ranges != [(1, 3), (7, 9)]
    assert repr(ranges) == "Ranges([(1, 3), (7, 9)])"


def test_a_range_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^range 2\.\.1 ends before it starts$"):
        Ranges([(2, 1)])
