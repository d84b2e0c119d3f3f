"""Gaps: a lost number stays open until a gap event that declares it is on disk."""

from __future__ import annotations

import pytest

from agent.outbox.gaps import GAP_REASONS, Gaps, reason_of
from wire.messages import Event


def test_a_number_is_open_until_its_gap_event_is_written() -> None:
    gaps = Gaps()
    assert (bool(gaps), gaps.lowest()) == (False, None)
    gaps.add("quota", [(3, 5)])
    gaps.add("disk", [(9, 9)])
    assert (bool(gaps), gaps.lowest()) == (True, 3)
    events = gaps.events(ts=1)
    assert [(each.why, each.n, each.lost) for each in events] == [
        ("quota", 3, [(3, 5)]),
        ("disk", 1, [(9, 9)]),
    ]
    for seq, event in enumerate(events, start=10):
        event.seq = seq
        gaps.numbered(event)
    assert (bool(gaps), gaps.lowest()) == (False, 3)
    gaps.written([10])
    assert gaps.lowest() == 9
    gaps.dropped(11)
    assert (bool(gaps), gaps.lowest()) == (True, 9)


def test_many_ranges_take_several_events_and_stay_bounded() -> None:
    gaps = Gaps()
    gaps.add("overload", ((seq, seq) for seq in range(1, 5_001, 2)))
    events = gaps.events(ts=1)
    assert [len(each.lost) for each in events] == [1_000, 1_000, 500]
    gaps.add("overload", ((seq, seq) for seq in range(1, 8_101, 2)))
    first = gaps.events(ts=1)[0]
    assert first.lost[0] == (1, 3), "two ranges became one that covers the number between them"


@pytest.mark.parametrize(("why", "reason"), [("torn", "torn"), ("of a later version", "damaged")])
def test_the_reason_in_an_event(why: str, reason: str) -> None:
    assert reason_of(Event(ts=1, type="gap", why=why)) == reason


@pytest.mark.parametrize(("count", "kept"), [(4_000, 4_000), (4_001, 2_001)])
def test_ranges_are_joined_beyond_a_limit(count: int, kept: int) -> None:
    gaps = Gaps()
    gaps.add("disk", [(3 * at, 3 * at + 1) for at in range(1, count + 1)])
    lost = [one for event in gaps.events(ts=7) for one in event.lost]
    assert len(lost) == kept
    assert (lost[0], lost[-1]) == (
        ((3, 4), (12_000, 12_001)) if kept == count else ((3, 7), (12_003, 12_004))
    )


def test_nothing_lost_leaves_nothing_open() -> None:
    gaps = Gaps()
    gaps.add("torn", [])
    assert (bool(gaps), gaps.lowest(), gaps.events(ts=1)) == (False, None, [])
    gaps.written([1])
    gaps.dropped(1)
    gaps.add("torn", [(4, 4), (2, 2)])
    (event,) = gaps.events(ts=9)
    assert (event.ts, event.type, event.sev, event.n, event.lost) == (9, "gap", 3, 2, [(2, 2), (4, 4)])


def test_the_reasons_are_those_of_the_contract() -> None:
    known = ("quota", "disk", "torn", "damaged", "too-large", "unencodable", "overload")
    assert known == GAP_REASONS
    assert tuple(reason_of(Event(ts=1, type="gap", why=why)) for why in known) == known
