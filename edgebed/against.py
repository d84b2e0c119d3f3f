"""Compares the ledgers of two collectors that should have the same messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from collector.ledger.holdings import Difference, Holding, Page, differences, pages, settled
from collector.ledger.ledger import Ledger
from collector.ledger.report import ReportFilter
from edgebed.collector_api import CollectorApi
from wire.errors import EdgebedError
from wire.printable import counted
from wire.ranges import Ranges

SETTLE_S = 3.0  # messages in flight reach both collectors in this time
SHOWN = 20  # ranges in a line

Look = Callable[[], Iterable[Holding]]


class Compared(NamedTuple):
    """Two collectors by name, how many messages the first has, and where they differ."""

    here: str
    there: str
    messages: int
    found: list[Difference]


def of_store(store: Path, wanted: ReportFilter) -> Iterator[Holding]:
    """What the files of a store have; its collector may run."""
    from collector.store.store import peek

    saved = peek(store)
    yield from pages(Ledger(saved.marks, saved.states), wanted)


def of_collector(api: CollectorApi, wanted: ReportFilter) -> Iterator[Holding]:
    """What a running collector has.

    Raises:
        EdgebedError: it is not a collector, or too old for this.
    """
    after = ""
    while True:
        asked = {"node": wanted.node, "pilot": wanted.pilot, "after": after}
        try:
            found = msgspec.convert(api.ask("outboxes", asked), Page)
        except msgspec.ValidationError as error:
            raise EdgebedError(f"{api.url} is not a collector: {error}") from error
        yield from found.outboxes
        if not found.next:
            return
        if found.next <= after:
            raise EdgebedError(f"{api.url} gives the same outboxes without end")
        after = found.next


def name_of(api: CollectorApi) -> str:
    """The id of a running collector."""
    health = api.ask("health")
    name = health.get("id") if isinstance(health, dict) else None
    return name if isinstance(name, str) else api.url


def compare(here: Look, there: Look, names: tuple[str, str]) -> Compared:
    """Look once, and where they differ again a few seconds later: what is in flight is not a difference."""
    mine = list(here())
    before = differences(mine, there())
    count = sum(Ranges(one.stored).count() for one in mine)
    if not before:
        return Compared(*names, count, [])
    time.sleep(SETTLE_S)
    return Compared(*names, count, settled(before, differences(here(), there())))


def lines(compared: Compared) -> Iterator[str]:
    """The result as text."""
    here, there, messages, found = compared
    for one in found:
        yield f"{one.node}  ep {one.ep}"
        yield from _lacks(here, one.here_lacks, one.here_lost)
        yield from _lacks(there, one.there_lacks, one.there_lost)
        if one.rows:
            more, fewer = (here, there) if one.rows > 0 else (there, here)
            yield f"  {more} has {counted(abs(one.rows), 'row')} more than {fewer} in the same messages"
    if not found:
        yield f"{here} and {there} have the same {counted(messages, 'message')}"
        return
    lacking = (
        (here, sum(one.here_lacks.count() for one in found)),
        (there, sum(one.there_lacks.count() for one in found)),
    )
    yield "; ".join(f"{name} lacks {counted(count, 'message')}" for name, count in lacking)


def as_json(compared: Compared) -> Mapping[str, Any]:
    """The result for programs."""
    here, there, messages, found = compared
    outboxes = [
        {
            "node": one.node,
            "ep": one.ep,
            "here_lacks": list(one.here_lacks),
            "there_lacks": list(one.there_lacks),
            "here_lost": one.here_lost,
            "there_lost": one.there_lost,
            "rows": one.rows,
        }
        for one in found
    ]
    return {"here": here, "there": there, "messages": messages, "outboxes": outboxes}


def _lacks(name: str, numbers: Ranges, lost: int) -> Iterator[str]:
    if numbers:
        parts = [str(first) if first == last else f"{first}-{last}" for first, last in list(numbers)[:SHOWN]]
        more = f" and {len(numbers) - SHOWN} more ranges" if len(numbers) > SHOWN else ""
        known = f" ({counted(lost, 'message')} of them declared lost there)" if lost else ""
        yield f"  {name} lacks {numbers.count():,}: {', '.join(parts)}{more}{known}"
