"""Sentences about a frozen plan, by the clock of the plan."""

from __future__ import annotations

import pytest

from edgebed.pilot_progress import ARRIVING_MS, follow, length, outline, progress
from tests.unit.wire.pilot.plans import changed
from wire.clock import NS_PER_MS, Clock
from wire.pilot.frozen import freeze
from wire.pilot.plan import parse

FROZEN = freeze(parse(changed(), "pilot.yaml"))
START, END = FROZEN.schedule.trial_ms


def test_the_outline_has_the_times_of_the_zone() -> None:
    expected = "trial-1 version 1, switchback, 20 periods of 8h (10 on), 2027-03-01 06:00 to 2027-03-07 22:00"
    assert outline(FROZEN) == f"{expected} Asia/Seoul"


@pytest.mark.parametrize(
    ("now_ms", "said"),
    [
        (START - 40 * 86_400_000, "before the baseline; the trial begins in 40 d"),
        (START - 6 * 3_600_000 - 1, "baseline, period 84 of 84; the trial begins in 6 h"),
        (START - 6 * 3_600_000, "after the baseline; the trial begins in 6 h"),
        (START, "trial, period 1 of 20, on; the trial is over in 6 d 16 h"),
        (END - 90_000, "trial, period 20 of 20, off; the trial is over in 1 min 30 s"),
        (END, "the trial is over"),
    ],
)
def test_the_progress_names_period_and_time(now_ms: int, said: str) -> None:
    assert progress(FROZEN, now_ms) == said


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 s"),
        (1, "1 s"),
        (170_000, "2 min 50 s"),
        (90_061_000, "1 d 1 h"),
        (3_601_000, "1 h"),
        (3_660_000, "1 h 1 min"),
    ],
)
def test_a_length_has_two_units(ms: int, text: str) -> None:
    assert length(ms) == text


class Jumping(Clock):
    """A clock on which each sleep is over at once."""

    def __init__(self, at_ms: int) -> None:
        super().__init__()
        self.at_ns = at_ms * NS_PER_MS

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.at_ns = at_ns


async def test_each_switch_is_said_until_the_trial_is_over() -> None:
    said: list[str] = []
    clock = Jumping(END - 2 * 28_800_000 - 1_000)
    await follow(FROZEN, clock, said.append)
    assert [each.partition(";")[0].rpartition(", ")[0] for each in said] == [
        *(f"trial, period {number} of 20" for number in (18, 19, 20)),
        "",
    ]
    assert said[-1] == "the trial is over"
    assert clock.now_ms() == END + ARRIVING_MS, "its last data had the time to arrive"
