"""Looks after the store: rescues damaged day files, compares the ledger with the files, applies retention."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from collector.backup.pace import Pace
from collector.health import CollectorProblems
from collector.ledger.comparison import Gone, compared
from collector.ledger.ledger import Ledger
from collector.pruning import Pruner
from collector.store.pruned import PrunedSums
from collector.store.reader import Readers
from collector.store.rescue import damage
from collector.store.retention import RetentionRule
from collector.store.snapshot import Stopped
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.reasons import because

log = logging.getLogger(__name__)

EVERY_S = 1.0
COMPARE_S = 86_400.0
AGAIN_S = 300.0  # after a failure
FIRST_PRUNE_S = 10.0
PRUNE_EVERY_S = 10.0
SHOWN_S = 2 * COMPARE_S  # how long `health` shows what a comparison found


class Upkeep:
    """`step` blocks for as long as the files need; one thread calls it."""

    def __init__(
        self,
        pruner: Pruner,
        readers: Readers,
        ledger: Ledger,
        problems: CollectorProblems,
        clock: Clock,
        forget: Callable[[Gone], None],
    ) -> None:
        self._store = store = pruner.store
        self._readers = readers
        self._ledger = ledger
        self._problems = problems
        self._clock = clock
        self._forget = forget  # has the writer take numbers out of the ledger
        self._pruner = pruner
        self._pruned = PrunedSums(store.folder)
        self._pace = Pace()
        self._warned: set[RetentionRule] = set()  # those that no node matches
        self._prune_at = clock.monotonic() + FIRST_PRUNE_S
        self._compared_at: float | None = None
        self._again_at = -math.inf
        self._damaged: dict[str, int] = {}  # files that were looked at, and the rows that each lost

    def step(self) -> None:
        """Do what is due now; whatever fails is a problem that `health` shows, and is tried again later."""
        if self._clock.monotonic() < self._again_at:
            return
        try:
            self._rescue()
            if self._compared_at is None or self._clock.monotonic() - self._compared_at >= COMPARE_S:
                self._ledger.note_pruned(self._pruned.now())
                self._compare()
            if self._clock.monotonic() >= self._prune_at:
                self._prune()
        except Stopped:
            return
        except Exception as error:
            expected = isinstance(error, (OSError, EdgebedError))
            log.warning("the day files cannot be checked", exc_info=None if expected else error)
            self._again_at = self._clock.monotonic() + AGAIN_S
            text = f"the day files cannot be checked: {error}"
            self._problems.report(because(text, "store-unchecked", detail=str(error)), for_s=AGAIN_S + 60)

    def stop(self) -> None:
        """End a long step; any thread."""
        self._pace.stop()

    def prune_now(self) -> None:
        """Have the next step do what retention demands; any thread."""
        self._prune_at = -math.inf

    def _prune(self) -> None:
        """Remove what is due from one day file; the next step goes on when there may be more."""
        self._warn_of_rules()
        done = self._pruner.step(self._pace.step)
        self._ledger.note_pruned(self._pruned.now())
        if done is None:
            self._prune_at = self._clock.monotonic() + PRUNE_EVERY_S
        if why := self._pruner.problem:
            self._problems.report(because(why, "store-not-pruned", detail=why))
        else:
            self._problems.clear("store-not-pruned")

    def _warn_of_rules(self) -> None:
        for rule in self._store.retention.unmatched(self._ledger.names()):
            if rule not in self._warned:
                self._warned.add(rule)
                log.warning("retention: no node is known to which the rule for %s applies", rule.what)

    def note_damage(self) -> set[str]:
        """Report damaged files that were not looked at yet; the names of all. Any thread."""
        names = self._names()
        for name in names - self._damaged.keys():
            self._problems.report(because(f"day file {name} is damaged", "day-file-damaged", day=name), name)
        return names

    def _names(self) -> set[str]:
        return {path.name.removesuffix(".damaged") for path in self._store.aside()}

    def _rescue(self) -> None:
        suspects = self._readers.take_suspects()
        if self.note_damage() == self._damaged.keys() and not suspects:
            return
        found = self._store.rescue(suspects)
        before, names = self._damaged, self._names()
        self._damaged = {name: found.get(name, 0) for name in names}
        for name in before.keys() - names:  # someone removed the damaged file
            self._problems.clear("rows-unreadable", name)
            self._problems.clear("day-file-damaged", name)
        for name, rows in found.items():
            if not rows:  # how many is not known: the comparison names the messages that are gone
                self._problems.report(because(damage(name, rows), "day-file-damaged", day=name), name)
                continue
            self._problems.clear("day-file-damaged", name)
            self._problems.report(because(damage(name, rows), "rows-unreadable", day=name, rows=rows), name)
        if found.keys() - before.keys() or suspects:
            self._compared_at = None  # the ledger names the messages that are gone

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
