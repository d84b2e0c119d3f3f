"""The windows of a draft: whole periods from the first stored row on, and then the trial."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from wire.errors import EdgebedError
from wire.pilot.schedule import local_text, utc_ms

_LENGTH = re.compile(r"([1-9][0-9]{0,5})(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_EPOCH = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)  # by a local clock


def seconds(text: str) -> int | None:
    """The seconds of a time such as `20s`, `8h` or `2d`; None where it is not one."""
    found = _LENGTH.fullmatch(text)
    return int(found[1]) * _SECONDS[found[2]] if found else None


@dataclass(frozen=True, slots=True)
class Grid:
    """The moments at which periods may begin, numbered in the order of time.

    A period with a length begins at a whole multiple of it from the local midnight at `anchor_ms` on; days
    begin at midnight, and shifts at their starts, by the local clock.
    """

    unit: str
    zone: tzinfo
    anchor_ms: int
    shifts: tuple[str, ...] = ()

    def start_ms(self, number: int) -> int:
        """When period `number` begins."""
        step = seconds(self.unit)
        if step is not None:
            return self.anchor_ms + number * step * 1_000
        starts = self._starts()
        day, at = divmod(number, len(starts))
        hour, minute = starts[at]
        return utc_ms(_EPOCH + timedelta(days=day, hours=hour, minutes=minute), self.zone)

    def number(self, ms: int) -> int:
        """The period that a moment is in."""
        step = seconds(self.unit)
        if step is not None:
            return (ms - self.anchor_ms) // (step * 1_000)
        days = (datetime.fromtimestamp(ms / 1_000, self.zone).replace(tzinfo=None) - _EPOCH).days
        latest = (days + 1) * len(self._starts())
        return next(each for each in range(latest, -1, -1) if self.start_ms(each) <= ms)

    def text(self, number: int) -> str:
        """When period `number` begins, as a plan writes it."""
        return local_text(self.start_ms(number), self.zone)

    def _starts(self) -> Sequence[tuple[int, int]]:
        return sorted((int(each[:2]), int(each[3:])) for each in self.shifts or ("00:00",))


def midnight_ms(now_ms: int, zone: tzinfo) -> int:
    """The start of the local day of a moment."""
    local = datetime.fromtimestamp(now_ms / 1_000, zone)
    return utc_ms(local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None), zone)


@dataclass(frozen=True, slots=True)
class Windows:
    """Baseline and trial as numbers of periods; `stored` periods of the baseline have rows already."""

    baseline: tuple[int, int]
    trial: tuple[int, int]
    stored: int


def choose(
    grid: Grid, has_rows: Sequence[int], now_ms: int, *, baseline: int, periods: int, lead_s: int
) -> Windows:
    """The windows of a trial of `periods` after `baseline` periods.

    `has_rows` are the whole periods before now that have stored rows. The baseline is the newest of them, or
    begins with the first and ends in the future. The trial begins `lead_s` after it, or after now.
    """
    if not has_rows:
        raise EdgebedError(
            "no whole period with rows of this node is stored: is its device read? Try again later"
        )
    present = grid.number(now_ms)
    begin = has_rows[0]
    if present - begin >= baseline:
        begin = present - baseline
    end = begin + baseline
    ready_ms = max(now_ms, grid.start_ms(end)) + lead_s * 1_000
    start = grid.number(ready_ms - 1) + 1
    return Windows((begin, end), (start, start + periods), sum(begin <= each < end for each in has_rows))
