"""At most one line of a kind per period, and a bounded number of kinds."""

from __future__ import annotations

from wire.log_rate_limit import LogRateLimit


def test_one_line_of_a_kind_and_the_number_of_skipped_ones() -> None:
    now = [0.0]
    limit = LogRateLimit(10.0, now=lambda: now[0])
    assert [limit.since("a"), limit.since("a"), limit.since("b"), limit.since("a")] == [0, None, 0, None]
    now[0] = 10.0
    assert [limit.since("a"), limit.since("a"), limit.since("b")] == [2, None, 0]


def test_endless_new_kinds_fill_neither_log_nor_memory() -> None:
    now = [0.0]
    limit = LogRateLimit(10.0, most=5, now=lambda: now[0])
    written = [limit.since(kind) for kind in range(1000)]
    assert written.count(0) == 5
    assert len(limit._written) == 5
    now[0] = 11.0
    assert limit.since("later") == 0


def test_a_kind_that_is_due_again_is_kept_while_others_make_room() -> None:
    now = [0.0]
    limit = LogRateLimit(10.0, most=2, now=lambda: now[0])
    assert [limit.since("old"), limit.since("old")] == [0, None]
    now[0] = 5.0
    assert limit.since("young") == 0
    assert limit.since("third") is None, "two kinds are known"
    now[0] = 10.0
    assert limit.since("third") == 0, "the old kind made room"
    assert limit.since("young") is None, "its line is five seconds old"


def test_the_defaults_are_a_line_in_ten_minutes_of_a_hundred_kinds() -> None:
    now = [0.0]
    limit = LogRateLimit(now=lambda: now[0])
    assert [limit.since(kind) for kind in range(101)] == [0] * 100 + [None]
    now[0] = 599.0
    assert limit.since(0) is None
    now[0] = 600.0
    assert limit.since(0) == 1
