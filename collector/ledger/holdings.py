"""Holdings: the numbers that a collector has stored, and how they differ from those of its twin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from msgspec import Meta, Raw, Struct

from collector.ledger.ledger import Ledger
from collector.ledger.report import ReportFilter
from collector.store.marks import Key, encoded
from wire.ranges import Range, Ranges

MAX_OUTBOXES = 1_000  # of one page
MAX_RANGES = 50_000  # of one page; a single outbox may have more

_Number = Annotated[int, Meta(ge=1, le=2**62)]
_Ranges = list[tuple[_Number, _Number]]


class Holding(Struct):
    """What one collector has of one outbox: stored numbers, their rows, numbers declared lost.

    `statements` is how many signed statements its ledger has verified.
    """

    node: str
    ep: str
    rows: int = 0
    stored: _Ranges = []
    lost: _Ranges = []
    statements: int = 0

    def __post_init__(self) -> None:
        if any(last < first for first, last in (*self.stored, *self.lost)):
            raise ValueError("a range ends before it starts")

    @property
    def key(self) -> Key:
        """Node and ep."""
        return self.node, self.ep


class Page(Struct):
    """Holdings in the order of their keys; `next` is where the following page begins, "" at the end."""

    outboxes: list[Holding] = []
    next: str = ""


class Difference(Struct):
    """What one of two collectors has of an outbox and the other lacks; `lost`: that part is declared lost.

    `rows` is how many rows `here` has more, where both have the same numbers.
    """

    node: str
    ep: str
    here_lacks: Ranges
    there_lacks: Ranges
    here_lost: int = 0
    there_lost: int = 0
    rows: int = 0

    def __bool__(self) -> bool:
        """Whether they differ."""
        return bool(self.here_lacks or self.there_lacks or self.rows)

    def still(self, later: Difference) -> Difference:
        """What was different before and is different later: messages in flight are not."""
        here, there = (
            Ranges(part for first, last in mine for part in other.within(first, last))
            for mine, other in (
                (self.here_lacks, later.here_lacks),
                (self.there_lacks, later.there_lacks),
            )
        )
        rows = later.rows if self.rows else 0
        return Difference(self.node, self.ep, here, there, later.here_lost, later.there_lost, rows)


class Record(Struct):
    """One outbox as the ledger keeps it: its account, and its stated days and the keys of its node."""

    account: Raw
    states: dict[str, Raw] = {}


def record(ledger: Ledger, key: Key) -> Record | None:
    """The record of one outbox, as of one moment."""
    found = ledger.saved(key)
    if found is None:
        return None
    account, states = found
    return Record(Raw(encoded(account)), {name: Raw(body) for name, body in states.items()})


def page(ledger: Ledger, wanted: ReportFilter, after: str = "") -> Page:
    """The holdings of the wanted nodes that follow `after`, which is the `next` of the page before."""
    found, size = Page(), 0
    keys = [key for key in ledger.stored() if wanted.node_is(key[0]) and "/".join(key) > after]
    for key in sorted(keys, key="/".join):
        account = ledger.account(key)
        if account is None:
            continue
        stored, lost = list(account.stored), list(Ranges(sorted(one[:2] for one in account.lost)))
        size += len(stored) + len(lost)
        if found.outboxes and (size > MAX_RANGES or len(found.outboxes) >= MAX_OUTBOXES):
            found.next = "/".join(found.outboxes[-1].key)
            break
        found.outboxes.append(Holding(*key, account.rows, stored, lost, account.book.stated.statements))
    return found


def pages(ledger: Ledger, wanted: ReportFilter) -> Iterator[Holding]:
    """All holdings of the wanted nodes."""
    after = ""
    while True:
        found = page(ledger, wanted, after)
        yield from found.outboxes
        after = found.next
        if not after:
            return


def differences(here: Iterable[Holding], there: Iterable[Holding]) -> dict[Key, Difference]:
    """What each lacks of what the other has, by outbox."""
    mine, other = ({one.key: one for one in side} for side in (here, there))
    found: dict[Key, Difference] = {}
    for key in sorted({*mine, *other}):
        one = _difference(mine.get(key) or Holding(*key), other.get(key) or Holding(*key))
        if one:
            found[key] = one
    return found


def settled(before: Mapping[Key, Difference], later: Mapping[Key, Difference]) -> list[Difference]:
    """The differences of both looks."""
    found = (before[key].still(later[key]) for key in before if key in later)
    return [one for one in found if one]


def _difference(here: Holding, there: Holding) -> Difference:
    mine, other = Ranges(here.stored), Ranges(there.stored)
    here_lacks, there_lacks = other.without(mine), mine.without(other)
    return Difference(
        here.node,
        here.ep,
        here_lacks,
        there_lacks,
        _count_in(Ranges(here.lost), here_lacks),
        _count_in(Ranges(there.lost), there_lacks),
        0 if here_lacks or there_lacks else here.rows - there.rows,
    )


def _count_in(ranges: Ranges, parts: Iterable[Range]) -> int:
    return sum(ranges.count_in(first, last) for first, last in parts)
