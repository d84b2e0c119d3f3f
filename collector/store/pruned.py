"""What retention removed: each day file states it of itself, and `removed.json` of files that are gone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from collector.store.chunk import read_head
from collector.store.day_schema import SQL_ERRORS, STATED, WITH_RAW, connect, data_messages, identity, version
from collector.store.folder import day_files
from collector.store.marks import Key
from collector.store.removed import Pruned, PrunedSum, Removed, joined
from wire.errors import EdgebedError
from wire.ranges import Ranges

_STATEMENTS = f"SELECT body FROM state WHERE key GLOB '{STATED}*'"  # noqa: S608 - a constant
_SPANS = "SELECT node, ep, rows, seq_a AS a, seq_b AS b FROM chunk JOIN stream ON stream.id = chunk.stream"
_RAW_SPANS = " UNION ALL SELECT node, ep, rows, seq, seq FROM raw JOIN stream ON stream.id = raw.stream"
_EVENT_SPANS = "SELECT node, ep, count(*), min(seq), max(seq) FROM event GROUP BY 1, 2"
_CHUNKS = "SELECT node, ep, rows, body FROM chunk JOIN stream ON stream.id = chunk.stream"
_RAW = "SELECT node, ep, seq, rows FROM raw JOIN stream ON stream.id = raw.stream"


Sums = Mapping[Key, list[PrunedSum]]


def stated_in(db: sqlite3.Connection) -> list[Pruned]:
    """What was removed of an open day file.

    Raises:
        sqlite3.Error, msgspec.MsgspecError, TypeError, ValueError: damage.
    """
    return [msgspec.json.decode(body, type=Pruned) for (body,) in db.execute(_STATEMENTS)]


def held_in(db: sqlite3.Connection, day: str) -> list[Pruned]:
    """What an open day file holds: how much of each outbox and class, from its first to its last number.

    Raises:
        sqlite3.Error, WireError, TypeError, ValueError: damage.
    """
    query = _SPANS + (_RAW_SPANS if version(db) >= WITH_RAW else "")
    summed = f"SELECT node, ep, total(rows), min(a), max(b) FROM ({query}) GROUP BY 1, 2"  # noqa: S608 - constants
    spans = db.execute(summed).fetchall()
    counts = data_messages(db)
    several = {node for node, n in Counter(node for node, *_ in spans).items() if n > 1}
    exact: Counter[tuple[str, str]] = Counter()
    if several:  # a sum of the file is of all outboxes of a node
        for one in numbered(day, _numbers_in(db, several)):
            exact[(one.node, one.ep)] = one.messages
    found = [
        Pruned(
            node, ep, "data", exact[(node, ep)] if node in several else counts.get(node, 0),
            int(rows), [(first, last)], day, day,
        )
        for node, ep, rows, first, last in spans
    ]  # fmt: skip
    found += [
        Pruned(node, ep, "event", n, n, [(first, last)], day, day)
        for node, ep, n, first, last in db.execute(_EVENT_SPANS)
    ]
    return found


def _numbers_in(
    db: sqlite3.Connection, nodes: Collection[str]
) -> Iterator[tuple[str, str, str, list[int], int]]:
    if version(db) >= WITH_RAW:
        for node, ep, seq, rows in db.execute(_RAW):
            if node in nodes:
                yield "data", node, ep, [seq], rows
    for node, ep, rows, body in db.execute(_CHUNKS):
        if node in nodes:
            yield "data", node, ep, numbers_of(body, rows), rows


def numbered(day: str, several: Iterable[tuple[str, str, str, list[int], int]]) -> list[Pruned]:
    """What was removed on a day, of (class, node, ep, numbers of messages, rows)."""
    numbers: dict[tuple[str, str, str], list[int]] = {}
    rows: dict[tuple[str, str, str], int] = {}
    for *key, seqs, count in several:
        cls, node, ep = key
        numbers.setdefault((node, ep, cls), []).extend(seqs)
        rows[(node, ep, cls)] = rows.get((node, ep, cls), 0) + count
    return [
        Pruned(*key, len(seqs), rows[key], list(Ranges((seq, seq) for seq in sorted(seqs))), day, day)
        for key, seqs in numbers.items()
    ]


def numbers_of(body: bytes, rows: int) -> list[int]:
    """The numbers of the messages in a chunk.

    Raises:
        WireError: it is damaged.
    """
    return [seq for seq, _ in read_head(body, rows).messages]


def of_files(folder: Path) -> Iterator[Pruned]:
    """What was removed of the day files of a store; those that cannot be read are left out."""
    for path in day_files(folder):
        yield from of_file(path)


def of_file(path: Path) -> list[Pruned]:
    """What was removed of a day file; nothing when it cannot be read."""
    try:
        with closing(connect(path)) as db:
            return stated_in(db)
    except (*SQL_ERRORS, EdgebedError, msgspec.MsgspecError, TypeError, ValueError):
        return []  # readers find what is wrong with it


class PrunedSums:
    """What retention removed from a store in all; a file is read again when it was replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[object, list[Pruned]]] = {}

    def now(self) -> Sums:
        """By outbox and class."""
        known, self._known = self._known, {}
        several = Removed(self._folder).pruned()
        for path in day_files(self._folder):
            found, which = known.get(path), identity(path)
            if found is None or found[0] != which:
                found = (which, [one.spanned() for one in of_file(path)])
            self._known[path] = found
            several += found[1]
        outboxes: dict[Key, list[PrunedSum]] = {}
        for one in sorted(joined(several), key=lambda one: one.key):
            if one.numbers:
                first, last = one.numbers[0][0], one.numbers[-1][1]
                outboxes.setdefault((one.node, one.ep), []).append(
                    PrunedSum(one.cls, one.messages, one.rows, first, last, one.first_day, one.last_day)
                )
        return outboxes


def sums(folder: Path) -> Sums:
    """What retention removed from a store, by outbox and class."""
    return PrunedSums(folder).now()
