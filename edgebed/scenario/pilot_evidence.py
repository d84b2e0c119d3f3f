"""What the collector stored about a pilot, what its KPIs are, and what its plant knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.ledger.ledger import Ledger
from collector.pilots.report.assemble import assemble
from collector.pilots.report.canonical_report import report_bytes
from collector.pilots.report.document import KpiReport
from collector.pilots.report.from_store import of_store
from collector.store.source import ALL, Source, newest_first
from simulators.plants.trial import Comparison
from wire.clock import NS_PER_MS
from wire.pilot.frozen import Opened
from wire.pilot.schedule import counted
from wire.topics import NODE_ITSELF


@dataclass
class PilotEvidence:
    """One pilot after its trial."""

    opened: Opened
    frozen: list[dict[str, Any]]  # the events `pilot` of its nodes, oldest first
    exposures: list[dict[str, Any]]  # the events `exposure`, oldest first
    kpis: tuple[KpiReport, ...]  # of the report
    report: bytes
    again: bytes  # the report once more, as `edgebed pilot report --recompute` makes it
    plant: list[Comparison]  # of each period, without its wash-out

    @property
    def primary(self) -> KpiReport:
        """The KPI that decides."""
        return next(each for each in self.kpis if each.primary)

    @property
    def true_effect(self) -> float:
        """The change of the primary KPI by the plant, as a share; NaN where it cannot be known."""
        whole, acting = self._sums("without"), self._sums("with_change")
        return acting / whole - 1 if whole else math.nan

    def _sums(self, arm: str) -> float:
        primary = self.plant[0].plant.primary
        found = [getattr(each, arm) for each in self.plant]
        return primary({name: math.fsum(each[name] for each in found) for name in found[0]})


def read_pilot(source: Source, store: Path, ledger: Ledger, opened: Opened, plant: Any) -> PilotEvidence:
    """Read a pilot from a store at rest: its report twice, with the ledger of the run and that of the store.

    Blocks.
    """
    plan, schedule = opened.plan.plan, opened.plan.schedule
    end_ms = schedule.trial_ms[1]
    report = assemble([opened], source, ledger, end_ms)
    frozen, exposures = (_events(source, opened, kind) for kind in ("pilot", "exposure"))
    again = report_bytes(of_store(store, [opened], end_ms))
    spans = [counted(period, plan, schedule.trial_ms[0]) for period in schedule.trial]
    compared = [plant.compare(start * NS_PER_MS, end * NS_PER_MS) for start, end in spans]
    return PilotEvidence(opened, frozen, exposures, report.kpis, report_bytes(report), again, compared)


def _events(source: Source, opened: Opened, kind: str) -> list[dict[str, Any]]:
    return [
        event
        for node in opened.plan.plan.nodes
        for event in reversed(list(newest_first(source, node, NODE_ITSELF, ALL, kind)))
    ]
