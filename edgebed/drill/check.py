"""Read a store's day files without the collector's code and list every message in them."""

from __future__ import annotations

import gzip
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from edgebed.drill.device import FIELD, STREAM

Key = tuple[str, str]  # node, ep


@dataclass(slots=True)
class Kept:
    """What a store holds of one outbox: row numbers by message, numbers of events, declared losses."""

    rows: dict[int, list[int]] = field(default_factory=dict)
    events: set[int] = field(default_factory=set)
    pruned: set[int] = field(default_factory=set)  # removed by retention, as their day file states it
    lost: set[int] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    doubled: list[int] = field(default_factory=list)

    def add(self, seq: int, numbers: list[int]) -> None:
        """Note a data message and its row numbers."""
        if seq in self.rows or seq in self.events:
            self.doubled.append(seq)
        self.rows[seq] = numbers

    @property
    def stored(self) -> set[int]:
        """All message numbers in the store, with those that retention removed from it."""
        return self.rows.keys() | self.events | self.pruned

    def violations(self, head: int, jumps: int) -> list[str]:
        """Return a sentence for each kind of error: duplicates, wrong order, messages lost without a report.

        `head` is the highest number that the agent gave. Row numbers count up by one; they may jump `jumps`
        times (rows in flight to a killed agent are gone) and once for each declared loss.
        """
        found = [f"message {seq} is stored twice" for seq in self.doubled]
        absent = sorted(set(range(1, head + 1)) - self.stored - self.lost)
        if absent:
            found.append(
                f"{len(absent)} of {head} messages are neither stored nor declared lost, e.g. {absent[:5]}"
            )
        beyond = [seq for seq in self.stored if seq > head]
        if beyond:
            found.append(
                f"{len(beyond)} messages are stored beyond the head {head}, e.g. {sorted(beyond)[:5]}"
            )
        numbers = [n for seq in sorted(self.rows) for n in self.rows[seq]]
        back = [pair for pair in pairwise(numbers) if pair[1] <= pair[0]]
        if back:
            found.append(f"{len(back)} rows are out of order or stored twice, e.g. {back[:3]}")
        jumped = [pair for pair in pairwise(numbers) if pair[1] > pair[0] + 1]
        if len(jumped) > jumps + len(self.lost):
            found.append(f"{len(jumped)} jumps in the rows, {jumps} are explained, e.g. {jumped[:3]}")
        return found


def kept(store: Path) -> dict[Key, Kept]:
    """Return what the day files of `store` hold, by node and outbox; a collector may be running.

    Raises:
        sqlite3.Error: a file cannot be read.
    """
    found: defaultdict[Key, Kept] = defaultdict(Kept)
    for day in sorted(store.glob("0*.db")):
        with closing(sqlite3.connect(f"file:{day}?mode=ro", uri=True)) as database:
            database.execute("BEGIN")  # a collector may pack messages between two statements
            chunks = database.execute(
                "SELECT s.node, c.ep, s.name, c.body FROM chunk c JOIN stream s ON s.id = c.stream"
                " ORDER BY c.id"
            )
            for node, ep, stream, body in chunks:
                of = found[node, ep]
                for seq, numbers in _messages(body, stream == STREAM):
                    of.add(seq, numbers)
            for node, ep, stream, seq, body in _landed(database):
                found[node, ep].add(seq, _numbers(body) if stream == STREAM else [])
            for node, ep, gone in _pruned(database):
                found[node, ep].pruned.update(gone)
            for node, ep, kind, seq, body in database.execute("SELECT node, ep, type, seq, body FROM event"):
                of = found[node, ep]
                if seq in of.rows or seq in of.events:
                    of.doubled.append(seq)
                of.events.add(seq)
                if kind == "gap":
                    _declared(of, body)
    return dict(found)


def _pruned(database: sqlite3.Connection) -> Iterator[tuple[str, str, Iterator[int]]]:
    """Yield node, outbox and message numbers of each statement of what retention removed from a file."""
    import msgspec

    for (body,) in database.execute("SELECT body FROM state WHERE key LIKE 'pruned/%'"):
        one: Mapping[str, Any] = msgspec.json.decode(body)
        spans = (range(first, last + 1) for first, last in one["numbers"])
        yield one["node"], one["ep"], chain.from_iterable(spans)


def _declared(of: Kept, body: bytes) -> None:
    import msgspec

    event: Mapping[str, Any] = msgspec.json.decode(_plain(body))
    of.reasons.add(str(event.get("why", "")))
    for first, last in event.get("lost", []):
        of.lost.update(range(first, last + 1))


def _plain(body: bytes) -> bytes:
    if body[:2] == b"\x1f\x8b":
        return gzip.decompress(body)
    if body[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        return zstandard.ZstdDecompressor().decompress(body, max_output_size=2**26)
    return body


def _landed(database: sqlite3.Connection) -> Iterator[tuple[str, str, str, int, bytes]]:
    """Yield node, outbox, stream, sequence number and body of each message that is kept as it came."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'raw'").fetchone():
        yield from database.execute(
            "SELECT s.node, r.ep, s.name, r.seq, r.body FROM raw r JOIN stream s ON s.id = r.stream"
            " ORDER BY r.id"
        )


def _numbers(body: bytes) -> list[int]:
    """Return the row numbers in the body of a message."""
    import msgspec

    fields: Mapping[str, list[Any]] = msgspec.json.decode(_plain(body))["f"]
    return [int(n) for n in fields.get(FIELD, ())]


def _messages(body: bytes, numbered: bool) -> Iterator[tuple[int, list[int]]]:
    """Yield the sequence number and row numbers of each message in a chunk.

    docs/decisions/0004-store.md describes the chunk. This is a second implementation on purpose: an error in
    the collector's own reader must not hide an error in its writer.
    """
    import msgspec
    import numpy as np
    import zstandard

    plain = zstandard.ZstdDecompressor().decompress(body, max_output_size=2**26)
    size = int.from_bytes(plain[:4], "little")
    messages, columns, *_ = msgspec.msgpack.decode(plain[4 : 4 + size])
    rows = sum(count for _, count in messages)
    numbers: list[int] = []
    at = 4 + size + 8 * rows
    for name, kind, width in columns:
        if numbered and name == FIELD:
            dtype = {"d": np.float64, "q": np.int64}[kind]
            numbers = np.frombuffer(plain, dtype, rows, at).astype(int).tolist()
        at += width
    at = 0
    for seq, count in messages:
        yield seq, numbers[at : at + count]
        at += count
