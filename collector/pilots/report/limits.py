"""What the design of a pilot does not show, as codes; their texts are in `codes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collector.pilots.report.document import KpiReport
from wire.pilot.checks import MIN_MACHINES
from wire.pilot.plan import Plan
from wire.pilot.schedule import Schedule


def limits(plan: Plan, schedule: Schedule, kpis: Sequence[KpiReport]) -> Iterator[str]:
    """The limits of a report, in the order in which they are printed."""
    design = plan.design
    if design.kind == "before-after":
        yield from ("other-changes", "slow-build-up", "noise-change")
        if plan.adjust.trend == "none":
            yield "trend-not-checked"
    if design.kind == "switchback":
        yield "washout-short" if design.washout_s < design.carry_over_s else "carry-over"
    if design.kind == "parallel" and design.groups is not None:
        treated = len(schedule.treated)
        if min(treated, len(design.groups.machines) - treated) < MIN_MACHINES:
            yield "machines-alike"
        yield "machines-influence"
    if design.kind == "paired":
        yield "shadow-only"
        if design.groups is None:
            yield "periods-independent"
    if design.kind != "before-after" and (plan.adjust.weekday or plan.adjust.covariates):
        yield "not-adjusted"
    if len(kpis) > 1:
        yield "one-primary"
    compared = {kpi.estimand for kpi in kpis}
    if design.kind == "before-after" and compared & {"ratio", "count"}:
        yield "ratio-linearised"
    if any(kpi.effect is not None and kpi.effect.high is None for kpi in kpis):
        yield "no-upper-limit"
    if any(_is_absolute_ratio(kpi) for kpi in kpis):
        yield "absolute-ratio"


def _is_absolute_ratio(kpi: KpiReport) -> bool:
    return kpi.estimand != "mean" and kpi.effect is not None and not kpi.effect.relative
