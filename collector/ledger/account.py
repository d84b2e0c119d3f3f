"""Copies of an account without some of its numbers."""

from __future__ import annotations

from collector.ledger.plausible import jump
from collector.store.marks import Account
from wire.ranges import Ranges

MAX_GONE = 200  # ranges


def without(account: Account, numbers: Ranges, rows: int, at_ms: int) -> Account:
    """A copy without `numbers` and `rows`, which are in no day file."""
    found = account.copy()
    found.stored = account.stored.without(numbers)
    found.rows = max(0, account.rows - rows)
    gone = Ranges(account.gone)
    for first, last in numbers:
        gone.update(account.stored.within(first, last))  # `reset-node` may have forgotten others meanwhile
    found.gone = list(gone)[-MAX_GONE:]
    found.holes = [*account.holes, *((first, last, at_ms) for first, last in numbers)][-MAX_GONE:]
    return found


def plausible(account: Account) -> tuple[Account, int, int]:
    """A copy without what lies far above the other numbers, and how many numbers and gaps that were."""
    found, highest, kept = account.copy(), 0, Ranges()
    for first, last in account.stored:
        if jump(highest, last):
            break
        kept.add(first, last)
        highest = last
    found.stored = kept
    found.lost = [gap for gap in account.lost if not jump(highest, gap[1])]
    found.gone = [one for one in account.gone if not jump(highest, one[1])]
    found.holes = [hole for hole in account.holes if hole[1] <= highest]
    return found, account.stored.count() - kept.count(), len(account.lost) - len(found.lost)
