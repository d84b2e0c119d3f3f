"""What a node used on one UTC day: the body of `event/_/usage`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from wire.errors import WireError

USAGE = "usage"

Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
MeterId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Amount = Annotated[float, Meta(ge=0, le=1e9)]


class Usage(Struct):
    """What was used on one day; `disk_mb` is the largest outbox, `peak_mb` the most resident memory."""

    cpu_s: _Amount = 0.0
    peak_mb: _Amount = 0.0
    disk_mb: _Amount = 0.0
    sent_bytes: _Count = 0
    inferences: _Count = 0
    skipped: _Count = 0


class DayUsage(Usage, kw_only=True):
    """`detail` of a usage event: all that one meter counted on a day so far.

    Two records of the same meter and day are one: the larger of each number. A meter that lost its file is
    another meter, which begins at 0: records of several meters add up.
    """

    day: Day
    meter: MeterId


def read(detail: Mapping[str, Any]) -> DayUsage:
    """The record in the `detail` of an event.

    Raises:
        WireError: `detail` is not a record.
    """
    try:
        found = msgspec.convert(dict(detail), DayUsage)
        dt.date.fromisoformat(found.day)  # the pattern lets 2026-02-31 pass
    except ValueError as error:
        raise WireError(f"not a usage record: {error}") from error
    return found
