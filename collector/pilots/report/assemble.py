"""Assembles the report of a pilot from its signed plans and what a store has of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msgspec.structs import replace

from collector.ledger.ledger import Ledger
from collector.pilots.effects import verdict
from collector.pilots.effects.verdict import Verdict
from collector.pilots.kpis.absences import DATA_CHANGED, DATA_DAMAGED
from collector.pilots.kpis.evaluate import PeriodValue, covariate, evaluate_all
from collector.pilots.kpis.rows import absent_day
from collector.pilots.report import custody as of_custody
from collector.pilots.report.analysis import Measured
from collector.pilots.report.counted import counted
from collector.pilots.report.document import Finding, PlanVersion, Report, State
from collector.pilots.report.exposure import Exposed, exposed
from collector.pilots.report.kpi_report import Judged, Trial, judged
from collector.pilots.report.limits import limits
from collector.pilots.report.sources import InputsRead, read_inputs
from collector.pilots.report.stored_events import PilotEvents, nodes_of, read_pilot_events
from collector.store.source import Source
from collector.version import installed_version
from wire.errors import EdgebedError, WireError
from wire.pilot.frozen import Opened, require_sound
from wire.pilot.plan import Exclude, Kpi, Plan
from wire.pilot.schedule import Period, Schedule, schedule


@dataclass(frozen=True, slots=True)
class _Pilot:
    """A pilot and what is stored of it."""

    versions: Sequence[Opened]  # the newest last
    source: Source
    ledger: Ledger
    until_ms: int
    later: Callable[[], Ledger] | None  # reads the ledger again
    events: PilotEvents

    @property
    def newest(self) -> Opened:
        return self.versions[-1]

    @property
    def plan(self) -> Plan:
        return self.newest.plan.plan

    @property
    def schedule(self) -> Schedule:
        return self.newest.plan.schedule

    @property
    def over(self) -> list[Period]:
        """The periods that are over."""
        return [each for each in self.schedule.periods if each.end_ms <= self.until_ms]


def assemble(
    versions: Sequence[Opened],
    source: Source,
    ledger: Ledger,
    until_ms: int,
    newest: Callable[[], Ledger] | None = None,
) -> Report:
    """The report of a pilot as of `until_ms`; after the trial, as of its end. Blocks.

    `versions` are the signed versions of its plan, the newest last; their signatures are not checked here.
    Set `source.deadline`, and call `ledger.note_pruned(sums(folder))` before. Where `ledger` is a copy and a
    collector may be running, `newest` reads it again.

    Raises:
        WireError: the versions do not amend each other, or the unit of a KPI has another dimension.
        ConfigError: a plan that was made by hand has mistakes.
        EdgebedError: a period has too many rows; or as every question to the source.
    """
    _require_chain(versions)
    try:
        return _assembled(versions, source, ledger, until_ms, newest)
    except (LookupError, StopIteration, ArithmeticError, ValueError, TypeError):
        # a frozen plan may say what `pilot.yaml` cannot; one of an older release is not held to newer rules
        for each in versions:
            require_sound(each, f"plan {each.hash[:12]}")
        raise


def _assembled(
    versions: Sequence[Opened],
    source: Source,
    ledger: Ledger,
    until_ms: int,
    newest: Callable[[], Ledger] | None,
) -> Report:
    end_ms = versions[-1].plan.schedule.trial_ms[1]
    until_ms = max(0, min(until_ms, end_ms))
    events = read_pilot_events(source, versions[-1], until_ms)
    pilot = _Pilot(versions, source, ledger, until_ms, newest, events)
    ran = exposed(versions, events, pilot.until_ms)
    firsts = [min(nodes_of(events.recorded, each.hash).values(), default=pilot.until_ms) for each in versions]
    read = read_inputs(source, pilot.plan, pilot.over, events, firsts)
    stated = list(_versions(pilot, read))
    late = _is_changed_late(pilot, stated)
    trial = Trial(pilot.plan, pilot.schedule, pilot.until_ms, ran.off_schedule, late)
    measured = _measured(pilot, pilot.plan, pilot.plan.kpis)
    kpis = [judged(trial, each, _again(pilot, each.kpi)) for each in measured]
    return _report(pilot, ran, read, stated, kpis)


def _require_chain(versions: Sequence[Opened]) -> None:
    """Raise for versions that are not of one pilot, or do not follow each other."""
    if not versions:
        raise EdgebedError("a report needs a frozen plan")
    for before, after in pairwise(versions):
        if after.plan.plan.pilot != before.plan.plan.pilot:
            raise WireError(f"{after.plan.plan.pilot} and {before.plan.plan.pilot} are two pilots")
        if after.plan.previous != before.hash:
            raise WireError(
                f"version {after.plan.version} amends {after.plan.previous[:12] or 'no plan'}, and the one "
                f"before it is {before.hash[:12]}: give all versions in their order"
            )


# --- what is measured


def _measured(pilot: _Pilot, plan: Plan, kpis: Sequence[Kpi]) -> list[Measured]:
    """KPIs in the periods that are over, by machine where the design compares machines."""
    groups, is_adjusted = plan.design.groups, plan.design.kind == "before-after"
    machines = groups.machines if groups is not None else ("",)
    beside = [covariate(plan, name) for name in (sorted(plan.adjust.covariates) if is_adjusted else ())]
    asked = [(kpi, machine) for kpi in kpis for machine in machines] + [(each, "") for each in beside]
    found = iter(
        evaluate_all(
            asked,
            plan,
            pilot.schedule,
            pilot.source,
            pilot.ledger,
            until_ms=pilot.until_ms,
            changed=pilot.events.changed.get("exposure", ()),
        )
    )
    values = [{machine: next(found) for machine in machines} for _ in kpis]
    covariates = list(found)
    return [Measured(kpi, each, covariates) for kpi, each in zip(kpis, values, strict=True)]


def _again(pilot: _Pilot, kpi: Kpi) -> Mapping[str, Callable[[], Measured]]:
    """The primary KPI with the excluded periods kept, and with twice the wash-out cut."""
    plan, design = pilot.plan, pilot.plan.design
    found: dict[str, Callable[[], Measured]] = {}
    if plan.exclude.when or plan.exclude.times:
        kept = replace(plan, exclude=Exclude(max_share=plan.exclude.max_share))
        found["exclusions"] = lambda: _measured(pilot, kept, [kpi])[0]
    if design.washout_s:
        cut = replace(plan, design=replace(design, washout_s=2 * design.washout_s))
        found["washout"] = lambda: _measured(pilot, cut, [kpi])[0]
    return found


# --- the document


def _report(
    pilot: _Pilot, ran: Exposed, read: InputsRead, versions: Sequence[PlanVersion], kpis: Sequence[Judged]
) -> Report:
    plan, design, periods = pilot.plan, pilot.plan.design, pilot.schedule.periods
    baseline = [each for each in periods if each.phase == "baseline"]
    primary = next(each for each in kpis if each.report.primary)
    word = verdict.overall(
        primary.verdict or Verdict("not-shown"), (each.guarded for each in kpis if each.guarded is not None)
    )
    span_ms = periods[0].start_ms, max(pilot.until_ms, periods[0].start_ms)
    values = {each.report.id: _by_machine(each) for each in kpis}
    of_data = tuple(of_custody.of_data(plan, pilot.over, values))
    return Report(
        software=installed_version(),
        pilot=plan.pilot,
        owner=plan.owner,
        testbed=plan.testbed,
        title=plan.title,
        question=plan.question,
        intervention=plan.intervention,
        design=design.kind,
        unit=design.unit,
        seed=design.seed,
        washout_s=design.washout_s,
        settle_s=design.settle_s,
        carry_over_s=design.carry_over_s,
        tz=plan.windows.tz,
        baseline_ms=(baseline[0].start_ms, baseline[-1].end_ms) if baseline else None,
        trial_ms=pilot.schedule.trial_ms,
        treated=pilot.schedule.treated,
        nodes=plan.nodes,
        alpha=plan.analysis.alpha,
        min_complete=plan.data.min_complete,
        clock_max_ms=plan.data.clock_max_ms,
        state=_state(pilot),
        until_ms=pilot.until_ms,
        word=word.word,
        reason=word.reason,
        plan_hash=pilot.newest.hash,
        versions=tuple(versions),
        kpis=tuple(each.report for each in kpis),
        ran=ran.ran,
        switches=ran.switches,
        models=ran.models,
        off_schedule=ran.off_schedule,
        custody=of_custody.custody(plan, pilot.ledger, read, span_ms),
        findings=(
            *_of_plan(pilot, read, versions),
            *ran.findings,
            *of_data,
            *_changed(pilot, {each.where for each in of_data}),
            *_damaged(pilot, {each.where for each in of_data}),
            *counted(plan, pilot.source, pilot.ledger, pilot.later),
        ),
        limits=tuple(limits(plan, pilot.schedule, [each.report for each in kpis])),
        sources=dict(sorted(read.digests.items())),
    )


def _by_machine(each: Judged) -> list[list[PeriodValue]]:
    return [list(values) for values in each.measured.values.values()]


def _state(pilot: _Pilot) -> State:
    start_ms, end_ms = pilot.schedule.trial_ms
    if pilot.until_ms >= end_ms:
        return "over"
    return "running" if pilot.until_ms >= start_ms else "planned"


def _versions(pilot: _Pilot, read: InputsRead) -> Iterator[PlanVersion]:
    for each, rows in zip(pilot.versions, read.rows, strict=True):
        yield _version(each, pilot.events, read, rows)


def _is_changed_late(pilot: _Pilot, versions: Sequence[PlanVersion]) -> bool:
    """Whether the newest version judges otherwise than the last one that was there before the trial."""
    if len(versions) < 2 or versions[-1].in_time:
        return False
    before = next((at for at in reversed(range(len(versions) - 1)) if versions[at].in_time), 0)
    return _judges(pilot.versions[before].plan.plan) != _judges(pilot.plan)


def _judges(plan: Plan) -> tuple[object, ...]:
    return plan.kpis, plan.adjust, plan.exclude, plan.data, plan.analysis


def _version(each: Opened, events: PilotEvents, read: InputsRead, rows: int) -> PlanVersion:
    nodes = nodes_of(events.recorded, each.hash)
    start_ms = each.plan.schedule.trial_ms[0]
    return PlanVersion(
        version=each.plan.version,
        hash=each.hash,
        previous=each.plan.previous,
        reason=each.plan.reason,
        keys=tuple(sorted(key for key, _ in each.signatures)),
        first_ms=min(nodes.values(), default=None),
        nodes=nodes,
        trial_rows=rows,
        in_time=all(
            nodes.get(node, start_ms) < start_ms and not _is_backdated(events, read, node, each.hash)
            for node in each.plan.plan.nodes
        ),
    )


# --- what is wrong with the plan


def _is_backdated(events: PilotEvents, read: InputsRead, node: str, digest: str) -> bool:
    """Whether a node took the event of a plan after rows of the trial: numbers follow no clock."""
    ep, number = events.numbers.get((node, digest), ("", 0))
    return number > read.firsts.get((node, ep), number)


def _of_plan(pilot: _Pilot, read: InputsRead, versions: Sequence[PlanVersion]) -> Iterator[Finding]:
    first, known = versions[0], {each.hash for each in versions}
    start_ms = pilot.versions[0].plan.schedule.trial_ms[0]
    if not _is_drawn(pilot.newest):
        yield Finding(code="schedule-other", where=pilot.newest.hash[:12])
    if pilot.until_ms >= start_ms:
        for node in pilot.versions[0].plan.plan.nodes:
            at_ms = first.nodes.get(node)
            if at_ms is None:
                yield Finding(code="plan-not-recorded", where=node)
            elif at_ms >= start_ms:
                yield Finding(
                    code="plan-not-in-time", where=node, args={"late_s": (at_ms - start_ms) // 1000}
                )
    for version in versions:
        for node, at_ms in version.nodes.items():
            if at_ms < start_ms and _is_backdated(pilot.events, read, node, version.hash):
                yield Finding(code="plan-backdated", where=node, args={"version": version.version})
    if len(versions) > 1 and pilot.until_ms >= start_ms:
        for node in pilot.plan.nodes:
            if node not in versions[-1].nodes:
                yield Finding(code="plan-not-recorded", where=node, args={"version": versions[-1].version})
    yield from _amendments(versions)
    yield from _of_events(pilot, known)


def _amendments(versions: Sequence[PlanVersion]) -> Iterator[Finding]:
    """Each version that amends another one, also where that was not given."""
    for each in versions:
        if each.previous:
            args: dict[str, str | int | float] = {"version": each.version, "rows": each.trial_rows}
            yield Finding(code="amended", where=each.hash[:12], args={**args, "reason": each.reason[:300]})


def _of_events(pilot: _Pilot, known: Collection[str]) -> Iterator[Finding]:
    events, others = pilot.events, dict[tuple[str, str], int]()
    recorded = [(node, digest) for node, _, digest in events.recorded]
    for node, digest in (*recorded, *((switch.node, digest) for switch, digest, _ in events.switches)):
        if digest not in known:
            others[(node, digest)] = others.get((node, digest), 0) + 1
    for (node, digest), count in sorted(others.items()):
        yield Finding(code="plan-other", where=node, args={"hash": digest[:12], "events": count})
    for node, at_ms, digest, by in events.withdrawn:
        if digest in known and at_ms < pilot.schedule.trial_ms[1]:
            args: dict[str, str | int | float] = {"at_ms": at_ms, "hash": digest[:12], "by": by}
            yield Finding(code="withdrawn", where=node, args=args)
    for node, count in sorted(events.unreadable.items()):
        yield Finding(code="events-unreadable", where=node, args={"events": count})
    for node in sorted(events.cut):
        yield Finding(code="events-too-many", where=node)


def _changed(pilot: _Pilot, named: Collection[str]) -> Iterator[Finding]:
    """The events about the pilot that somebody changed, if no finding of a period names them."""
    kpis = ", ".join(sorted(each.id for each in pilot.plan.kpis))
    whys = {each.why for several in pilot.events.changed.values() for each in several}
    for why in sorted(whys.difference(named)):
        yield Finding(code=DATA_CHANGED, where=why, args={"periods": 0, "kpis": kpis})


def _damaged(pilot: _Pilot, named: Collection[str]) -> Iterator[Finding]:
    """The day files of the pilot without events that can be read, if no finding of a period names them."""
    kpis = ", ".join(sorted(each.id for each in pilot.plan.kpis))
    start_us, end_us = pilot.schedule.periods[0].start_ms * 1000, pilot.until_ms * 1000
    for name in sorted(pilot.events.damaged):
        day = absent_day(name)
        is_near = day.start_us < end_us and start_us < day.end_us
        if is_near and not any(name in where for where in named):
            yield Finding(code=DATA_DAMAGED, where=day.why, args={"periods": 0, "kpis": kpis})


def _is_drawn(opened: Opened) -> bool:
    """Whether the schedule is that of the plan and its seed."""
    try:
        return schedule(opened.plan.plan) == opened.plan.schedule
    except WireError:
        return False
