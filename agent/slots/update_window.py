"""The time window for versions: days and times of day, in a time zone, at which another version may begin."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct

from adapters.base import OptionsError
from adapters.device_time import time_zone

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WHOLE_DAY = ("00:00-24:00",)
_AHEAD = 8  # days; a week after today every window has begun once
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Span = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)\Z")]


class UpdateWindow(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When another version of a model may begin to run, by the clock of the device."""

    days: Annotated[
        tuple[Day, ...], Meta(max_length=7, description="On these days; if empty, on every day.")
    ] = ()
    times: Annotated[
        tuple[Span, ...],
        Meta(
            max_length=24,
            description="At these times, as 22:00-05:00, which begins on one of `days` and ends on the next"
            " one; if empty, the whole day.",
        ),
    ] = ()
    timezone: Annotated[str, Meta(description="Time zone, as Asia/Seoul.")] = "UTC"

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """The keys with values that cannot work, each with a sentence."""
        for each in self.times:
            begin, _, end = each.partition("-")
            if begin == end:
                yield "times", f"{each} begins and ends at the same time: leave `times` out for the whole day"
        try:
            time_zone(self.timezone)
        except OptionsError as error:
            yield "timezone", str(error)

    def opens(self, now_ms: int) -> datetime | None:
        """When it opens next, in its time zone; None while it is open."""
        if not self.days and not self.times:
            return None
        now = datetime.fromtimestamp(now_ms / 1_000, time_zone(self.timezone))
        begins = []
        for begin, end in self._spans(now.date()):
            # in UTC: between two times of one zone Python does not see a change to summer time
            if begin.astimezone(UTC) <= now.astimezone(UTC) < end.astimezone(UTC):
                return None
            if begin.astimezone(UTC) > now.astimezone(UTC):
                begins.append(begin)
        return min(begin.astimezone(UTC) for begin in begins).astimezone(now.tzinfo)

    def _spans(self, today: date) -> Iterator[tuple[datetime, datetime]]:
        """Every span from yesterday on."""
        for ahead in range(-1, _AHEAD + 1):
            day = today + timedelta(days=ahead)
            if self.days and _DAYS[day.weekday()] not in self.days:
                continue
            for each in self.times or _WHOLE_DAY:
                begin, _, end = each.partition("-")
                yield self._at(day, begin), self._at(day + timedelta(days=end <= begin), end)

    def _at(self, day: date, text: str) -> datetime:
        hour, minute = (int(part) for part in text.split(":"))
        day += timedelta(days=hour // 24)
        zone = time_zone(self.timezone)
        return datetime(day.year, day.month, day.day, hour % 24, minute, tzinfo=zone)
