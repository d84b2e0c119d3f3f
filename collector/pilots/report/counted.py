"""Compares how many rows and events of a pilot's inputs are stored with what the ledger counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from collector.ledger.ledger import Ledger
from collector.pilots.report.document import Finding
from collector.pilots.report.sources import paths
from collector.store.source import ALL, Source
from wire.pilot.plan import Plan

_OF_PILOTS = (("_", "pilot"), ("_", "exposure"))


def counted(
    plan: Plan, source: Source, ledger: Ledger, newest: Callable[[], Ledger] | None = None
) -> Iterator[Finding]:
    """A finding for each input whose rows are fewer or more than those that came.

    The ledger counts each message once, when it is stored; nodes sign the same numbers. So rows that somebody
    removed or added afterwards are found, also where their sums by minute were changed with them. `newest`
    gives the ledger after the rows were counted, where `ledger` is a copy: messages come meanwhile.
    """
    fields, kinds = paths(plan)
    before = {node: _by_ledger(ledger, node) for node in plan.nodes}
    found: dict[str, dict[str, int]] = {}
    for node in plan.nodes:
        mine = found.setdefault(node, {})
        for device, stream in sorted(fields):
            rows = round(source.rows_between((node, device, stream), -ALL, ALL))
            mine[f"data/{device}/{stream}"] = rows
        for device, kind in sorted({*kinds, *_OF_PILOTS}):
            mine[f"event/{device}/{kind}"] = _events(source, node, device, kind)
    later = ledger if newest is None else newest()
    for node, streams in found.items():
        (known, is_whole), (after, still_whole) = before[node], _by_ledger(later, node)
        for stream, rows in streams.items():
            where = f"{node}/{stream}"
            if stream in known and rows < known[stream]:
                yield Finding(code="rows-fewer", where=where, args={"rows": rows, "counted": known[stream]})
            elif is_whole and still_whole and rows > after.get(stream, 0):
                counted_now = after.get(stream, 0)
                yield Finding(code="rows-more", where=where, args={"rows": rows, "counted": counted_now})


def _by_ledger(ledger: Ledger, node: str) -> tuple[Counter[str], bool]:
    """The rows of each stream that must be there, and whether all rows of the node are counted by stream."""
    found, whole, pruned = Counter[str](), True, set[str]()
    for known, days in ledger.with_days(lambda name: name == node):
        mine = Counter[str]()
        for streams in known.account.book.rows.values():
            for stream, ranges in streams.items():
                mine[stream] += ranges.count()
        for day in days.values():
            for part in day.parts:
                mine.update(part.settled)
                mine.update(part.extra)
        whole = whole and mine.total() == known.account.rows  # an old agent does not number its rows
        pruned |= {one.cls for one in known.pruned}
        found += mine
    for stream in [each for each in found if each.partition("/")[0] in pruned]:
        del found[stream]
    return found, whole and not pruned


def _events(source: Source, node: str, device: str, kind: str) -> int:
    return sum(source.event_counts(node, device, 0, ALL, ALL).get(kind, {}).values())
