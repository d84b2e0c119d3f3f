"""Which of the named collectors is behind, and when what it lacks is read again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agent.uplink import collectors, in_flight
from agent.uplink.collectors import Collectors

ONE, TWO = "collector-1", "collector-2"


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"RESEND_S": 2.0, "AWAY_S": 1.0, "SETTLE_S": 1.0}.items():
        monkeypatch.setattr(collectors, name, seconds)


def test_a_collector_is_behind_while_another_acknowledges_what_it_lacks() -> None:
    known = Collectors((ONE, TWO))
    known.acked(ONE, [TWO], 100.0)
    assert not known.is_away(100.5)
    assert known.is_away(101.5)
    assert known.behind(399.0) is None
    assert known.behind(401.0) == (TWO, 301.0)
    known.acked(TWO, [], 402.0)
    assert (known.is_away(500.0), known.behind(1000.0)) == (False, None)


def test_no_collector_is_behind_while_none_acknowledges() -> None:
    """The link is cut: no collector is at fault."""
    known = Collectors((ONE, TWO))
    known.acked(ONE, [TWO], 1.0)
    known.acked(TWO, [], 2.0)
    assert known.behind(10_000.0) is None


def test_what_it_lacks_is_read_again_when_it_is_back_and_seldom_where_that_does_not_help() -> None:
    known = Collectors((ONE, TWO))
    known.acked(ONE, [TWO], 0.0)
    assert not [at for at in range(100) if known.is_rewind_due(float(at), aside=True)]
    known.acked(TWO, [], 100.0)
    due = [at for at in range(101, 3000) if known.is_rewind_due(float(at), aside=True)]
    assert due[0] == 101
    pauses = [after - before for before, after in pairwise(due)]
    assert pauses[:3] == [4, 8, 16]
    assert max(pauses) == in_flight.RESEND_MAX_S
    assert not known.is_rewind_due(9_000.0, aside=False)
    assert not known.is_rewind_due(9_001.0, aside=True)
    assert known.is_rewind_due(9_003.0, aside=True), "the interval is short again"


def test_sending_stops_when_every_collector_refuses() -> None:
    known = Collectors((ONE, TWO))
    assert known.refused(ONE, 30.0, 100.0) == 0.0
    assert known.refused(TWO, 20.0, 105.0) == 20.0
    assert Collectors(()).refused("any", 7.0, 1.0) == 7.0


def test_without_names_any_collector_counts() -> None:
    assert Collectors(()).counts("any")
    assert not Collectors((ONE,)).counts(TWO)
