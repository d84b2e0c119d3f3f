"""A line of one kind now and then, however often it is asked for; nobody fills the log with new kinds."""

from __future__ import annotations

from wire.log_rate_limit import Seldom


def test_one_of_a_kind_and_then_how_many_were_left_out() -> None:
    now = [0.0]
    seldom = Seldom(10.0, now=lambda: now[0])
    assert [seldom.since("a"), seldom.since("a"), seldom.since("b"), seldom.since("a")] == [0, None, 0, None]
    now[0] = 10.0
    assert [seldom.since("a"), seldom.since("a"), seldom.since("b")] == [2, None, 0]


def test_new_kinds_without_end_fill_neither_log_nor_memory() -> None:
    now = [0.0]
    seldom = Seldom(10.0, most=5, now=lambda: now[0])
    told = [seldom.since(kind) for kind in range(1000)]
    assert told.count(0) == 5
    assert len(seldom._told) == 5
    now[0] = 11.0
    assert seldom.since("later") == 0
