"""The saved form of the ledger: marks, books of statements, and the entries that readers get."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from wire.ranges import Ranges

Key = tuple[str, str]  # node as "tenant/pilot/site/node", ep
Hole = tuple[int, int, int]  # first and last number, when the message before them was stored (ms)

MAX_STREAMS = 2_000  # of a run
MAX_HOLES = 5_000  # between the rows of a stream; a stream with more holes is not a sound node's


class Claim(Struct, frozen=True):
    """What a node's heartbeat stated about its outbox at `at_ms` (the collector's clock)."""

    head: int = 0
    acked: int = 0
    depth: int = 0
    rows: int = 0  # rows ever taken
    at_ms: int = 0


class Chain(Struct):
    """Which statements of a run arrived, and those without both neighbours: n -> its digest and its `prev`.

    `forked`: two statements were signed that cannot both belong to one run.
    """

    seen: list[tuple[int, int]] = []
    ends: dict[int, tuple[str, str]] = {}
    forked: bool = False


class Stated(Struct, omit_defaults=True):
    """The sum of an outbox's statements. Only a draft changes it in place."""

    chains: dict[int, Chain] = {}  # by run
    statements: int = 0  # that were verified
    begin: int = 0  # lowest number that a statement covers
    acked: int = 0  # the node's newest statement: every number up to here was acknowledged
    made_at: int = field(name="told", default=0)  # when the newest was made, ms by the node's clock
    sent: int = 0
    dropped: dict[str, dict[str, tuple[int, int]]] = {}
    refused: dict[str, int] = {}  # why -> how many were refused
    refused_why: str = ""  # of the newest refused one
    refused_at: int = 0  # when that was received, ms


class SavedBook(Struct, omit_defaults=True):
    """A `Book` as it is stored."""

    rows: dict[int, dict[str, list[tuple[int, int]]]] = {}
    stated: Stated = field(name="said", default_factory=Stated)


@dataclass(slots=True)
class Book:
    """What is known of one outbox apart from its stored message numbers."""

    rows: dict[int, dict[str, Ranges]] = dataclass_field(default_factory=dict)  # run, stream: rows stored
    stated: Stated = dataclass_field(default_factory=Stated)
    own: set[tuple[int, str]] = dataclass_field(default_factory=set)  # ranges that no copy shares

    def copy(self) -> Book:
        """A draft; it shares the ranges until they change."""
        stated = replace(self.stated, chains=dict(self.stated.chains), refused=dict(self.stated.refused))
        self.own = set()
        return Book({run: dict(streams) for run, streams in self.rows.items()}, stated)

    def saved(self) -> SavedBook:
        """The stored form."""
        rows = {
            run: {stream: list(ranges) for stream, ranges in streams.items()}
            for run, streams in self.rows.items()
        }
        return SavedBook(rows, self.stated)

    @classmethod
    def of(cls, saved: SavedBook) -> Book:
        """The book of a stored form."""
        rows = {
            run: {stream: Ranges(ranges) for stream, ranges in streams.items()}
            for run, streams in saved.rows.items()
        }
        return cls(rows, saved.stated)

    def united(self, other: Book) -> Book:
        """This book, with the rows of another copy added."""
        for run, streams in other.rows.items():
            mine = self.rows.setdefault(run, {})
            for stream, ranges in streams.items():
                if stream in mine:
                    mine[stream].update(ranges)
                else:
                    mine[stream] = ranges
        return self

    def number(self, no: tuple[int, int], stream: str, rows: int) -> None:
        """Note that rows with these numbers are stored."""
        run, first = no
        streams = self.rows.setdefault(run, {})
        ranges = streams.get(stream)
        if ranges is None:
            if len(streams) >= MAX_STREAMS:
                return
            ranges = streams[stream] = Ranges()
            self.own.add((run, stream))
        elif (run, stream) not in self.own:
            ranges = streams[stream] = ranges.copy()
            self.own.add((run, stream))
        if len(ranges) < MAX_HOLES or first - 1 in ranges or first + rows in ranges:
            ranges.add(first, first + rows - 1)


class Mark(Struct, omit_defaults=True):
    """A ledger account as it is stored."""

    node: str
    ep: str
    stored: list[tuple[int, int]] = []
    lost: list[tuple[int, int, str]] = []
    duplicates: int = 0
    rows: int = 0
    first: int = 0
    last: int = 0
    claim: Claim | None = None
    holes: list[Hole] = []
    heads: list[tuple[int, int]] = []
    book: SavedBook | None = None
    gone: list[tuple[int, int]] = []


def read_mark(body: bytes) -> Mark:
    """The mark that `body` encodes.

    Raises:
        msgspec.MsgspecError, ValueError: it is damaged.
    """
    mark = msgspec.json.decode(body, type=Mark)
    if any(last < first or first < 1 for first, last in mark.stored):
        raise ValueError(f"a mark of {mark.node[:100]} has ranges that end before they start")
    if mark.book is not None:
        Book.of(mark.book)
    return mark


class Entry(Struct):
    """One line of the ledger. Counts are messages; `first` and `last` are times of storing in ms.

    `absent` is `missing` with since when (ms, 0 is unknown) and why.
    """

    node: str
    ep: str
    taken: int
    stored: int
    gaps: list[tuple[int, int, str]]
    gap_count: int
    missing: list[tuple[int, int]]
    missing_count: int
    waiting: int
    duplicates: int
    rows_stored: int
    rows_taken: int
    first: int
    last: int
    absent: list[tuple[int, int, int, str]] = []
