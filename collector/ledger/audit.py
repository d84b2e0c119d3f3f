"""Counts the messages in the day files one by one and compares them with the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from collector.store.source import Source
from wire.printable import counted
from wire.ranges import Ranges

Key = tuple[str, str]
SHOWN = 20  # differences of one kind that are reported per (node, ep)


def differences(
    source: Source,
    entries: Mapping[Key, Mapping[str, Any]],
    node_is: Callable[[str], bool] = lambda _node: True,
) -> Iterator[str]:
    """A sentence per difference; none when the files have every stored message exactly once.

    `entries` are those of the nodes for which `node_is` is true; other nodes are not compared.
    What retention removed is not expected in the files, unless an earlier release removed it with whole days.
    """
    found: dict[Key, Ranges] = {}
    rows: dict[Key, int] = {}
    twice: dict[Key, list[int]] = {}
    for owner, ep, seqs, count in source.all_chunks():
        if not node_is(owner):
            continue
        key = (owner, ep)
        ranges = found.setdefault(key, Ranges())
        for seq in seqs:
            if seq in ranges:
                twice.setdefault(key, []).append(seq)
            ranges.add(seq)
        rows[key] = rows.get(key, 0) + count
    yield from (f"day file {name} is damaged and was not counted" for name in sorted(source.damaged))
    for name, count in sorted(source.changed.items()):
        if count:
            yield f"day file {name}: {counted(count, 'event')} changed after being stored"
    for key in sorted(entries.keys() | found.keys()):
        yield from _compare(key, entries.get(key), found.get(key, Ranges()), rows.get(key, 0))
        for seq in twice.get(key, [])[:SHOWN]:
            yield f"{key[0]} ep {key[1]}: seq {seq} is stored twice"


def _compare(key: Key, entry: Mapping[str, Any] | None, found: Ranges, rows: int) -> Iterator[str]:
    name = f"{key[0]} ep {key[1]}"
    pruned = entry.get("pruned", ()) if entry else ()
    stored = entry["stored"] - sum(one["messages"] for one in pruned) if entry else 0
    if found.count() != stored:
        yield f"{name}: the files have {found.count()} messages, the ledger has {stored}"
    rows_stored = entry["rows_stored"] - sum(one["rows"] for one in pruned) if entry else 0
    if rows != rows_stored:
        yield f"{name}: the files have {rows} rows, the ledger has {rows_stored}"
