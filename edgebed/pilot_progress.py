"""Sentences about a frozen plan: what it is, and how far its trial is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING

from wire.clock import NS_PER_MS, Clock
from wire.errors import WireError

if TYPE_CHECKING:
    from wire.pilot.frozen import FrozenPlan

ARRIVING_MS = 10_000  # from the end of a trial until its last data are stored, on a link that works
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def outline(frozen: FrozenPlan) -> str:
    """The pilot, its version, its design and its trial, by the clock of the plan."""
    from wire.pilot.schedule import local_text

    trial, plan = frozen.schedule.trial, frozen.plan
    zone, name = _zone(plan.windows.tz)
    start, end = (local_text(ms, zone) for ms in frozen.schedule.trial_ms)
    on = sum(period.arm == "on" for period in trial)
    return (
        f"{plan.pilot} version {frozen.version}, {plan.design.kind}, {len(trial)} periods of "
        f"{plan.design.unit} ({on} on), {start} to {end} {name}"
    )


def progress(frozen: FrozenPlan, now_ms: int) -> str:
    """Where the pilot is now, such as `trial, period 7 of 24, on; the trial is over in 2 min 50 s`."""
    schedule = frozen.schedule
    start, end = schedule.trial_ms
    found = schedule.at(now_ms)
    if now_ms >= end:
        return "the trial is over"
    to_come = f"the trial begins in {length(start - now_ms)}"
    if found is None:
        before = now_ms < schedule.periods[0].start_ms and schedule.periods[0].phase == "baseline"
        return f"{'before' if before else 'after'} the baseline; {to_come}"
    same = [each for each in schedule.periods if each.phase == found.phase]
    counted = f"period {same.index(found) + 1} of {len(same)}"
    if found.phase == "baseline":
        return f"baseline, {counted}; {to_come}"
    return f"trial, {counted}, {found.arm}; the trial is over in {length(end - now_ms)}"


async def follow(frozen: FrozenPlan, clock: Clock, say: Callable[[str], None]) -> None:
    """Say the progress now, at the start of each period, and when the trial is over; then return.

    It is over when its last data had the time to arrive: a report that is made sooner lacks them.
    """
    schedule = frozen.schedule
    end_ms = schedule.trial_ms[1]
    moments = [*(each.start_ms for each in schedule.periods), *schedule.trial_ms]
    while (now_ms := clock.now_ms()) < end_ms:
        say(progress(frozen, now_ms))
        await clock.sleep_until(min(each for each in moments if each > now_ms) * NS_PER_MS)
    await clock.sleep_until((end_ms + ARRIVING_MS) * NS_PER_MS)
    say(progress(frozen, end_ms))


def length(ms: int) -> str:
    """A time in its two largest units, such as `2 min 50 s`."""
    left, parts = max(0, -(-ms // 1_000)), []
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"


def _zone(name: str) -> tuple[tzinfo, str]:
    from wire.pilot.schedule import time_zone

    try:
        return time_zone(name), name
    except WireError:  # a plan of another machine
        return UTC, "UTC"
