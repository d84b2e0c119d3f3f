"""Gaps: a lost number stays open until a gap event that declares it is on disk."""

from __future__ import annotations

import pytest

from agent.outbox.gaps import Gaps, reason_of
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
