"""Looks after the store: rescues damaged day files, and compares the ledger with the files."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from collector.health import CollectorProblems
from collector.ledger.comparison import Gone, compared
from collector.ledger.ledger import Ledger
from collector.store.reader import Readers
from collector.store.store import SqliteStore
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.reasons import because

log = logging.getLogger(__name__)

EVERY_S = 10.0
COMPARE_S = 86_400.0
SHOWN_S = 2 * COMPARE_S  # how long `health` shows what a comparison found


class Upkeep:
    """`step` blocks for as long as the files need; one thread calls it."""

    def __init__(
        self,
        store: SqliteStore,
        readers: Readers,
        ledger: Ledger,
        problems: CollectorProblems,
        clock: Clock,
        forget: Callable[[Gone], None],
    ) -> None:
        self._store = store
        self._readers = readers
        self._ledger = ledger
        self._problems = problems
        self._clock = clock
        self._forget = forget  # has the writer take numbers out of the ledger
        self._compared_at: float | None = None
        self._damaged: dict[str, int] = {}

    def step(self) -> None:
        """Do what is due now; a failing disk is a problem, not an error."""
        try:
            self._rescue()
            if self._compared_at is None or self._clock.monotonic() - self._compared_at >= COMPARE_S:
                self._compare()
        except (OSError, sqlite3.Error, EdgebedError) as error:
            text = f"the day files cannot be checked: {error}"
            self._problems.report(because(text, "store-unchecked", detail=str(error)), for_s=6 * EVERY_S)

    def _rescue(self) -> None:
        suspects = self._readers.take_suspects()
        names = {path.name.removesuffix(".damaged") for path in self._store.aside()}
        if not suspects and names == self._damaged.keys():
            return
        for name in names - self._damaged.keys():
            self._problems.report(because(f"day file {name} is damaged", "day-file-damaged", day=name), name)
        found = self._store.rescue(suspects)
        for name in self._damaged.keys() - names:  # someone removed the damaged file
            self._problems.clear("rows-unreadable", name)
            self._problems.clear("day-file-damaged", name)
        for name, rows in found.items():
            text = f"day file {name} is damaged: {rows} rows cannot be read"
            self._problems.clear("day-file-damaged", name)
            self._problems.report(because(text, "rows-unreadable", day=name, rows=rows), name)
        if found.keys() - self._damaged.keys() or suspects:
            self._compared_at = None  # the ledger names the messages that are gone
        self._damaged = {name: found.get(name, 0) for name in names}

    def _compare(self) -> None:
        self._compared_at = self._clock.monotonic()
        gone = compared(self._store, self._ledger)
        count = sum(one.numbers.count() for one in gone.values())
        if not count:
            return
        node = min(gone)[0]
        text = (
            f"{count} messages that were acknowledged are in no day file, such as of {node}: see the ledger"
        )
        self._problems.report(because(text, "messages-gone", n=count, node=node), for_s=SHOWN_S)
        self._forget(gone)
