"""The account of every message: per (node, ep) what was taken, stored, declared lost, and what is missing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from wire.ranges import Range, Ranges

# Stored or lost ranges of a node with one outbox, shared out over all its outboxes. A drained outbox leaves a
# handful; one that drains its events before its data has as many for a while as there are data between them.
MAX_RANGES = 200_000
MAX_EPOCHS = 1_000  # per node: one per outbox ever made
SHOWN = 100  # ranges an entry lists; its counts are always of all

Key = tuple[str, str]  # node as "tenant/pilot/site/node", ep


class Refused(Exception):
    """A message that the ledger has no room for now; it is not acknowledged, so it comes again."""


class Claim(Struct, frozen=True):
    """What a node's heartbeat said of its outbox at `at_ms` (the collector's clock)."""

    head: int = 0
    acked: int = 0
    depth: int = 0
    rows: int = 0  # rows ever taken
    at_ms: int = 0


class Mark(Struct):
    """An account as it lies in the store."""

    node: str
    ep: str
    stored: list[tuple[int, int]] = []
    lost: list[tuple[int, int, str]] = []
    duplicates: int = 0
    rows: int = 0
    first: int = 0
    last: int = 0
    claim: Claim | None = None


class Entry(Struct):
    """One line of the ledger; counts are messages, `first` and `last` times of storing in ms."""

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


class Totals(Struct):
    """Sums over entries."""

    taken: int = 0
    stored: int = 0
    gap_count: int = 0
    missing_count: int = 0
    waiting: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class Account:
    """What the store has of one (node, ep)."""

    node: str
    ep: str
    stored: Ranges = field(default_factory=Ranges)
    lost: list[tuple[int, int, str]] = field(default_factory=list)
    duplicates: int = 0
    rows: int = 0
    first: int = 0
    last: int = 0

    def copy(self) -> Account:
        """A draft that can be changed without touching this one."""
        return Account(
            self.node,
            self.ep,
            self.stored.copy(),
            list(self.lost),
            self.duplicates,
            self.rows,
            self.first,
            self.last,
        )

    def mark(self, claim: Claim | None) -> Mark:
        """The form that is stored."""
        return Mark(
            self.node,
            self.ep,
            list(self.stored),
            self.lost,
            self.duplicates,
            self.rows,
            self.first,
            self.last,
            claim,
        )


class Ledger:
    """All accounts; `claim` may be called from any thread, `accept` from the writer's only."""

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[Key, Account] = {}
        self._outboxes: Counter[str] = Counter()  # node -> how many
        self._claims: dict[Key, Claim] = {}
        self._current: dict[str, str] = {}  # node -> the ep it writes now
        self._claimed: set[Key] = set()  # claims that are not in the store yet
        for mark in marks:
            self._restore(mark)

    def _restore(self, mark: Mark) -> None:
        key = (mark.node, mark.ep)
        self._outboxes[mark.node] += key not in self._accounts
        self._accounts[key] = Account(
            mark.node,
            mark.ep,
            Ranges(mark.stored),
            list(mark.lost),
            mark.duplicates,
            mark.rows,
            mark.first,
            mark.last,
        )
        if mark.claim is not None:
            self._claims[key] = mark.claim
        newest = self._current.get(mark.node)
        if newest is None or self._seen((mark.node, newest)) < self._seen(key):
            self._current[mark.node] = mark.ep

    def _seen(self, key: Key) -> int:
        claim = self._claims.get(key)
        return max(self._accounts[key].last, claim.at_ms if claim else 0)

    def account(self, key: Key) -> Account | None:
        """The account as it is on disk; not to be changed."""
        return self._accounts.get(key)

    def outboxes(self, node: str) -> int:
        """How many a node ever used."""
        return self._outboxes[node]

    def claim(self, node: str, ep: str, claim: Claim) -> None:
        """Note what a heartbeat says; an unknown ep opens an account."""
        key = (node, ep)
        with self._lock:
            if key not in self._accounts:
                if self._outboxes[node] >= MAX_EPOCHS:
                    return
                self._accounts[key] = Account(node, ep)
                self._outboxes[node] += 1
            before = self._claims.get(key)
            if before is not None and claim.head < before.head:
                return  # retained or overtaken: an outbox never goes back
            self._claims[key] = claim
            self._current[node] = ep
            self._claimed.add(key)

    def accept(self, drafts: Iterable[Account]) -> None:
        """Take over drafts that are on disk now."""
        with self._lock:
            for draft in drafts:
                self._outboxes[draft.node] += (draft.node, draft.ep) not in self._accounts
                self._accounts[(draft.node, draft.ep)] = draft
                self._current.setdefault(draft.node, draft.ep)

    def marks(self, drafts: Iterable[Account] = (), *, everything: bool = False) -> list[Mark]:
        """What has to be written with a group: its drafts and accounts with fresh claims, or all."""
        with self._lock:
            changed = {(draft.node, draft.ep): draft for draft in drafts}
            keys = self._accounts.keys() if everything else self._claimed
            for key in keys:
                changed.setdefault(key, self._accounts[key])
            self._claimed.clear()
            return [account.mark(self._claims.get(key)) for key, account in changed.items()]

    def remember(self, marks: Iterable[Mark]) -> None:
        """Undo the forgetting of `marks`: they did not reach the disk."""
        with self._lock:
            self._claimed.update(
                key for mark in marks if (key := (mark.node, mark.ep)) in self._accounts and mark.claim
            )

    @property
    def has_claims(self) -> bool:
        """Whether heartbeats came that are not in the store yet."""
        return bool(self._claimed)

    def entries(self, node: str | None = None) -> list[Entry]:
        """The ledger, of one node or all, ordered by node and first storing."""
        with self._lock:
            chosen = [
                (account, self._claims.get(key), self._current.get(key[0]) == key[1])
                for key, account in self._accounts.items()
                if node is None or key[0] == node
            ]
        found = [_entry(account, claim, current) for account, claim, current in chosen]
        return sorted(found, key=lambda entry: (entry.node, entry.first, entry.ep))


class Draft:
    """The changes one group makes to the ledger, kept apart until they are on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._opened: Counter[str] = Counter()  # outboxes that were not known before
        self.accounts: dict[Key, Account] = {}

    def _account(self, key: Key) -> Account:
        draft = self.accounts.get(key)
        if draft is None:
            account = self._ledger.account(key)
            if account is None:
                self._opened[key[0]] += 1
                if self._outboxes(key[0]) > MAX_EPOCHS:
                    raise Refused(f"{key[0]} used more than {MAX_EPOCHS} outboxes")
            draft = self.accounts[key] = Account(*key) if account is None else account.copy()
        return draft

    def _outboxes(self, node: str) -> int:
        return max(1, self._ledger.outboxes(node) + self._opened[node])

    def is_new(self, node: str, ep: str, seq: int) -> bool:
        """Whether a message was not stored yet.

        Raises:
            Refused: its outbox cannot be kept.
        """
        return seq not in self._account((node, ep)).stored

    def add(self, node: str, ep: str, seq: int, rows: int, at_ms: int) -> bool:
        """Count a message as stored; False for a duplicate, which is counted as one.

        Raises:
            Refused: its number cannot be kept now.
        """
        account = self._account((node, ep))
        stored = account.stored
        if seq in stored:
            account.duplicates += 1
            return False
        if len(stored) >= MAX_RANGES // self._outboxes(node) and not (seq - 1 in stored or seq + 1 in stored):
            raise Refused(f"{node} ep {ep}: too many holes between what arrived, {len(stored)}")
        stored.add(seq)
        account.rows += rows
        account.first = account.first or at_ms
        account.last = at_ms
        return True

    def lose(self, node: str, ep: str, lost: Iterable[Range], why: str) -> None:
        """Note a declared gap.

        Raises:
            Refused: there are too many already.
        """
        account = self._account((node, ep))
        for first, last in lost:
            if account.lost and account.lost[-1][2] == why and account.lost[-1][1] + 1 == first:
                account.lost[-1] = (account.lost[-1][0], last, why)
            elif len(account.lost) >= MAX_RANGES // self._outboxes(node):
                raise Refused(f"{node} ep {ep}: {len(account.lost)} gaps were declared already")
            elif (first, last, why) not in account.lost[-8:]:
                account.lost.append((first, last, why))


def totals(entries: Iterable[Entry]) -> Totals:
    """Sum entries up."""
    found = Totals()
    for entry in entries:
        found.taken += entry.taken
        found.stored += entry.stored
        found.gap_count += entry.gap_count
        found.missing_count += entry.missing_count
        found.waiting += entry.waiting
        found.duplicates += entry.duplicates
    return found


def _entry(account: Account, claim: Claim | None, current: bool) -> Entry:
    stored = account.stored.count()
    accounted = account.stored
    if account.lost:
        accounted = account.stored.copy()
        accounted.update((first, last) for first, last, _ in account.lost)
    gap_count = accounted.count() - stored
    taken = max(_highest(accounted), claim.head if claim else 0)
    holes = accounted.missing(1, taken) if taken else []
    open_count = _count(holes)
    # only the outbox that is in use now can still hold something, and no more than it said
    waiting = 0
    if claim is not None and current:
        to_head = _count(_cut(holes, claim.head))
        waiting = open_count - to_head + min(to_head, claim.depth)
    missing_count = open_count - waiting
    return Entry(
        node=account.node,
        ep=account.ep,
        taken=taken,
        stored=stored,
        gaps=account.lost[:SHOWN],
        gap_count=gap_count,
        missing=list(_lowest(holes, missing_count))[:SHOWN],
        missing_count=missing_count,
        waiting=waiting,
        duplicates=account.duplicates,
        rows_stored=account.rows,
        rows_taken=claim.rows if claim else 0,
        first=account.first,
        last=account.last,
    )


def _highest(ranges: Ranges) -> int:
    return ranges._ends[-1] if ranges else 0


def _count(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _cut(ranges: Iterable[Range], upto: int) -> Iterator[Range]:
    for first, last in ranges:
        if first > upto:
            return
        yield first, min(last, upto)


def _lowest(ranges: Iterable[Range], count: int) -> Iterator[Range]:
    """The first `count` numbers of `ranges`: an outbox drains from its oldest, so what is gone is lowest."""
    for first, last in ranges:
        if count <= 0:
            return
        end = min(last, first + count - 1)
        count -= end - first + 1
        yield first, end
