"""Reads a store's day files without the collector's code: what is really there, message by message."""

from __future__ import annotations

import gzip
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgebed.drill.device import FIELD, STREAM

Key = tuple[str, str]  # node, ep


@dataclass(slots=True)
class Kept:
    """What a store has of one outbox: row numbers by message, numbers of events, what is declared lost."""

    rows: dict[int, list[int]] = field(default_factory=dict)
    events: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    reasons: set[str] = field(default_factory=set)
    doubled: list[int] = field(default_factory=list)

    @property
    def stored(self) -> set[int]:
        """Every message number there is."""
        return self.rows.keys() | self.events

    def faults(self, head: int, jumps: int) -> list[str]:
        """What breaks the promise: doubles, order, and what is neither there nor declared up to `head`.

        Rows count up by one; the count may jump `jumps` times (what was on its way to a killed agent is gone)
        and once for each declared loss.
        """
        told = [f"message {seq} is stored twice" for seq in self.doubled]
        absent = sorted(set(range(1, head + 1)) - self.stored - self.lost)
        if absent:
            told.append(f"{len(absent)} of {head} messages are neither stored nor declared, as {absent[:5]}")
        beyond = [seq for seq in self.stored if seq > head]
        if beyond:
            told.append(f"{len(beyond)} messages are stored beyond the head {head}, as {sorted(beyond)[:5]}")
        numbers = [n for seq in sorted(self.rows) for n in self.rows[seq]]
        back = [pair for pair in pairwise(numbers) if pair[1] <= pair[0]]
        if back:
            told.append(f"{len(back)} rows are out of order or doubled, as {back[:3]}")
        jumped = [pair for pair in pairwise(numbers) if pair[1] > pair[0] + 1]
        if len(jumped) > jumps + len(self.lost):
            told.append(f"{len(jumped)} jumps in the rows, {jumps} are explained, as {jumped[:3]}")
        return told


def kept(store: Path) -> dict[Key, Kept]:
    """Everything in the day files of `store`, by node and outbox; a collector may be running.

    Raises:
        sqlite3.Error: a file cannot be read.
    """
    found: defaultdict[Key, Kept] = defaultdict(Kept)
    for day in sorted(store.glob("0*.db")):
        with closing(sqlite3.connect(f"file:{day}?mode=ro", uri=True)) as database:
            chunks = database.execute(
                "SELECT s.node, c.ep, s.name, c.body FROM chunk c JOIN stream s ON s.id = c.stream"
                " ORDER BY c.id"
            )
            for node, ep, stream, body in chunks:
                of = found[node, ep]
                for seq, numbers in _messages(body, stream == STREAM):
                    if seq in of.rows or seq in of.events:
                        of.doubled.append(seq)
                    of.rows[seq] = numbers
            for node, ep, kind, seq, body in database.execute("SELECT node, ep, type, seq, body FROM event"):
                of = found[node, ep]
                if seq in of.rows or seq in of.events:
                    of.doubled.append(seq)
                of.events.add(seq)
                if kind == "gap":
                    _declared(of, body)
    return dict(found)


def _declared(of: Kept, body: bytes) -> None:
    import msgspec

    event: Mapping[str, Any] = msgspec.json.decode(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
    of.reasons.add(str(event.get("why", "")))
    for first, last in event.get("lost", []):
        of.lost.update(range(first, last + 1))


def _messages(body: bytes, numbered: bool) -> Iterator[tuple[int, list[int]]]:
    """Sequence number and row numbers of each message in a chunk, see docs/decisions/0004-store.md."""
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
