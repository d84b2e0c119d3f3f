"""The ledger's account of one outbox: stored numbers, declared losses, and its saved form."""

from __future__ import annotations

from dataclasses import dataclass, field

from collector.ledger.plausible import jump
from collector.store.marks import Book, Claim, Hole, Mark
from wire.ranges import Range, Ranges

MAX_GONE = 200  # ranges


@dataclass(slots=True)
class Account:
    """The account of one (node, ep)."""

    node: str
    ep: str
    stored: Ranges = field(default_factory=Ranges)
    lost: list[tuple[int, int, str]] = field(default_factory=list)
    duplicates: int = 0
    rows: int = 0
    first: int = 0
    last: int = 0
    holes: list[Hole] = field(default_factory=list)  # unstored numbers below the highest, and since when
    book: Book = field(default_factory=Book)
    gone: list[Range] = field(default_factory=list)  # were stored, and are in no day file

    def without(self, numbers: Ranges, rows: int, at_ms: int) -> Account:
        """A copy without `numbers` and `rows`, which are in no day file."""
        found = self.copy()
        found.stored = self.stored.without(numbers)
        found.rows = max(0, self.rows - rows)
        gone = Ranges(self.gone)
        for first, last in numbers:
            gone.update(self.stored.within(first, last))  # `reset-node` may have forgotten others meanwhile
        found.gone = list(gone)[-MAX_GONE:]
        found.holes = [*self.holes, *((first, last, at_ms) for first, last in numbers)][-MAX_GONE:]
        return found

    def plausible(self) -> tuple[Account, int, int]:
        """A copy without what lies far above the other numbers, and how many numbers and gaps that were."""
        found, highest, kept = self.copy(), 0, Ranges()
        for first, last in self.stored:
            if jump(highest, last):
                break
            kept.add(first, last)
            highest = last
        found.stored = kept
        found.lost = [gap for gap in self.lost if not jump(highest, gap[1])]
        found.gone = [one for one in self.gone if not jump(highest, one[1])]
        found.holes = [hole for hole in self.holes if hole[1] <= highest]
        return found, self.stored.count() - kept.count(), len(self.lost) - len(found.lost)

    def copy(self) -> Account:
        """A draft; changes to it do not change this account."""
        return Account(
            self.node,
            self.ep,
            self.stored.copy(),
            list(self.lost),
            self.duplicates,
            self.rows,
            self.first,
            self.last,
            list(self.holes),
            self.book.copy(),
            list(self.gone),
        )

    @classmethod
    def of(cls, mark: Mark) -> Account:
        """The account of a stored mark."""
        return cls(
            mark.node,
            mark.ep,
            Ranges(mark.stored),
            list(mark.lost),
            mark.duplicates,
            mark.rows,
            mark.first,
            mark.last,
            list(mark.holes),
            Book() if mark.book is None else Book.of(mark.book),
            list(mark.gone),
        )

    def mark(self, claim: Claim | None, heads: list[tuple[int, int]]) -> Mark:
        """The stored form."""
        self.holes = [hole for hole in self.holes if self.stored.missing(hole[0], hole[1])]
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
            self.holes,
            heads,
            self.book.saved(),
            self.gone,
        )
