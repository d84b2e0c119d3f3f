"""The schedule of a pilot: its periods as times of UTC, and which of them were drawn to be on.

The draw is public, so that an agent, a collector and a third party in any language come to the same. With
the seed and the number as decimal text, the first byte of SHA-256 decides:

- switchback, pair k = 0, 1 ...: SHA-256 of `edgebed switchback SEED k`; an even first byte is on before off;
- parallel: the machines in the order of SHA-256 of `edgebed machine SEED MACHINE`; the first are treated;
- start: the date with the number (first 8 bytes of SHA-256 of `edgebed start SEED`, big end first) modulo
  the number of dates.
"""

from __future__ import annotations

import hashlib
import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from msgspec import Struct

from wire.errors import WireError
from wire.messages import Millis
from wire.pilot.plan import MAX_PERIODS, Design, Plan, Window

Phase = Literal["baseline", "trial"]
Arm = Literal["off", "on"]
_SECONDS = {"s": 1, "min": 60, "h": 3_600}
_LENGTH = re.compile(r"([0-9]+)(s|min|h)")


class Period(Struct, frozen=True, array_like=True):
    """One period: `[start_ms, end_ms, phase, arm]`, from the start up to before the end.

    In a parallel design `on` is for the treated machines alone.
    """

    start_ms: Millis
    end_ms: Millis
    phase: Phase
    arm: Arm


class Schedule(Struct, frozen=True, kw_only=True):
    """Every period in the order of time, and the machines that a parallel design treats."""

    periods: tuple[Period, ...]
    treated: tuple[str, ...] = ()

    @property
    def trial(self) -> tuple[Period, ...]:
        """The periods of the trial."""
        return tuple(period for period in self.periods if period.phase == "trial")

    @property
    def trial_ms(self) -> tuple[int, int]:
        """The first moment of the trial, and the first after it."""
        trial = self.trial
        return trial[0].start_ms, trial[-1].end_ms

    @property
    def baseline_ms(self) -> tuple[int, int] | None:
        """The first moment of the baseline, and the first after it."""
        found = [period for period in self.periods if period.phase == "baseline"]
        return (found[0].start_ms, found[-1].end_ms) if found else None

    def at(self, now_ms: int) -> Period | None:
        """The period at a moment; None between the windows and outside of them."""
        return next((each for each in self.periods if each.start_ms <= now_ms < each.end_ms), None)


def schedule(plan: Plan) -> Schedule:
    """The periods of a plan.

    Raises:
        WireError: a time, the zone or the number of periods is wrong; the text says which.
    """
    zone, design = time_zone(plan.windows.tz), plan.design
    baseline = [] if plan.windows.baseline is None else spans(plan.windows.baseline, design, zone)
    trial = spans(plan.windows.trial, design, zone)
    if len(trial) != design.periods:
        raise WireError(
            f"the trial has {len(trial)} periods of {design.unit}, and design.periods is {design.periods}"
        )
    groups = design.groups
    treated: tuple[str, ...] = ()
    arms: list[Arm] = ["on"] * len(trial)
    if design.kind == "switchback":
        arms = switchback(design.seed, len(trial))
    elif design.kind == "parallel" and groups is not None:
        treated = drawn_machines(design.seed, groups.machines, groups.treated or 0)
        if groups.starts:
            first_ms = utc_ms(drawn_start(design.seed, groups.starts), zone)
            arms = ["on" if start >= first_ms else "off" for start, _ in trial]
    return Schedule(
        periods=(
            *(Period(start, end, "baseline", "off") for start, end in baseline),
            *(Period(*span, "trial", arm) for span, arm in zip(trial, arms, strict=True)),
        ),
        treated=treated,
    )


def counted(period: Period, plan: Plan, trial_start_ms: int) -> tuple[int, int]:
    """The part of a period that counts: without its wash-out, and without the settling of the trial."""
    start = period.start_ms
    if period.phase == "trial":
        settled = trial_start_ms + round(plan.design.settle_s * 1000)
        start = max(start + round(plan.design.washout_s * 1000), min(settled, period.end_ms))
    return min(start, period.end_ms), period.end_ms


def switchback(seed: int, periods: int) -> list[Arm]:
    """On and off, drawn within pairs of neighbouring periods; a period without a partner is off."""
    arms: list[Arm] = []
    for pair in range(periods // 2):
        arms += ["off", "on"] if _hash(f"switchback {seed} {pair}")[0] % 2 else ["on", "off"]
    return arms + ["off"] * (periods % 2)


def drawn_machines(seed: int, machines: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The machines that are treated, sorted by name."""
    order = sorted(machines, key=lambda machine: _hash(f"machine {seed} {machine}"))
    return tuple(sorted(order[:count]))


def drawn_start(seed: int, starts: tuple[str, ...]) -> str:
    """The one of several starts that is used."""
    return starts[int.from_bytes(_hash(f"start {seed}")[:8]) % len(starts)]


def time_zone(name: str) -> tzinfo:
    """A time zone by its name.

    Raises:
        WireError: this machine does not know it.
    """
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise WireError(
            f"the time zone {name!r} is not known on this machine: use e.g. Asia/Seoul"
        ) from error


def local_time(text: str) -> datetime:
    """The time that a plan writes, without a zone.

    Raises:
        WireError: there is no such day or hour.
    """
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError as error:
        raise WireError(f"{text!r} is not a date and time such as 2027-03-01 06:00") from error


def utc_ms(local: datetime | str, zone: tzinfo) -> int:
    """A local time as ms of UTC.

    A time that the clocks pass twice is the first of the two. A time that they skip is counted with the
    offset before the change: 02:30 is then the moment that the clocks show as 03:30.
    """
    if isinstance(local, str):
        local = local_time(local)
    return round(local.replace(tzinfo=zone, fold=0).timestamp() * 1000)


def local_text(ms: int, zone: tzinfo) -> str:
    """A moment as a plan writes it, with seconds only where there are any."""
    local = datetime.fromtimestamp(ms // 1_000, UTC).astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S}" if local.second else f"{local:%Y-%m-%d %H:%M}"


def spans(window: Window, design: Design, zone: tzinfo) -> list[tuple[int, int]]:
    """The whole periods of a window; days and shifts follow the local clock, so that some have 23 or 25 h.

    Raises:
        WireError: a time is wrong, a rest is left over, or there are too many periods.
    """
    end_ms = utc_ms(window.end, zone)
    found: list[tuple[int, int]] = []
    for start, end in _cuts(window, design, zone):
        if end > end_ms:
            raise WireError(
                f"the window ends within a period of {design.unit}, after {len(found)} whole ones"
            )
        found.append((start, end))
        if len(found) > MAX_PERIODS:
            raise WireError(f"the window has more than {MAX_PERIODS} periods of {design.unit}")
        if end == end_ms:
            return found
    raise WireError("the window ends before it starts")


def _cuts(window: Window, design: Design, zone: tzinfo) -> Iterator[tuple[int, int]]:
    start = local_time(window.start)
    start_ms, end_ms = utc_ms(start, zone), utc_ms(window.end, zone)
    if length := _LENGTH.fullmatch(design.unit):
        step_ms = int(length[1]) * _SECONDS[length[2]] * 1000
        while start_ms < end_ms:
            yield start_ms, (start_ms := start_ms + step_ms)
        return
    while start_ms < end_ms:
        start = start + timedelta(days=1) if design.unit == "day" else _next_shift(start, design.shifts)
        yield start_ms, (start_ms := utc_ms(start, zone))


def _next_shift(start: datetime, shifts: tuple[str, ...]) -> datetime:
    """The first start of a shift after `start`."""
    starts = sorted((int(text[:2]), int(text[3:])) for text in shifts)
    if (start.hour, start.minute) not in starts or start.second:
        raise WireError(f"the window starts at {start:%H:%M}, and no shift does: {', '.join(shifts)}")
    at = starts.index((start.hour, start.minute)) + 1
    hour, minute = starts[at % len(starts)]
    return start.replace(hour=hour, minute=minute) + timedelta(days=at // len(starts))


def _hash(text: str) -> bytes:
    return hashlib.sha256(f"edgebed {text}".encode()).digest()
