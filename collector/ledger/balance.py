"""Balances an outbox: which numbers are stored, declared lost, waiting or missing, since when and why."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from msgspec import Struct

from collector.store.marks import Account, Entry
from collector.store.removed import PrunedSum
from wire.ranges import Range, Ranges

SHOWN = 100  # ranges that an entry lists; its counts are of all


class Totals(Struct):
    """Sums over entries."""

    taken: int = 0
    stored: int = 0
    gap_count: int = 0
    missing_count: int = 0
    waiting: int = 0
    duplicates: int = 0
    pruned_count: int = 0  # of the stored ones, removed by retention since


@dataclass(frozen=True, slots=True)
class Known:
    """An account; `current` is the ep that its node writes now; `pruned` is what retention removed."""

    account: Account
    current: str
    pruned: Sequence[PrunedSum] = ()

    @property
    def pruned_count(self) -> int:
        """How many of the stored messages retention removed since."""
        return sum(one.messages for one in self.pruned)

    @property
    def in_use(self) -> bool:
        """Whether its outbox can still hold messages."""
        return self.current == self.account.ep

    def since(self, first: int) -> int:
        """When the message before this number was stored, or the number first claimed; 0 is unknown."""
        for low, high, at_ms in self.account.holes:
            if low <= first <= high:
                return at_ms
        heads, claim = self.account.heads, self.account.claim
        at = bisect_right(heads, first - 1, key=lambda one: one[0])
        if at < len(heads):
            return heads[at][1]
        if first > self.account.stored.highest() and claim is not None:
            return claim.at_ms
        return 0

    def whys(self, holes: Iterable[Range]) -> Iterator[tuple[int, int, int, str]]:
        """Each range with why it is not stored, and since when."""
        acked = self.account.book.stated.acked
        if (claim := self.account.claim) is not None:
            acked = max(acked, min(claim.acked, claim.head))
        lost = NEVER if self.in_use else f"{OUTBOX_LOST}: the node goes on as ep {self.current}"
        gone = Ranges(self.account.gone)
        for whole in holes:
            for first, last in gone.within(*whole):
                yield first, last, self.since(first), GONE
            yield from self._others(gone.missing(*whole), acked, lost)

    def _others(self, holes: Iterable[Range], acked: int, lost: str) -> Iterator[tuple[int, int, int, str]]:
        for first, last in holes:
            if first <= acked:
                yield first, min(last, acked), self.since(first), RESTORED
            if last > acked:
                yield max(first, acked + 1), last, self.since(max(first, acked + 1)), lost


GONE = "was stored once: its day file is gone or damaged"
NEVER = "never arrived"
OUTBOX_LOST = "its outbox was lost"
RESTORED = "was stored once: this store is restored from an older backup"


def totals(entries: Iterable[Entry]) -> Totals:
    """The sums over entries."""
    found = Totals()
    for entry in entries:
        found.taken += entry.taken
        found.stored += entry.stored
        found.gap_count += entry.gap_count
        found.missing_count += entry.missing_count
        found.waiting += entry.waiting
        found.duplicates += entry.duplicates
        found.pruned_count += entry.pruned_count
    return found


def sum_up(outboxes: Iterable[Known]) -> tuple[Totals, int | None]:
    """The sums over the outboxes of a node, and since when (ms, 0 unknown) messages are missing, or None."""
    found = Totals()
    since: list[int] = []
    for known in outboxes:
        balance = Balance(known)
        found.taken += balance.taken
        found.stored += balance.stored.count()
        found.gap_count += balance.gap_count
        found.missing_count += balance.missing_count
        found.waiting += balance.waiting_count
        found.duplicates += known.account.duplicates
        found.pruned_count += known.pruned_count
        if balance.missing_count:
            since += [at_ms for _, _, at_ms, _ in known.whys(islice(balance.missing, SHOWN))]
    return found, min(since, default=None)


class Balance:
    """Sorts every number of an outbox: stored, declared lost, waiting at its node, or missing."""

    def __init__(self, known: Known) -> None:
        account, claim = known.account, known.account.claim
        self.known = known
        self.stored = account.stored
        accounted = account.stored
        if account.lost:
            accounted = account.stored.copy()
            accounted.update((first, last) for first, last, _ in account.lost)
        gone = account.gone[-1][1] if account.gone else 0
        self.taken = max(accounted.highest(), claim.head if claim else 0, gone)
        self.accounted = accounted
        holes = accounted.missing(1, self.taken) if self.taken else []
        self.waiting_count = _waiting(known, holes)
        self.missing_count = _count(holes) - self.waiting_count
        self.missing = Ranges(_lowest(holes, self.missing_count))

    @property
    def gap_count(self) -> int:
        """How many are declared lost and were not stored after all."""
        return self.accounted.count() - self.stored.count()


def entry_of(known: Known) -> Entry:
    """The ledger's entry of one outbox."""
    account, balance = known.account, Balance(known)
    missing = list(islice(balance.missing, SHOWN))
    return Entry(
        node=account.node,
        ep=account.ep,
        taken=balance.taken,
        stored=balance.stored.count(),
        gaps=account.lost[:SHOWN],
        gap_count=balance.gap_count,
        missing=missing,
        missing_count=balance.missing_count,
        waiting=balance.waiting_count,
        duplicates=account.duplicates,
        rows_stored=account.rows,
        rows_taken=account.claim.rows if account.claim else 0,
        first=account.first,
        last=account.last,
        absent=list(known.whys(missing)),
        pruned=list(known.pruned),
        pruned_count=known.pruned_count,
    )


def _waiting(known: Known, holes: list[Range]) -> int:
    """How many numbers wait: only the outbox in use now can hold messages, and not more than it claims."""
    claim = known.account.claim
    if claim is None or not known.in_use:
        return 0
    to_head = _count(_cut(holes, claim.head))
    return _count(holes) - to_head + min(to_head, claim.depth)


def _count(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _cut(ranges: Iterable[Range], upto: int) -> Iterator[Range]:
    for first, last in ranges:
        if first > upto:
            return
        yield first, min(last, upto)


def _lowest(ranges: Iterable[Range], count: int) -> Iterator[Range]:
    """The lowest `count` numbers; an outbox drains its oldest first, so the lowest are missing."""
    for first, last in ranges:
        if count <= 0:
            return
        end = min(last, first + count - 1)
        count -= end - first + 1
        yield first, end
