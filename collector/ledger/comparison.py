"""Compares the ledger with the day files: which messages are marked as stored and are in no file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from collector.ledger.ledger import Ledger
from collector.store.marks import Key
from collector.store.removed import Pruned, Removed
from collector.store.source import Source
from collector.store.store import DayName
from wire.ranges import Range, Ranges

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Missed:
    """Numbers of one outbox that no day file has, and how many rows fewer there are."""

    numbers: Ranges
    rows: int


Gone = dict[Key, Missed]


class Kept(Protocol):
    """The files of a store, and what retention removed from it."""

    removed: Removed

    def source(self) -> Source:
        """A new source of what is committed."""
        ...

    def files(self) -> set[DayName]:
        """The usable day files."""
        ...

    def pruned(self) -> list[Pruned]:
        """What retention removed from these files."""
        ...

    def has_begun_later(self) -> bool:
        """Whether the first day files are gone."""
        ...


def compared(store: Kept, ledger: Ledger) -> Gone:
    """What is marked as stored and in no day file; a few sums per file unless they differ.

    Raises:
        OSError, EdgebedError: a file cannot be read now.
    """
    marks = ledger.stored()  # before the files: what is marked now was written before
    before = store.files()
    removed = store.removed.messages()  # by retention
    with closing(store.source()) as source:
        pruned = store.pruned()
        kept = Counter(source.counts())
        for one in pruned:
            kept[one.node] += one.messages
        wanted: dict[str, int] = {}
        for (node, _), (numbers, _) in marks.items():
            wanted[node] = wanted.get(node, 0) + numbers.count()
        short = {node: n - kept.get(node, 0) for node, n in wanted.items()}
        if removed is None:
            # a store of an older release, which did not note what retention removed
            removed = {node: n for node, n in short.items() if n > 0 and store.has_begun_later()}
            store.removed.add(removed)
        short = {node: n - removed.get(node, 0) for node, n in short.items() if n > removed.get(node, 0)}
        found, rows = _found(source, set(short)) if short else ({}, {})
    if before - store.files():
        return {}  # retention removed or changed a file meanwhile: the next comparison is a whole one
    gone: Gone = {}
    for key, (numbers, marked_rows) in sorted(marks.items(), reverse=True):
        node, had_rows = key[0], marked_rows
        if node not in short:
            continue
        absent = numbers.without(found.get(key, Ranges())).without(_pruned_of(key, pruned))
        if removed.get(node):  # retention took the oldest ones
            absent = _highest(absent, short[node])
            had_rows = rows.get(key, 0) + absent.count()
        else:
            had_rows -= sum(one.rows for one in pruned if (one.node, one.ep) == key)
        if absent:
            short[node] -= absent.count()
            gone[key] = Missed(absent, max(0, had_rows - rows.get(key, 0)))
            log.error("%s ep %s: %d messages that are marked as stored are in no file", *key, absent.count())
    return gone


def _pruned_of(key: Key, pruned: Iterable[Pruned]) -> Ranges:
    return Ranges(sorted(span for one in pruned if (one.node, one.ep) == key for span in one.numbers))


def _found(source: Source, nodes: set[str]) -> tuple[dict[Key, Ranges], dict[Key, int]]:
    numbers: dict[Key, list[int]] = {}
    rows: dict[Key, int] = {}
    for node, ep, seqs, count in source.all_chunks(nodes):
        numbers.setdefault((node, ep), []).extend(seqs)
        rows[(node, ep)] = rows.get((node, ep), 0) + count
    return {key: _ranges_of(seqs) for key, seqs in numbers.items()}, rows


def _ranges_of(numbers: list[int]) -> Ranges:
    """The ranges of many numbers in any order."""
    return Ranges((number, number) for number in sorted(set(numbers)))


def _highest(numbers: Ranges, most: int) -> Ranges:
    found: list[Range] = []
    for first, last in reversed(list(numbers)):
        if most <= 0:
            break
        start = max(first, last - most + 1)
        most -= last - start + 1
        found.append((start, last))
    return Ranges(reversed(found))
