"""Rows of values: complete, in order of time, without lost values."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.opcua import rows as module
from adapters.opcua.rows import Row, SampleRows, Stamps
from wire.messages import Quality

GOOD = Quality.GOOD


def rows_of(fields: str, **more: object) -> tuple[SampleRows, Counter[str]]:
    counters: Counter[str] = Counter()
    return SampleRows(tuple(fields), counters, wait_s=0.5, **more), counters  # type: ignore[arg-type]


def shown(rows: list[Row]) -> list[tuple[int, dict[str, object], Quality]]:
    return [(row.at_ns, dict(row.values), row.quality) for row in rows]


def test_fields_of_one_time_are_one_row_whatever_their_order() -> None:
    rows, counters = rows_of("ab")
    for name, at in [("a", 1), ("a", 2), ("b", 1), ("b", 2)]:
        rows.add(name, float(at), GOOD, at, 0.0)
    assert shown(rows.take()) == [(1, {"a": 1.0, "b": 1.0}, GOOD), (2, {"a": 2.0, "b": 2.0}, GOOD)]
    assert rows.take() == []
    assert counters == {}


def test_a_complete_row_ends_the_older_rows() -> None:
    rows, counters = rows_of("ab")
    rows.add("a", 1.0, GOOD, 1, 0.0)
    rows.add("b", 2.0, GOOD, 2, 0.0)
    rows.add("a", 2.0, GOOD, 2, 0.0)
    first, second = rows.take()
    assert (first.at_ns, first.values, first.quality) == (1, {"a": 1.0, "b": None}, Quality.UNCERTAIN)
    assert second.quality is GOOD
    assert counters == {"incomplete": 1}


def test_a_row_waits_for_wait_s() -> None:
    rows, _ = rows_of("ab")
    assert rows.due_s() is None
    rows.add("a", 1.0, GOOD, 1, 10.0)
    assert rows.due_s() == 10.5
    rows.expire(10.4)
    assert rows.take() == []
    rows.expire(10.5)
    assert [row.values for row in rows.take()] == [{"a": 1.0, "b": None}]


def test_with_hold_a_value_that_is_not_repeated_stays() -> None:
    rows, counters = rows_of("ab", hold=True)
    rows.add("a", 1.0, GOOD, 1, 0.0)
    rows.add("b", 5.0, GOOD, 1, 0.0)
    rows.add("a", 2.0, GOOD, 2, 0.0)
    rows.flush()
    assert shown(rows.take())[-1] == (2, {"a": 2.0, "b": 5.0}, GOOD)
    assert counters == {}


def test_with_align_fields_stamped_apart_join() -> None:
    rows, _ = rows_of("ab", align_ns=5)
    rows.add("a", 1.0, GOOD, 100, 0.0)
    rows.add("b", 1.0, GOOD, 104, 0.0)
    rows.add("a", 2.0, GOOD, 120, 0.0)
    rows.add("b", 2.0, GOOD, 117, 0.0)
    assert [row.at_ns for row in rows.take()] == [100, 120]


def test_the_gravest_quality_travels() -> None:
    rows, _ = rows_of("abc")
    for name, quality in (("a", Quality.UNCERTAIN), ("b", Quality.BAD), ("c", GOOD)):
        rows.add(name, None, quality, 1, 0.0)
    assert rows.take()[0].quality is Quality.BAD


def test_a_value_after_the_end_of_its_row_is_flagged() -> None:
    rows, counters = rows_of("ab")
    rows.add("a", 1.0, GOOD, 1, 0.0)
    rows.add("a", 2.0, GOOD, 2, 0.0)
    rows.flush()
    rows.add("b", 1.0, GOOD, 1, 0.0)
    rows.flush()
    assert [row.quality for row in rows.take()] == [
        Quality.UNCERTAIN,
        Quality.UNCERTAIN,
        Quality.TIME_BACKWARD,
    ]
    assert counters == {"incomplete": 3, "late": 1}


def test_open_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN", 10)
    rows, counters = rows_of("ab")
    for at in range(100):
        rows.add("a", 1.0, GOOD, at, 0.0)
    assert len(rows.take()) == 90
    assert counters["incomplete"] == 90


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8), st.integers(0, 99))), st.booleans())
def test_no_value_is_lost(arrivals: list[tuple[str, int, int]], expire: bool) -> None:
    rows, _ = rows_of("abc")
    out: list[Row] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_OPEN", 4)
        for now, (name, at, value) in enumerate(arrivals):
            rows.add(name, value, GOOD, at * 1_000_000, float(now))
            if expire:
                rows.expire(float(now))
            out += rows.take()
    rows.flush()
    out += rows.take()
    kept = sorted((name, value) for row in out for name, value in row.values.items() if value is not None)
    assert kept == sorted((name, value) for name, _, value in arrivals)
    assert all(set(row.values) == set("abc") for row in out)
    on_time = [row.at_ns for row in out if row.quality is not Quality.TIME_BACKWARD]
    assert all(a <= b for a, b in pairwise(on_time))


def stamped(rows: SampleRows, updates: int, stamps: dict[str, int], period: int) -> list[Row]:
    out = []
    for update in range(updates):
        for name, offset in stamps.items():
            rows.add(name, float(update), GOOD, (update + 1) * period + offset, 0.0)
        out += rows.take()
    return out


MS = 1_000_000


def auto(fields: str) -> SampleRows:
    return SampleRows(tuple(fields), Counter(), wait_s=60, stamps=Stamps(len(fields), 100 * MS))


@pytest.mark.parametrize("stamps", [{"a": 0, "b": -3, "c": -6, "d": -9}, {"a": 0, "b": 40, "c": 80, "d": 81}])
def test_fields_stamped_apart_are_one_row_by_themselves(stamps: dict[str, int]) -> None:
    rows = stamped(auto("abcd"), 50, {name: at * MS for name, at in stamps.items()}, 200 * MS)
    assert [row.values for row in rows] == [dict.fromkeys("abcd", float(at)) for at in range(50)]
    assert {row.quality for row in rows} == {GOOD}


def test_fields_stamped_alike_stay_exact_rows() -> None:
    rows = auto("abc")
    found = stamped(rows, 40, {"a": 0, "b": 0, "c": 0}, 20 * MS)
    assert [row.at_ns for row in found] == [20 * MS * at for at in range(1, 41)]
    rows.add("a", 1.0, GOOD, 2_000 * MS, 0.0)  # b was not sent: the next b is another row
    rows.add("b", 1.0, GOOD, 2_005 * MS, 0.0)
    rows.flush()
    assert [row.values for row in rows.take()] == [
        {"a": 1.0, "b": None, "c": None},
        {"a": None, "b": 1.0, "c": None},
    ]


def test_fields_that_change_at_times_of_their_own_stay_apart() -> None:
    rows = auto("ab")
    for at in range(100):
        rows.add("a", float(at), GOOD, at * 100 * MS, 0.0)
        if at % 10 == 0:
            rows.add("b", float(at), GOOD, at * 100 * MS + 40 * MS, 0.0)
    rows.flush()
    assert all(None in row.values.values() for row in rows.take())


def test_a_field_that_is_not_repeated_is_counted() -> None:
    rows, _ = rows_of("ab")
    rows.add("b", 1.0, GOOD, 0, 0.0)
    for at in range(1, 13):
        rows.add("a", 1.0, GOOD, at, 0.0)
        rows.expire(1.0)
    assert rows.missed["b"] == 12
    rows.add("b", 1.0, GOOD, 20, 0.0)
    assert "b" not in rows.missed
