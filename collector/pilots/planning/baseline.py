"""The periods of a baseline that are over, by the KPIs of a plan that is not frozen yet."""

from __future__ import annotations

from msgspec import Struct

from collector.ledger.ledger import Ledger
from collector.pilots.kpis.evaluate import PeriodValue, covariate, evaluate_all
from collector.store.source import Source
from wire.errors import EdgebedError
from wire.pilot.plan import Kpi, Plan
from wire.pilot.schedule import Schedule, schedule

Values = tuple[PeriodValue, ...]


class BaselineValues(Struct, frozen=True, kw_only=True):
    """What `edgebed pilot plan` needs; `kpis` has the values by KPI and machine, "" without machines.

    Periods that are not over at `now_ms` are not evaluated: `to_come` is their number.
    """

    now_ms: int
    to_come: int
    last_ms: int  # the end of the baseline
    kpis: dict[str, dict[str, Values]]
    nodes: tuple[str, ...] = ()
    covariates: dict[str, Values] = {}


def machines_of(plan: Plan) -> tuple[str, ...]:
    """The machines that are evaluated alone; "" where all nodes count together."""
    groups = plan.design.groups
    return groups.machines if groups is not None and groups.machines else ("",)


def planned_kpis(plan: Plan) -> list[Kpi]:
    """The KPIs that decide something, the primary first."""
    others = [kpi for kpi in plan.kpis if not kpi.primary and (kpi.target or kpi.guardrail)]
    return [plan.primary, *others]


def baseline_values(plan: Plan, source: Source, ledger: Ledger, now_ms: int) -> BaselineValues:
    """Evaluate the baseline of a plan; set `source.deadline` before.

    Raises:
        EdgebedError: the plan has no baseline; or as `evaluate`.
    """
    planned = [each for each in schedule(plan).periods if each.phase == "baseline"]
    if not planned:
        raise EdgebedError(
            f"the plan of {plan.pilot} has no baseline: write windows.baseline, or give --baseline"
        )
    over = Schedule(periods=tuple(each for each in planned if each.end_ms <= now_ms))

    kpis, machines = planned_kpis(plan), machines_of(plan)
    asked = [(kpi, machine) for kpi in kpis for machine in machines]
    asked += [(covariate(plan, name), "") for name in plan.adjust.covariates]
    found = iter(evaluate_all(asked, plan, over, source, ledger))
    return BaselineValues(
        now_ms=now_ms,
        to_come=len(planned) - len(over.periods),
        last_ms=planned[-1].end_ms,
        nodes=plan.nodes,
        kpis={kpi.id: {machine: tuple(next(found)) for machine in machines} for kpi in kpis},
        covariates={name: tuple(next(found)) for name in plan.adjust.covariates},
    )
