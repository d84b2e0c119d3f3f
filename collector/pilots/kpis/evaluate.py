"""Evaluates a KPI of a plan in every period: its value, and whether the period counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from collector.ledger.ledger import Ledger
from collector.pilots.kpis import steps
from collector.pilots.kpis.absences import DATA_CHANGED
from collector.pilots.kpis.inputs import SILENT, Facts, Inputs
from collector.pilots.kpis.library import Parts, parts
from collector.pilots.kpis.rows import TooMany
from collector.pilots.kpis.steps import Span
from collector.pilots.kpis.stored import Reading, Stored
from collector.store.source import Key, Source
from wire.pilot import expression
from wire.pilot.plan import Condition, Kpi, Plan
from wire.pilot.schedule import Arm, Period, Phase, Schedule, counted, time_zone, utc_ms

Status = Literal["used", "missing", "incomplete", "clock", "excluded", "cut"]


@dataclass(frozen=True, slots=True)
class PeriodValue:
    """A KPI in one period, and whether it counts.

    `value` is `numerator / denominator`, in the unit of the KPI; both are there for the sums of a ratio or of
    a count. What a period that does not count would have had is kept, where it is known. `code` and `why`
    say why it does not count; `why` names a condition, a day file or an outbox.
    """

    index: int
    phase: Phase
    arm: Arm
    start_ms: int  # the counted span
    end_ms: int
    status: Status
    code: str = ""
    why: str = ""
    value: float | None = None
    numerator: float | None = None
    denominator: float | None = None
    rows: int = 0
    left_out: int = 0  # rows that are flagged, and values that are not numbers
    completeness: float = 0.0
    clock_ms: int | None = None  # the largest error of a clock that is known


@dataclass(frozen=True, slots=True)
class Changed:
    """An event of a node that somebody changed; without a time it may be of every period."""

    node: str
    at_ms: int | None
    why: str

    def meets(self, period: Period, machine: str) -> bool:
        """Whether it may be of a period of a machine, "" for those of all nodes."""
        is_here = not machine or machine == self.node or machine.startswith(f"{self.node}/")
        return is_here and (self.at_ms is None or period.start_ms <= self.at_ms < period.end_ms)


def evaluate(
    kpi: Kpi,
    plan: Plan,
    schedule: Schedule,
    source: Source,
    ledger: Ledger,
    *,
    rates: Mapping[Key, float] | None = None,
) -> list[PeriodValue]:
    """The values of one KPI in all periods. Raises as `evaluate_all`."""
    return evaluate_all([(kpi, "")], plan, schedule, source, ledger, rates=rates)[0]


def evaluate_all(
    asked: Sequence[tuple[Kpi, str]],
    plan: Plan,
    schedule: Schedule,
    source: Source,
    ledger: Ledger,
    *,
    rates: Mapping[Key, float] | None = None,
    until_ms: int | None = None,
    changed: Sequence[Changed] = (),
) -> list[list[PeriodValue]]:
    """Of each KPI and machine, the values of all periods in order, or of those that are over at `until_ms`.

    A machine limits a KPI to one of a parallel or paired design: a node, or a device in the place of the
    device of every input. An input that names its node stays as it is; "" is all nodes. `rates` are declared
    rates in Hz: fewer rows than that lower the completeness. `changed` are events that stated what was
    applied.
    Rows of a period are read once for all KPIs. Set `source.deadline` before.

    Raises:
        WireError: the unit of a KPI has another dimension than its formula.
        EdgebedError: as every question to the source.
    """
    reading = Reading(source, ledger, plan, rates or {})
    stored = {machine: Stored(reading, machine) for _, machine in asked}
    judged = [(_Judged(kpi, plan, stored[machine]), machine) for kpi, machine in asked]
    trial_ms = schedule.trial[0].start_ms if schedule.trial else 0  # a plan is made from a baseline alone
    found: list[list[PeriodValue]] = [[] for _ in asked]
    for index, period in enumerate(schedule.periods):
        if until_ms is not None and period.end_ms > until_ms:
            break
        start, end = counted(period, plan, trial_ms)
        for values, (one, machine) in zip(found, judged, strict=True):
            is_treated = not machine or not schedule.treated or machine in schedule.treated
            arm: Arm = period.arm if is_treated else "off"
            empty = PeriodValue(index, period.phase, arm, start, end, "cut", "settling")
            value = one.value(empty) if end > start else empty
            why = next((each.why for each in changed if each.meets(period, machine)), "")
            if why and value.status == "used":
                value = replace(value, status="incomplete", code=DATA_CHANGED, why=why)
            values.append(value)
    return found


class _Judged:
    """One KPI of one pilot."""

    def __init__(self, kpi: Kpi, plan: Plan, stored: Stored) -> None:
        self._kpi = kpi
        self._plan = plan
        self._stored = stored
        zone = time_zone(plan.windows.tz)
        self._left_out = [
            (utc_ms(each.start, zone), utc_ms(each.end, zone), each.why) for each in plan.exclude.times
        ]

    def value(self, empty: PeriodValue) -> PeriodValue:
        for start, end, why in self._left_out:
            if start < empty.end_ms and empty.start_ms < end:
                return replace(empty, status="excluded", code="left-out", why=why)
        try:
            return self._read(empty)
        except TooMany as error:  # a device that floods one period must not take the report
            return replace(empty, status="incomplete", code="too-many", why=str(error))

    def _read(self, empty: PeriodValue) -> PeriodValue:
        span = empty.start_ms * 1000, empty.end_ms * 1000
        inputs = Inputs(self._stored, self._kpi.inputs, self._kpi.given, span)
        found = parts(self._kpi, inputs)
        if found is not None and not (math.isfinite(found.numerator) and math.isfinite(found.denominator)):
            found = None
        facts = inputs.facts
        complete, doubt = _completeness(facts, span)
        filled = replace(
            empty,
            value=None if found is None else _quotient(found),
            numerator=None if found is None else found.numerator,
            denominator=None if found is None else found.denominator,
            rows=facts.used,
            left_out=facts.left_out,
            completeness=complete,
            clock_ms=facts.clock_ms,
        )
        status, code, why = self._status(filled, found, facts, doubt)
        return replace(filled, status=status, code=code, why=why)

    def _status(
        self, filled: PeriodValue, found: Parts | None, facts: Facts, doubt: tuple[str, str]
    ) -> tuple[Status, str, str]:
        unknown = ""
        for condition in self._plan.exclude.when:
            is_true, is_known = self._holds(condition, (filled.start_ms * 1000, filled.end_ms * 1000))
            if is_true:
                return "excluded", "condition", condition.id
            unknown = unknown or ("" if is_known else condition.id)
        has_fields = any(each.field is not None for each in self._kpi.inputs.values())
        # the sum of a ratio takes a period whose own ratio does not exist
        is_whole = found is not None and (filled.value is not None or self._kpi.compared == "ratio")
        rules: list[tuple[bool, tuple[Status, str, str]]] = [
            (
                has_fields and not facts.found,
                ("missing", *(("no-data", "") if doubt[0] == SILENT else doubt)),
            ),
            (bool(facts.clock), ("clock", facts.clock, "")),
            (bool(facts.changed), ("incomplete", DATA_CHANGED, facts.changed)),
            (filled.completeness < self._plan.data.min_complete, ("incomplete", *doubt)),
            (bool(unknown), ("incomplete", "condition-unknown", unknown)),
            (not is_whole, ("missing", "no-value", "")),
        ]
        used: tuple[Status, str, str] = ("used", *(doubt if doubt[0] != SILENT else ("", "")))
        return next((given for applies, given in rules if applies), used)

    def _holds(self, condition: Condition, span: Span) -> tuple[bool, bool]:
        """Whether a condition is true, and whether its data are complete."""
        inputs = Inputs(self._stored, condition.inputs, condition.given, span)
        part = expression.parse(condition.when, compares=True)
        is_true = expression.evaluate(part, condition.given, inputs.value)
        complete, _ = _completeness(inputs.facts, span)
        is_known = is_true is not None and not inputs.facts.changed
        return bool(is_true), is_known and complete >= self._plan.data.min_complete


def covariate(plan: Plan, name: str) -> Kpi:
    """A covariate of `adjust.covariates` as a KPI: its mean in each period."""
    each = plan.adjust.covariates[name]
    formula = f"rate({name})" if each.event is not None else f"mean({name})"
    return Kpi(
        id=name.replace("_", "-"),
        kpi_class="E",
        formula=formula,
        inputs={name: each},
        unit=each.unit,
        direction="increase",
    )


def _quotient(found: Parts) -> float | None:
    """The ratio; None where the denominator is 0 or the ratio is beyond all floats."""
    value = found.numerator / found.denominator if found.denominator else math.inf
    return value if math.isfinite(value) else None


def _completeness(facts: Facts, span: Span) -> tuple[float, tuple[str, str]]:
    """The share of the span that is known of the worst input, and a code and a reason for the rest."""
    share = min(facts.known.values(), default=1.0)
    length = span[1] - span[0]
    lost = [(each.start_us, each.end_us) for each in facts.absences]
    if not lost or 2 * steps.length_us(lost, span) < (1 - share) * length:
        return share, (SILENT, "")
    longest = max(
        sorted(facts.absences), key=lambda each: min(each.end_us, span[1]) - max(each.start_us, span[0])
    )
    return share, (longest.code, longest.why)
