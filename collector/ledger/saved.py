"""The ledger in the files of a store, at rest or beside a running collector."""

from __future__ import annotations

from pathlib import Path

from collector.ledger.ledger import Ledger
from collector.store.pruned import sums
from collector.store.store import peek


def saved_ledger(store: Path) -> Ledger:
    """The ledger as it is saved now, with what retention removed; nothing is written.

    Raises:
        EdgebedError: the store cannot be read.
    """
    saved = peek(store)
    ledger = Ledger(saved.marks, saved.states)
    ledger.note_pruned(sums(store))
    return ledger
