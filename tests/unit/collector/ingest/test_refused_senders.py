"""Refused senders are tallied in a bounded place: the worst stay, however many names are invented."""

from __future__ import annotations

from collector.ingest.refused_senders import KEPT_S, MOST, RefusedSenders
from wire.reasons import because

WHY = because("too fast")


def test_the_worst_come_first_and_each_only_while_it_is_refused() -> None:
    tally = RefusedSenders()
    for name, count in (("few", 3), ("many", 50)):
        assert [tally.add(name, WHY, 1.0) for _ in range(count)] == [True, *[False] * (count - 1)]
    assert [(one.name, one.count) for one in tally.take_new(1.0)] == [("many", 50), ("few", 3)]
    assert tally.take_new(2.0) == []
    assert tally.add("few", WHY, 3.0)
    assert [(one.name, one.count) for one in tally.take_new(3.0)] == [("few", 4)]
    tally.add("few", WHY, 3.0 + KEPT_S)
    tally.add("new", WHY, 3.0 + KEPT_S)
    assert [one.name for one in tally.take_new(3.0 + KEPT_S)] == ["few", "new"]
    tally.take_new(3.0 + 2 * KEPT_S)
    tally.add("few", WHY, 3.0 + 2 * KEPT_S)
    assert [one.count for one in tally.take_new(3.0 + 2 * KEPT_S)] == [1], "its count began again"


def test_invented_names_displace_no_sender_with_more() -> None:
    tally = RefusedSenders()
    for at in range(10 * MOST):
        tally.add(f"invented {at}", WHY, 1.0)
        if at % 100 == 0:
            tally.add("steady", WHY, 1.0)
    found = tally.take_new(1.0)
    assert (found[0].name, found[0].count) == ("steady", MOST // 10)
    assert len(found) <= MOST
