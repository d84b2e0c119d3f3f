"""Makes the report of a pilot from the folder of a store, at rest or beside a running collector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

from collector.ledger.ledger import Ledger
from collector.ledger.saved import saved_ledger
from collector.pilots.planning.baseline import BaselineValues, baseline_values
from collector.pilots.report.assemble import assemble
from collector.pilots.report.document import Report
from collector.store.sqlite_source import SqliteSource
from wire.errors import TryAgain
from wire.pilot.frozen import Opened
from wire.pilot.plan import Plan

T = TypeVar("T")

TRIES = 3


def of_store(store: Path, versions: Sequence[Opened], until_ms: int) -> Report:
    """The report from the folder of a store; nothing is written.

    Raises:
        WireError: the versions are not of one pilot.
        TryAgain: retention goes on removing data.
        EdgebedError: the store cannot be read.
    """
    newest = partial(saved_ledger, store)
    with closing(SqliteSource(store)) as source:
        return undisturbed(newest, lambda ledger: assemble(versions, source, ledger, until_ms, newest))


def values_of_store(store: Path, plan: Plan, now_ms: int) -> BaselineValues:
    """The values of the baseline of a plan from the folder of a store; nothing is written.

    Raises:
        TryAgain: retention goes on removing data.
        EdgebedError: it cannot be read, or the plan has no baseline.
    """
    with closing(SqliteSource(store)) as source:
        return undisturbed(
            partial(saved_ledger, store), lambda ledger: baseline_values(plan, source, ledger, now_ms)
        )


def undisturbed(newest: Callable[[], Ledger], make: Callable[[Ledger], T]) -> T:
    """What `make` gives of a ledger; it is made again if retention removed data meanwhile.

    Rows that were removed after the ledger was read would be called missing.

    Raises:
        TryAgain: retention goes on removing data.
    """
    for _ in range(TRIES):
        ledger = newest()
        made = make(ledger)
        if newest().pruned == ledger.pruned:
            return made
    raise TryAgain("retention is removing data of the store: try again when it has ended")
