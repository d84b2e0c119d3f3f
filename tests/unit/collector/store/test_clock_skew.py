"""How far a node's clock is off, from the delays of its heartbeats."""

from __future__ import annotations

from typing import Any

import pytest

from collector.fleet.fleet import Fleet
from collector.ledger.ledger import Ledger
from collector.store.clock_skew import Offset
from wire.topics import parse

NODE, EP, T0 = "acme/trial/hall/cobot-01", "00112233aabbccdd", 1_795_356_000_000


BEAT = parse(f"tb1/{NODE}/live/_/agent")


@pytest.fixture
def fleet(clock: Any) -> Fleet:
    return Fleet(clock, Ledger())


def view(fleet: Fleet) -> Any:
    (found,) = fleet.views(NODE)
    return found


def test_the_offset_is_known_up_to_the_delays(fleet: Fleet, clock: Any) -> None:
    """A clock 60 s behind, 40 ms up and 20 ms down: the true offset is within the claimed error."""
    for more in (500, 0, 80):
        clock.ms += 15_000
        beat = {"ts": clock.ms - 60_000 - 40 - more, "ack_ms": 20 - 60_000 + more, "uptime_s": 1.0, "clk": 1}
        fleet.on_live(BEAT, beat, clock.ms, retained=False)
    seen = view(fleet)
    assert (seen.clk, seen.skew_ms, seen.uncertainty_ms) == (1, 60_010, 31)
    assert abs(seen.skew_ms - 60_000) <= seen.uncertainty_ms


def test_a_clock_that_is_set_starts_a_new_estimate(fleet: Fleet, clock: Any) -> None:
    for ahead_ms in (0, 0, 3_600_000, 3_600_000, 0):
        clock.ms += 15_000
        ts = clock.ms + ahead_ms
        beat = {"ts": ts - 30, "boot": "00ff", "uptime_s": clock.ms / 1000, "ack_ms": ahead_ms + 10}
        fleet.on_live(BEAT, beat, clock.ms, retained=False)
        assert fleet.offset(NODE) == Offset(10 - ahead_ms, 21)


def test_contradicting_delays_give_no_error_bound(fleet: Fleet, clock: Any) -> None:
    fleet.on_live(BEAT, {"ts": clock.ms - 100, "ack_ms": -5_000}, clock.ms, retained=False)
    assert fleet.offset(NODE) == Offset(100, None)
    assert fleet.offset("acme/trial/hall/nobody") == Offset(None, None)
