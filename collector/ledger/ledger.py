"""The ledger: per (node, ep) which messages were taken, stored, declared lost, and are missing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from collector.ledger.account import plausible, without
from collector.ledger.balance import Known, entry_of
from collector.ledger.plausible import MAX_JUMP, Rising, jump
from collector.ledger.statements import MAX_RUNS, Day, Days, Ring, Statements, decoded
from collector.store.marks import Account, Claim, Entry, Key
from collector.store.pruned import Sums
from wire.messages import Event
from wire.ranges import Range, Ranges

# Stored or lost ranges of a node, shared by all its outboxes. A drained outbox leaves a few. One that drains
# its events before its data has, for a while, a range per event.
MAX_RANGES = 20_000
MAX_EPOCHS = 1_000  # per node: one per outbox that it ever made
MAX_HOLES = 200  # of one outbox, with known age
MAX_HEADS = 50  # claims of an outbox, kept to know since when its last messages are missing


class DraftRefused(Exception):
    """A message for which the ledger has no room now; without an ack its node sends it again."""


class Ledger:
    """All accounts; any thread may call `claim`, only the writer's thread calls `accept`."""

    def __init__(self, marks: Iterable[Account] = (), states: Mapping[str, bytes] | None = None) -> None:
        self.days = Days(states or {})
        self._lock = threading.Lock()
        self._accounts: dict[Key, Account] = {}
        self._outboxes: dict[str, list[str]] = {}  # node -> ep of each
        self._rising: dict[Key, Rising] = {}
        self._current: dict[str, str] = {}  # node -> the ep it writes now
        self._claimed: set[Key] = set()  # claims that are not in the store yet
        self._changed: set[str] = set()  # nodes, since `take_changed`
        self._pruned: Sums = {}  # what retention removed
        for account in marks:
            self._restore(account)

    def _restore(self, account: Account) -> None:
        node, ep = account.node, account.ep
        self._set((node, ep), account)
        newest = self._current.get(node)
        if newest is None or _seen(self._accounts[(node, newest)]) < _seen(account):
            self._current[node] = ep

    def _set(self, key: Key, account: Account) -> None:
        node, ep = key
        if key not in self._accounts:
            self._outboxes.setdefault(node, []).append(ep)
        self._accounts[key] = account
        self._changed.add(node)

    def take_changed(self) -> set[str]:
        """The nodes whose accounts changed since the last call."""
        with self._lock:
            found, self._changed = self._changed, set()
        return found

    def account(self, key: Key) -> Account | None:
        """The account as it is on disk; callers must not change it."""
        return self._accounts.get(key)

    def names(self) -> set[str]:
        """The nodes that have an account."""
        with self._lock:
            return set(self._outboxes)

    def outboxes(self, node: str) -> int:
        """How many outboxes a node ever used."""
        return len(self._outboxes.get(node, ()))

    def claim(self, node: str, ep: str, claim: Claim) -> None:
        """Note a heartbeat's claim; an unknown ep opens an account."""
        key = (node, ep)
        with self._lock:
            account = self._accounts.get(key)
            if account is None:
                if self.outboxes(node) >= MAX_EPOCHS:
                    return
                account = Account(node, ep)
                self._set(key, account)
            lowest = account.claim.head if account.claim else 0
            reached = account.stored.highest()
            highest = max(lowest, reached)
            # a heartbeat may be a little behind the data
            known = highest if claim.head > highest else lowest
            # retained, overtaken or forged: an outbox's numbers never go back, and do not jump
            if not self._rising.setdefault(key, Rising(MAX_JUMP)).believes(known or None, claim.head):
                return
            heads = [] if claim.head < lowest else [one for one in account.heads if one[0] > reached]
            if claim.head > max(reached, heads[-1][0] if heads else 0):
                heads = [*heads[: MAX_HEADS - 1], (claim.head, claim.at_ms)]
            self._set(key, replace(account, claim=claim, heads=heads))
            self._current[node] = ep
            self._claimed.add(key)

    def accept(self, drafts: Iterable[Account], states: Mapping[str, bytes] | None = None) -> None:
        """Take over drafts and their statements, which are on disk now."""
        with self._lock:
            if states:
                self.days.restore(states)
            for draft in drafts:
                key = (draft.node, draft.ep)
                account = self._accounts.get(key)
                if account is None or account.claim is draft.claim:
                    self._set(key, draft)
                else:  # claimed meanwhile
                    self._set(key, replace(draft, claim=account.claim, heads=account.heads))
                self._current.setdefault(draft.node, draft.ep)

    def marks(self, drafts: Iterable[Account] = (), *, everything: bool = False) -> list[Account]:
        """The accounts to write with a group: its drafts and those with new claims, or all."""
        with self._lock:
            changed: dict[Key, Account] = {}
            for draft in drafts:
                key = (draft.node, draft.ep)
                if (account := self._accounts.get(key)) is not None:
                    draft.claim, draft.heads = account.claim, account.heads
                draft.holes = [hole for hole in draft.holes if draft.stored.missing(hole[0], hole[1])]
                changed[key] = draft
            keys = self._accounts.keys() if everything else self._claimed
            for key in keys:
                changed.setdefault(key, self._accounts[key])
            self._claimed.clear()
            return list(changed.values())

    def remember(self, marks: Iterable[Account]) -> None:
        """Undo `marks`: what it returned did not reach the disk."""
        with self._lock:
            self._claimed.update(
                key for mark in marks if (key := (mark.node, mark.ep)) in self._accounts and mark.claim
            )

    def stored(self) -> dict[Key, tuple[Ranges, int]]:
        """The stored numbers and rows of every outbox as they are on disk; callers must not change them."""
        with self._lock:
            return {key: (account.stored, account.rows) for key, account in self._accounts.items()}

    def highest(self, key: Key) -> int:
        """The highest stored number of an outbox."""
        account = self._accounts.get(key)
        return 0 if account is None else account.stored.highest()

    def saved(self, key: Key) -> tuple[Account, dict[str, bytes]] | None:
        """The account of one outbox with its stated days and the keys of its node, as of one moment."""
        with self._lock:
            account = self._accounts.get(key)
            return None if account is None else (account, self.days.saved(key))

    def forget(self, key: Key, numbers: Ranges, rows: int, at_ms: int) -> None:
        """Take numbers out that are in no day file: they are missing, and stored if they come again.

        Only the writer's thread calls it, between two groups.
        """
        with self._lock:
            account = self._accounts.get(key)
            if account is not None:
                self._set(key, without(account, numbers, rows, at_ms))
                self._claimed.add(key)

    def reset(self, node: str) -> list[str]:
        """Forget claims, and numbers that cannot follow the others, of a node; what was forgotten.

        Only the writer's thread calls it, between two groups.
        """
        found: list[str] = []
        with self._lock:
            for key in [(node, ep) for ep in self._outboxes.get(node, ())]:
                account = self._accounts[key]
                self._rising.pop(key, None)
                if account.claim is not None:
                    found.append(f"ep {key[1]}: that its newest number is {account.claim.head}")
                kept, numbers, gaps = plausible(account)
                kept.claim, kept.heads = None, []
                self._set(key, kept)
                if numbers:
                    found.append(f"ep {key[1]}: {numbers} stored numbers far above the others")
                if gaps:
                    found.append(f"ep {key[1]}: {gaps} declared gaps far above the others")
                self._claimed.add(key)
        return found

    def note_pruned(self, pruned: Sums) -> None:
        """Note what retention removed, in all."""
        with self._lock:
            self._changed.update(
                node for node, ep in pruned if self._pruned.get((node, ep)) != pruned[(node, ep)]
            )
            self._pruned = pruned

    @property
    def pruned(self) -> Sums:
        """What retention removed, in all."""
        return self._pruned

    def ring(self, node: str) -> Ring:
        """The keys that signed a node's statements."""
        with self._lock:
            return self.days.rings.get(node, Ring())

    def rings(self) -> dict[str, Ring]:
        """The rings of all nodes."""
        with self._lock:
            return dict(self.days.rings)

    def doubt(self, node: str, since_ms: int) -> str:
        """Why a statement of a node that arrived since then was refused, "" when none was."""
        with self._lock:
            account = self._accounts.get((node, self._current.get(node, "")))
            book = account.book if account is not None else None
        return "" if book is None or book.stated.refused_at < since_ms else book.stated.refused_why

    @property
    def has_claims(self) -> bool:
        """Whether there are claims that the store does not have yet."""
        return bool(self._claimed)

    def entries(self, node: str | None = None) -> list[Entry]:
        """The ledger of one node or of all, ordered by node and time of the first storing."""
        outboxes = self.known(lambda _key: True) if node is None else self.known_of(node)
        found = [entry_of(known) for known in outboxes]
        return sorted(found, key=lambda entry: (entry.node, entry.first, entry.ep))

    def with_days(self, wanted: Callable[[str], bool]) -> list[tuple[Known, dict[str, Day]]]:
        """The outboxes of the `wanted` nodes, each with its stated UTC days."""
        found = self.known(lambda key: wanted(key[0]))
        with self._lock:
            bodies = [self.days.bodies((one.account.node, one.account.ep)) for one in found]
        return [(one, decoded(each)) for one, each in zip(found, bodies, strict=True)]

    def known_of(self, node: str) -> list[Known]:
        """Everything known of the outboxes of one node; callers must not change it."""
        with self._lock:
            current = self._current.get(node)
            return [
                Known(self._accounts[(node, ep)], current or ep, self._pruned.get((node, ep), ()))
                for ep in self._outboxes.get(node, ())
            ]

    def known(self, wanted: Callable[[Key], bool]) -> list[Known]:
        """Everything known of the `wanted` outboxes; callers must not change it."""
        with self._lock:
            return [
                Known(account, self._current.get(key[0], key[1]), self._pruned.get(key, ()))
                for key, account in self._accounts.items()
                if wanted(key)
            ]


def _seen(account: Account) -> int:
    """When something of the account arrived last, ms."""
    return max(account.last, account.claim.at_ms if account.claim else 0)


class Draft:
    """The changes that one group makes to the ledger, kept apart until they are on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._opened: Counter[str] = Counter()  # outboxes that the ledger does not have yet
        self.accounts: dict[Key, Account] = {}
        self.statements = Statements(ledger.days)

    def _account(self, key: Key) -> Account:
        draft = self.accounts.get(key)
        if draft is None:
            account = self._ledger.account(key)
            if account is None:
                self._opened[key[0]] += 1
                if self._outboxes(key[0]) > MAX_EPOCHS:
                    raise DraftRefused(f"{key[0]} used more than {MAX_EPOCHS} outboxes")
            draft = self.accounts[key] = Account(*key) if account is None else account.copy()
        return draft

    def _outboxes(self, node: str) -> int:
        return max(1, self._ledger.outboxes(node) + self._opened[node])

    def _room(self, node: str) -> int:
        """How many ranges one outbox of the node may have."""
        return MAX_RANGES // self._outboxes(node)

    def is_new(self, node: str, ep: str, seq: int) -> bool:
        """Whether a message is not stored yet.

        Raises:
            DraftRefused: its outbox finds no room.
        """
        return seq not in self._account((node, ep)).stored

    def add(self, node: str, ep: str, seq: int, rows: int, at_ms: int) -> bool:
        """Count a message as stored; False for a duplicate, which is counted as such.

        Raises:
            DraftRefused: its number finds no room now.
        """
        account = self._account((node, ep))
        stored = account.stored
        if seq in stored:
            account.duplicates += 1
            return False
        reached = stored.highest()
        if why := jump(reached, seq):
            raise DraftRefused(f"{node} ep {ep}: {why}")
        is_apart = not (seq - 1 in stored or seq + 1 in stored)
        # the lowest missing number always finds room, so an outbox that drains closes its holes
        if is_apart and len(stored) >= self._room(node) and seq != stored.missing(1, reached + 1)[0][0]:
            raise DraftRefused(f"{node} ep {ep}: too many holes between stored numbers, {len(stored)}")
        if seq > reached + 1:
            account.holes = [*account.holes[-MAX_HOLES + 1 :], (reached + 1, seq - 1, account.last or at_ms)]
        stored.add(seq)
        account.rows += rows
        account.first = account.first or at_ms
        account.last = at_ms
        return True

    def number(self, node: str, ep: str, no: tuple[int, int], stream: str, rows: int) -> None:
        """Note the numbers of the rows of a message that was added."""
        key = (node, ep)
        book, account = self.accounts[key].book, self._ledger.account(key)
        book.number(no, stream, rows, None if account is None else account.book)
        while len(book.rows) > 2 * MAX_RUNS:
            self.statements.settle(book, key)

    def state(
        self, node: str, event: Event, recv_ms: int, accepted: Iterable[str], *, is_closed: bool = False
    ) -> None:
        """Take a custody event that was added; a refused statement is stored as an event all the same."""
        book = self.accounts[(node, event.ep)].book
        self.statements.take(book, node, event, recv_ms, accepted, is_closed=is_closed)

    def lose(self, node: str, ep: str, lost: Iterable[Range], why: str) -> None:
        """Note a declared gap.

        Raises:
            DraftRefused: there are too many gaps already.
        """
        account = self._account((node, ep))
        for first, last in lost:
            if why_not := jump(account.stored.highest(), last):
                raise DraftRefused(f"{node} ep {ep}: a declared gap: {why_not}")
            # declared again, perhaps after it was joined with the gap before it
            if any(one[0] <= first and last <= one[1] and one[2] == why for one in account.lost[-8:]):
                continue
            if account.lost and account.lost[-1][2] == why and account.lost[-1][1] + 1 == first:
                account.lost[-1] = (account.lost[-1][0], last, why)
            elif len(account.lost) >= self._room(node):
                raise DraftRefused(f"{node} ep {ep}: {len(account.lost)} gaps were declared already")
            else:
                account.lost.append((first, last, why))
