"""Acknowledgement delay: the smallest of the last five minutes, measured again when the clock is set."""

from __future__ import annotations

from agent.uplink.ack_delay import AckDelay
from wire.clock import NS_PER_MS, Clock


class SetClock(Clock):
    """A clock whose wall and uptime are set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.up_ms, self.ahead_ms = 1_000_000, 0

    def now_ns(self) -> int:
        return (self.up_ms + 1_700_000_000_000 + self.ahead_ms) * NS_PER_MS

    def monotonic_ns(self) -> int:
        return self.up_ms * NS_PER_MS


def test_the_least_delay_of_five_minutes_and_none_from_before_a_step() -> None:
    clock, delay = SetClock(), AckDelay()
    assert delay.least(clock) is None
    for ms in (50, 9, 70):
        delay.add(ms, clock)
        clock.up_ms += 100
    assert delay.least(clock) == 9
    clock.up_ms += 200_000
    delay.add(30, clock)
    assert delay.least(clock) == 9
    clock.up_ms += 200_000
    assert delay.least(clock) == 30
    clock.ahead_ms = 3_600_000
    delay.add(3_600_030, clock)
    assert delay.least(clock) == 3_600_030
