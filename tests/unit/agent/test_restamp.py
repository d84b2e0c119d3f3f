"""Times from before the clock was set: moved once, as long as it is the same run of the machine."""

from __future__ import annotations

import msgspec
import pytest

from agent.restamp import machine_boot, offset_ns, restamp
from wire.clock import NS_PER_MS, Clock
from wire.messages import Batch, ClockState, Event

YEAR_MS = 31_557_600_000


def test_a_batch_moves_as_a_whole_and_keeps_its_identity() -> None:
    before = Batch(ep="abcdef0123", seq=7, t0=5_000, dt=[0, 10, 25], f={"x": [1, 2, None]}, clk=0)
    raw = restamp(msgspec.json.encode(before), Batch, 56 * YEAR_MS * NS_PER_MS, ClockState.NTP)
    after = msgspec.json.decode(raw, type=Batch)
    assert after.t0 == 5_000 + 56 * YEAR_MS
    assert (after.ep, after.seq, after.dt, after.f, after.clk) == ("abcdef0123", 7, [0, 10, 25], before.f, 1)


def test_an_event_moves() -> None:
    before = Event(ep="abcdef0123", seq=8, ts=5_000, type="alarm", detail={"x": 1}, clk=0)
    raw = restamp(msgspec.json.encode(before), Event, -2_000 * NS_PER_MS, ClockState.PTP)
    after = msgspec.json.decode(raw, type=Event)
    assert (after.ts, after.seq, after.detail, after.clk) == (3_000, 8, {"x": 1}, 2)


@pytest.mark.parametrize("shift_ms", [-(10**15), 10**15])
def test_it_stays_within_what_the_contract_can_say(shift_ms: int) -> None:
    raw = restamp(
        msgspec.json.encode(Event(ts=5_000, type="alarm", clk=0)), Event, shift_ms * NS_PER_MS, ClockState.NTP
    )
    assert msgspec.json.decode(raw, type=Event).ts >= 0  # decoding checks the upper bound


def test_one_run_of_the_machine_has_one_name() -> None:
    assert machine_boot() == machine_boot()


def test_the_offset_changes_only_when_the_wall_clock_steps() -> None:
    clock = Clock(start_ns=10**18)
    assert offset_ns(clock) == pytest.approx(10**18, abs=10**6)
