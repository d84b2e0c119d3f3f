"""The clock's state: asked of the kernel, not too often, and never of a simulated clock."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from agent.timesync import TimeSync, kernel_state
from wire.clock import Clock
from wire.messages import ClockState


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
