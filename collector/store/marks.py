"""What the ledger stores: accounts with their books of statements, and the entries that readers get."""

from __future__ import annotations

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from collector.store.removed import PrunedSum
from wire.ranges import Range, Ranges

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


class Book(Struct, omit_defaults=True):
    """What is known of one outbox apart from its stored message numbers."""

    rows: dict[int, dict[str, Ranges]] = {}  # run, stream: rows stored
    stated: Stated = field(name="said", default_factory=Stated)

    def copy(self) -> Book:
        """A draft; it shares the ranges until they change."""
        stated = replace(self.stated, chains=dict(self.stated.chains), refused=dict(self.stated.refused))
        return Book({run: dict(streams) for run, streams in self.rows.items()}, stated)

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

    def number(self, no: tuple[int, int], stream: str, rows: int, origin: Book | None = None) -> None:
        """Note that rows with these numbers are stored.

        A copy shares ranges with its `origin`; it copies them before it changes them.
        """
        run, first = no
        streams = self.rows.setdefault(run, {})
        ranges = streams.get(stream)
        if ranges is None:
            if len(streams) >= MAX_STREAMS:
                return
            ranges = streams[stream] = Ranges()
        elif origin is not None and origin.rows.get(run, {}).get(stream) is ranges:
            ranges = streams[stream] = ranges.copy()
        if len(ranges) < MAX_HOLES or first - 1 in ranges or first + rows in ranges:
            ranges.add(first, first + rows - 1)


class Account(Struct, omit_defaults=True):
    """The ledger's account of one (node, ep), as it is stored. Only a draft is changed in place."""

    node: str
    ep: str
    stored: Ranges = field(default_factory=Ranges)
    lost: list[tuple[int, int, str]] = []
    duplicates: int = 0
    rows: int = 0
    first: int = 0
    last: int = 0
    claim: Claim | None = None
    holes: list[Hole] = []  # unstored numbers below the highest, and since when
    heads: list[tuple[int, int]] = []  # head, when it was first claimed; rising
    book: Book = field(default_factory=Book)
    gone: list[Range] = []  # were stored, and are in no day file

    def copy(self) -> Account:
        """A draft; changes to it do not change this account."""
        return replace(
            self,
            stored=self.stored.copy(),
            lost=list(self.lost),
            holes=list(self.holes),
            book=self.book.copy(),
            gone=list(self.gone),
        )


def encoded(account: Account) -> bytes:
    """The stored form of an account."""
    return _encoder.encode(account)


def read_account(body: bytes) -> Account:
    """The account that `body` encodes.

    Raises:
        msgspec.MsgspecError, ValueError: it is damaged.
    """
    account = _decoder.decode(body)
    if any(first < 1 for first, _ in account.stored):
        raise ValueError(f"the account of {account.node[:100]} has numbers below 1")
    return account


def _ranges_of(_kind: type, value: object) -> Ranges:
    return Ranges(msgspec.convert(value, list[Range]))


_encoder = msgspec.json.Encoder(enc_hook=list)  # Ranges are the only type that msgspec does not know
_decoder = msgspec.json.Decoder(Account, dec_hook=_ranges_of)


class Entry(Struct):
    """One line of the ledger. Counts are messages; `first` and `last` are times of storing in ms.

    `absent` is `missing` with since when (ms, 0 is unknown) and why. `pruned_count` of the stored ones were
    removed by retention since, as `pruned` has it by class.
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
    pruned: list[PrunedSum] = []
    pruned_count: int = 0
