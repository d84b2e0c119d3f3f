"""Sums what the nodes of a pilot used on each UTC day, from the records that they sent as events."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from collector.store.source import ALL, Source, read_cursor
from wire.errors import WireError
from wire.topics import NODE_ITSELF
from wire.usage import USAGE, Usage, read

DAY_MS = 86_400_000
PAGE = 500
MAX_PAGES = 8  # of one node: a node that sends each hour has 92 days in five
_PEAKS = ("peak_mb", "disk_mb")
_SUMS = tuple(name for name in Usage.__struct_fields__ if name not in _PEAKS)


@dataclass(slots=True)
class NodeUsage:
    """What one node used; `is_metered`: it sent a record at some time; `unread`: records that are wrong."""

    days: dict[str, Usage] = field(default_factory=dict)
    is_metered: bool = False
    unread: int = 0


def day_of(ms: int) -> str:
    """The UTC day of a time."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=min(ms // DAY_MS, 2_932_895))).isoformat()


def usage_between(source: Source, node: str, first: str, last: str) -> NodeUsage:
    """What a node used on the days `first..last`, from its newest records.

    A record counts once, however often it was sent: of those of one meter and day the largest numbers.
    """
    found, meters = NodeUsage(), dict[tuple[str, str], Usage]()
    # a day is recorded after it began; one day is for a clock that was set back
    begin_ms = (dt.date.fromisoformat(first) - dt.date(1970, 1, 2)).days * DAY_MS
    before = (ALL, "", 0)
    for _ in range(MAX_PAGES):
        page = source.events(node, NODE_ITSELF, limit=PAGE, before=before, kind=USAGE)
        for _, event in page:
            try:
                record = read(event.get("detail", {}))
                is_ahead = record.day > day_of(event["recv"] + DAY_MS)
            except (WireError, TypeError, ValueError):  # a type: damage made another one of a column
                found.unread += 1
                continue
            if is_ahead:  # the clock of the node is wrong
                found.unread += 1
                continue
            found.is_metered = True
            if first <= record.day <= last:
                key = record.day, record.meter
                meters[key] = _larger(record, meters.get(key, Usage()))
        if len(page) < PAGE or page[-1][1]["ts"] < begin_ms:
            break
        before = read_cursor(page[-1][0])
    for (day, _), used in meters.items():
        found.days[day] = total([used, found.days.get(day, Usage())])
    return found


def total(parts: Iterable[Usage]) -> Usage:
    """The sum of what was used; of memory and disk the most that one of them had."""
    each = [msgspec.structs.asdict(part) for part in parts]
    sums = {name: round(sum(one[name] for one in each), 3) for name in _SUMS}
    return Usage(**sums, **{name: max(one[name] for one in each) for name in _PEAKS})


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: max(getattr(one, name), getattr(other, name)) for name in Usage.__struct_fields__})
