"""A collector's writer without its broker: seeded groups into a store, each commit noted in a file."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import sys
from pathlib import Path
from typing import Any

from collector.ingest.group_builder import GroupBuilder
from collector.ledger.ledger import Ledger
from collector.mqtt.received import Received
from collector.store import landed
from collector.store.clock_skew import Offset
from collector.store.store import SqliteStore
from wire.clock import NS_PER_MS, Clock
from wire.codec import encode
from wire.messages import Batch, Event
from wire.topics import parse

T0 = 1_795_356_000_000
DAY_MS = 86_400_000
EPS = ("00112233aabbccdd", "44556677eeff0011")
CHECKPOINT_PAGES = 40  # SQLite's default of 1,000 needs far more data before a checkpoint


class SteppedClock(Clock):
    """A clock that a program sets."""

    def __init__(self, ms: int) -> None:
        super().__init__()
        self.ms = ms

    def now_ns(self) -> int:
        return self.ms * NS_PER_MS

    def monotonic_ns(self) -> int:
        return self.ms * NS_PER_MS


class Connection(sqlite3.Connection):
    """Checkpoints often; `sync` replaces the store's mode."""

    sync = ""

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if self.sync and sql.startswith("PRAGMA synchronous"):
            sql = f"PRAGMA synchronous = {self.sync}"
        return super().execute(sql, *rest)


def message(ep: str, seq: int) -> Received:
    """The message of a number of an outbox: always the same one."""
    rng = random.Random(seq)
    node = f"acme/trial/hall/node-{EPS.index(ep)}"
    if seq % 5 == 0:
        body = encode(
            Event(ep=ep, seq=seq, ts=T0 + seq, type="alarm", detail={"text": "v" * rng.randrange(900)})
        )
        topic = f"tb1/{node}/event/arm/alarm"
    else:
        text = rng.randbytes(rng.choice((10, 10, 3_000))).hex()
        body = encode(
            Batch(ep=ep, seq=seq, t0=T0 + seq * 40, per=20, n=2, f={"x": [1.5, 2.5], "text": [text, ""]})
        )
        topic = f"tb1/{node}/data/arm/s{seq % 3}"
    return Received(topic, body, T0 + seq * 40 + 100, False, None, parsed=parse(topic))


class Writer:
    """What `collector.ingest.writer` does with a group; each commit is noted in `words` before and after."""

    def __init__(self, folder: Path, words: Path, seed: int, first: int) -> None:
        self.rng = random.Random(seed)
        self.words = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.clock = SteppedClock(T0 + seed * 3_600_000)
        self.folder = folder
        self.next = first
        self.number = seed * 1_000_000
        self.open()

    def open(self) -> None:
        self.store = SqliteStore(self.folder, self.clock)
        self.ledger = Ledger(self.store.load().marks)

    def say(self, **what: Any) -> None:
        os.write(self.words, json.dumps(what).encode())

    def group(self) -> None:
        """New messages and some that come again."""
        size = self.rng.choice((1, 3, 12))
        seqs = [max(1, self.next - self.rng.randrange(1, 30)) for _ in range(self.rng.randrange(4))]
        seqs += range(self.next, self.next + size)
        self.next += size
        received = [
            message(self.rng.choice(EPS) if seq < self.next - size else EPS[seq % 2], seq) for seq in seqs
        ]
        built = GroupBuilder(self.ledger, lambda _node: Offset(), self.clock.now_ms()).build(received)
        group = built.group
        self.number += 1
        group.states = {"number": str(self.number).encode()}
        group.marks = self.ledger.marks(built.drafts)
        new = [(rows.ep, seq) for rows in group.rows for seq, _ in rows.messages]
        new += [(event.ep, event.seq) for event in group.events]
        acked = [(ep, *each) for (_, ep), ranges in built.acked.items() for each in ranges]
        self.say(number=self.number, new=new, next=self.next)
        self.store.commit(group)
        self.ledger.accept(built.drafts)
        self.say(done=self.number, acked=acked)
        self.store.work()

    def run(self, groups: int) -> None:
        for _ in range(groups):
            self.clock.ms += 700
            chance = self.rng.random()
            if chance < 0.06:
                self.clock.ms += DAY_MS
            elif chance < 0.12:
                self.store.close()
                self.open()
            self.group()
        self.store.close()


def main(folder: str, words: str, seed: str, first: str, groups: str, sync: str = "") -> None:
    """Write `groups` groups from number `first` on; `sync` is the mode for a mutation test."""
    connect = sqlite3.connect

    def patched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made: sqlite3.Connection = connect(*arguments, **options, factory=Connection)
        made.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        return made

    Connection.sync = sync
    landed.PACK_MESSAGES, landed.PACK_AFTER_MS = 6, 3_000  # a few groups
    sqlite3.connect = patched  # type: ignore[assignment] # it returns a Connection
    Writer(Path(folder), Path(words), int(seed), int(first)).run(int(groups))


if __name__ == "__main__":
    main(*sys.argv[1:])
