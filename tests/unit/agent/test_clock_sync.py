"""The clock's state comes from the kernel; times from before the clock was set are corrected once."""

from __future__ import annotations

import re
import shutil
import subprocess

import msgspec
import pytest

from agent.clock_sync import (
    Stamps,
    Steps,
    TimeSync,
    kernel_error_ms,
    kernel_state,
    machine_boot,
    offset_ns,
    restamp,
)
from wire.clock import NS_PER_MS, Clock
from wire.messages import Batch, ClockState, Event

YEAR_MS = 31_557_600_000


def test_the_kernel_gives_a_state() -> None:
    assert kernel_state() in tuple(ClockState)


def test_it_agrees_with_timedatectl() -> None:
    if shutil.which("timedatectl") is None:
        pytest.skip("timedatectl is not installed")
    done = subprocess.run(["timedatectl", "show"], capture_output=True, text=True, check=False)
    found = re.search(r"^NTPSynchronized=(yes|no)$", done.stdout, re.MULTILINE)
    if found is None:
        pytest.skip("no systemd runs here")
    assert (kernel_state() is not ClockState.UNSYNCED) == (found[1] == "yes")


def test_it_is_asked_again_after_a_while() -> None:
    answers = iter([ClockState.UNSYNCED, ClockState.NTP])

    class Stepped(Clock):
        now_s = 0.0

        def monotonic(self) -> float:
            return self.now_s

    clock = Stepped()
    sync = TimeSync(clock, ask=lambda: next(answers))
    assert sync.state() is ClockState.UNSYNCED
    clock.now_s = 1.9
    assert sync.state() is ClockState.UNSYNCED
    clock.now_s = 2.1
    assert sync.state() is ClockState.NTP
    assert sync.state() is ClockState.NTP


def test_a_simulated_clock_is_right_by_definition() -> None:
    assert TimeSync(Clock(rate=20), ask=lambda: ClockState.UNSYNCED).state() is ClockState.NTP


class SetClock(Clock):
    """A clock whose wall and uptime are set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.up_ms, self.ahead_ms = 1_000_000, 0

    def now_ns(self) -> int:
        return (self.up_ms + 1_700_000_000_000 + self.ahead_ms) * NS_PER_MS

    def monotonic_ns(self) -> int:
        return self.up_ms * NS_PER_MS


def test_the_kernels_error_bound() -> None:
    error_ms = kernel_error_ms()
    assert (error_ms is None) == (kernel_state() is ClockState.UNSYNCED)
    assert error_ms is None or error_ms >= 0


def test_a_time_of_the_devices_own_clock_does_not_depend_on_this_clock() -> None:
    clock, state = SetClock(), ClockState.UNSYNCED
    stamps = Stamps(clock, lambda: state)
    now_ns, hour_ns = clock.now_ns(), 3_600_000 * NS_PER_MS
    offset_ns = now_ns - clock.monotonic_ns()
    assert stamps.of(now_ns - 1_000 * NS_PER_MS) == (ClockState.UNSYNCED, offset_ns)
    assert stamps.of(now_ns + hour_ns) == (None, None)
    state = ClockState.NTP
    assert stamps.of(now_ns + hour_ns) == (ClockState.NTP, None)


def test_a_reading_from_just_before_the_clock_was_set_is_corrected_from_there() -> None:
    clock = SetClock()
    stamps = Stamps(clock, lambda: ClockState.UNSYNCED)
    before_ns = clock.now_ns()
    offset_ns = before_ns - clock.monotonic_ns()
    assert stamps.of(before_ns) == (ClockState.UNSYNCED, offset_ns)
    clock.up_ms += 20
    clock.ahead_ms = 1_600_000_000_000
    assert stamps.of(before_ns + 10 * NS_PER_MS) == (ClockState.UNSYNCED, offset_ns)
    assert stamps.of(clock.now_ns()) == (ClockState.UNSYNCED, clock.now_ns() - clock.monotonic_ns())


def test_setting_the_clock_is_noticed_once_and_keeping_it_right_is_not() -> None:
    clock = SetClock()
    steps = Steps(clock)
    assert steps.look() == 0.0
    for ahead_ms, expected in (
        (100, 0.0),
        (200, 0.0),
        (3_600_200, 3_600.0),
        (3_600_200, 0.0),
        (200, -3_600.0),
    ):
        clock.up_ms += 1_000
        clock.ahead_ms = ahead_ms
        assert steps.look() == expected


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
def test_it_stays_within_the_times_of_the_contract(shift_ms: int) -> None:
    raw = restamp(
        msgspec.json.encode(Event(ts=5_000, type="alarm", clk=0)), Event, shift_ms * NS_PER_MS, ClockState.NTP
    )
    assert msgspec.json.decode(raw, type=Event).ts >= 0  # decoding checks the upper bound


def test_one_run_of_the_machine_has_one_name() -> None:
    assert machine_boot() == machine_boot()


def test_the_offset_changes_only_when_the_wall_clock_steps() -> None:
    clock = Clock(start_ns=10**18)
    assert offset_ns(clock) == pytest.approx(10**18, abs=10**6)
