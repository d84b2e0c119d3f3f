"""Events of a period: their times, pairs of start and end, and alarms beside what really happened."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from collector.pilots.kpis.absences import DATA_CHANGED, Absence
from collector.pilots.kpis.rows import TooMany, absent_day
from collector.pilots.kpis.steps import Span
from collector.store.source import ALL, CHANGED, Source, newest_first

MAX_EVENTS = 200_000  # of one input in one period
_FARTHEST_S = 1e11  # of a step of a clock: a hostile one could be beyond all integers


class Occurred(NamedTuple):
    """An event: its time in us, and `id` of its detail, "" without one."""

    at_us: int
    id: str


def read_events(source: Source, node: str, path: str, span: Span) -> tuple[list[Occurred], list[Absence]]:
    """The events `device/name` of a node within a span in the order of time, and what cannot be read.

    Raises:
        TooMany: there are too many.
        EdgebedError: as every question to a source.
    """
    known, source.suspects = source.suspects, set()
    found = [Occurred(event["ts"] * 1000, _id(event)) for event in _within(source, node, path, span)]
    changed = changed_events(source, node, path, span)
    damaged = [absent_day(name) for name in sorted(source.suspects | source.damaged)]  # of both questions
    source.suspects |= known
    return sorted(found), [*damaged, *changed]


def changed_events(source: Source, node: str, path: str, span: Span) -> list[Absence]:
    """When events `device/name` of a node were or are that somebody changed, of those that meet a span."""
    device, _, kind = path.partition("/")  # a type that somebody wrote may have another /
    found = []
    for each in source.changed_events((node, device, kind), span[0] // 1000, -(-span[1] // 1000)):
        why = f"{node}/event/{path}, {each.where}"
        found += [Absence(at_ms * 1000, at_ms * 1000 + 1, DATA_CHANGED, why) for at_ms in each.times_ms]
        found += [] if each.times_ms else [Absence(-ALL, ALL, DATA_CHANGED, why)]
    return found


def clock_steps(source: Source, node: str, span: Span) -> list[tuple[int, float]]:
    """When the clock of a node was set within a span, in us, and by how many seconds it moved forward.

    Raises:
        TooMany: there are too many, so that one could hide among them.
    """
    return [
        (event["ts"] * 1000, max(-_FARTHEST_S, min(float(event["value"]), _FARTHEST_S)))
        for event in _within(source, node, "_/clock-step", span)
        if isinstance(event.get("value"), int | float)
    ]


def _within(source: Source, node: str, path: str, span: Span) -> Iterator[dict[str, Any]]:
    """The events `device/name` of a node within a span, the newest first, without those that were changed."""
    device, kind = path.split("/")
    # it ends before the moment that it names
    events = newest_first(source, node, device, -(-span[1] // 1000), kind, span[0] // 1000)
    for count, event in enumerate(takewhile(lambda each: each["ts"] * 1000 >= span[0], events), 1):
        if count > MAX_EVENTS:
            raise TooMany(f"{node} has more than {MAX_EVENTS:,} events {path}")
        if CHANGED not in event:
            yield event


def _id(event: dict[str, Any]) -> str:
    detail = event.get("detail")
    found = detail.get("id", "") if isinstance(detail, dict) else ""
    return str(found) if isinstance(found, str | int) else ""


def durations(starts: Sequence[Occurred], ends: Sequence[Occurred], span: Span) -> list[int]:
    """How long each took that ended within a span, in us.

    An end belongs to the start with its `id`. Without an `id`, the first to start is the first to end, and
    only those count that also started within the span.
    """
    found: list[int] = []
    by_id: dict[str, list[int]] = {}
    for start in starts:
        if start.id or start.at_us >= span[0]:
            by_id.setdefault(start.id, []).append(start.at_us)
    for end in ends:
        waiting = by_id.get(end.id, [])
        if waiting and waiting[0] <= end.at_us:
            started = waiting.pop(0)
            if span[0] <= end.at_us < span[1]:
                found.append(end.at_us - started)
    return found


def near(events: Sequence[int], others: Sequence[int], within_us: int) -> int:
    """How many events have another one at most `within_us` before or after them."""
    ordered = sorted(others)
    return sum(bisect_right(ordered, at + within_us) > bisect_left(ordered, at - within_us) for at in events)
