"""Makes the report of a pilot from the folder of a store, at rest or beside a running collector."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from collector.ledger.saved import saved_ledger
from collector.pilots.planning.baseline import BaselineValues, baseline_values
from collector.pilots.report.assemble import assemble
from collector.pilots.report.document import Report
from collector.store.sqlite_source import SqliteSource
from wire.pilot.frozen import Opened
from wire.pilot.plan import Plan


def of_store(store: Path, versions: Sequence[Opened], until_ms: int) -> Report:
    """The report from the folder of a store; nothing is written.

    Raises:
        WireError: the versions are not of one pilot.
        EdgebedError: the store cannot be read.
    """
    with closing(SqliteSource(store)) as source:
        return assemble(versions, source, saved_ledger(store), until_ms, partial(saved_ledger, store))


def values_of_store(store: Path, plan: Plan, now_ms: int) -> BaselineValues:
    """The values of the baseline of a plan from the folder of a store; nothing is written.

    Raises:
        EdgebedError: it cannot be read, or the plan has no baseline.
    """
    with closing(SqliteSource(store)) as source:
        return baseline_values(plan, source, saved_ledger(store), now_ms)
