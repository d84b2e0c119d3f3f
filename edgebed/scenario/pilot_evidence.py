"""What the collector stored about a pilot, what its KPIs are, and what its plant knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collector.ledger.ledger import Ledger
from collector.pilots.effects import counts, ratios, switchback
from collector.pilots.effects.effect import Result
from collector.pilots.kpis.evaluate import PeriodValue, evaluate
from collector.store.source import ALL, Source
from simulators.plants.trial import Comparison
from wire.clock import NS_PER_MS
from wire.pilot.frozen import Opened
from wire.pilot.plan import Kpi
from wire.pilot.schedule import Arm, counted

_ARMS: tuple[Arm, Arm] = ("on", "off")
Values = dict[str, list[PeriodValue]]  # by KPI


@dataclass
class PilotEvidence:
    """One pilot after its trial."""

    opened: Opened
    frozen: list[dict[str, Any]]  # the events `pilot` of its nodes, oldest first
    exposures: list[dict[str, Any]]  # the events `exposure`, oldest first
    values: Values
    again: Values  # the same, read once more
    plant: list[Comparison]  # of each period, without its wash-out

    @property
    def true_effect(self) -> float:
        """The change of the primary KPI by the plant, as a share; NaN where it cannot be known."""
        whole, acting = self._sums("without"), self._sums("with_change")
        return acting / whole - 1 if whole else math.nan

    def _sums(self, arm: str) -> float:
        primary = self.plant[0].plant.primary
        found = [getattr(each, arm) for each in self.plant]
        return primary({name: math.fsum(each[name] for each in found) for name in found[0]})


def read_pilot(sources: Sequence[Source], ledger: Ledger, opened: Opened, plant: Any) -> PilotEvidence:
    """Read a pilot from a store at rest, its KPIs twice: by two sources of the same store. Blocks."""
    plan, schedule = opened.plan.plan, opened.plan.schedule
    first, again = (
        {kpi.id: evaluate(kpi, plan, schedule, source, ledger) for kpi in plan.kpis} for source in sources
    )
    frozen, exposures = (_events(sources[0], opened, kind) for kind in ("pilot", "exposure"))
    spans = [counted(period, plan, schedule.trial_ms[0]) for period in schedule.trial]
    compared = [plant.compare(start * NS_PER_MS, end * NS_PER_MS) for start, end in spans]
    return PilotEvidence(opened, frozen, exposures, first, again, compared)


def _events(source: Source, opened: Opened, kind: str) -> list[dict[str, Any]]:
    return [
        event
        for node in opened.plan.plan.nodes
        for _, event in reversed(source.events(node, "_", limit=10_000, before=(ALL, "", 0), kind=kind))
    ]


def effect_of(kpi: Kpi, values: list[PeriodValue], seed: int) -> Result:
    """The effect of a switchback on a KPI, from the periods that count."""
    trial = [each for each in values if each.phase == "trial"]
    pairs = [{each.arm: each for each in pair} for pair in zip(trial[::2], trial[1::2], strict=True)]

    def column(arm: Arm, part: str) -> list[float | None]:
        return [getattr(each[arm], part) if each[arm].status == "used" else None for each in pairs]

    estimand = kpi.compared
    if estimand == "mean":
        limit = kpi.target or kpi.guardrail
        relative = limit is None or limit.scale == "relative"
        return switchback.effect(column("on", "value"), column("off", "value"), seed=seed, relative=relative)
    on, on_per, off, off_per = (column(arm, part) for arm in _ARMS for part in ("numerator", "denominator"))
    if estimand == "ratio":
        return ratios.pairs(on, on_per, off, off_per)
    return counts.pairs(on, off, on_exposure=on_per, off_exposure=off_per)
