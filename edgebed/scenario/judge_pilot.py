"""Check the run of a pilot: what holds on every seed, whatever the effect is."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from collector.pilots.report.document import KpiReport
from edgebed.scenario.pilot_evidence import PilotEvidence
from wire.pilot.schedule import Period, counted

Judged = tuple[bool, str, str, str]  # holds, sentence, expected, found

_LATE_MS = 1_000  # at least: the agent looks at the clock at each switch, and a device needs its time
_NEAR = 0.002  # relative: of the decimals that travel


def judge_pilot(name: str, found: PilotEvidence) -> list[Judged]:
    """The assertions about one pilot."""
    return [
        _frozen(name, found),
        _schedule(name, found),
        _counted(name, found),
        _is_the_plants(name, found),
        _recomputed(name, found),
        _guarded(name, found),
    ]


def _frozen(name: str, found: PilotEvidence) -> Judged:
    """The plan is an event of each node before its trial, and all events name this plan."""
    start_ms, nodes = found.opened.plan.schedule.trial_ms[0], len(found.opened.plan.plan.nodes)
    hashes = {event["detail"].get("hash") for event in found.frozen}
    early = sum(event["ts"] < start_ms for event in found.frozen)
    holds = early >= nodes and hashes == {found.opened.hash}
    text = f"{early} of {len(found.frozen)} events before it, {len(hashes)} plans"
    return holds, f"{name}: the plan was frozen before the trial", f"{nodes} events before it, 1 plans", text


def _schedule(name: str, found: PilotEvidence) -> Judged:
    """Every period had what the schedule has before it counts, and kept it."""
    plan, schedule = found.opened.plan.plan, found.opened.plan.schedule
    trial = schedule.trial
    stated: dict[int, list[dict[str, Any]]] = {}
    for event in found.exposures:
        stated.setdefault(event["detail"]["period"], []).append(event["detail"])
    limits = [max(each.start_ms + _LATE_MS, counted(each, plan, schedule.trial_ms[0])[0]) for each in trial]
    wrong = [at for at, each in enumerate(trial) if not _is_as_planned(each, stated.get(at, []), limits[at])]
    text = f"{len(trial) - len(wrong)} of {len(trial)} periods"
    if wrong:
        text += f"; period {wrong[0]} has {stated.get(wrong[0], 'no event')}"
    return not wrong, f"{name}: each period ran as it was drawn", f"{len(trial)} periods", text


def _is_as_planned(period: Period, stated: list[dict[str, Any]], limit_ms: int) -> bool:
    """Whether what was planned was the case from some time up to `limit_ms` on, and until the end."""
    right = [each["planned"] == each["actual"] == period.arm for each in stated]
    return (
        any(right)
        and all(right[right.index(True) :])
        and period.start_ms <= stated[right.index(True)]["from"] <= limit_ms
    )


def _counted(name: str, found: PilotEvidence) -> Judged:
    """No period is left out but for a condition of the plan."""
    periods = [each for kpi in found.kpis for each in kpi.periods]
    states = Counter(each.status for each in periods)
    text = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    reasons = {(each.code, each.why) for each in periods if each.code}
    text += "".join(f"; {code} {why}".rstrip() for code, why in sorted(reasons))
    return states.keys() <= {"used", "excluded"}, f"{name}: the data of each period count", "all used", text


def _is_the_plants(name: str, found: PilotEvidence) -> Judged:
    """The primary KPI of each period, from the stored rows, is that of the plant."""
    kpi = found.primary
    trial = [each.value for each in kpi.periods if each.phase == "trial"]
    true = [each.plant.primary(each.actual) for each in found.plant]
    wrong = [
        (value, real)
        for value, real in zip(trial, true, strict=True)
        if value is None or not math.isclose(value, real, rel_tol=_NEAR, abs_tol=1e-9)
    ]
    text = f"{len(trial) - len(wrong)} of {len(trial)} periods"
    text += f"; one has {wrong[0][0]}, and the plant {wrong[0][1]:g}" if wrong else ""
    return not wrong, f"{name}: {kpi.id} is that of the plant", f"{len(trial)} periods", text


def _recomputed(name: str, found: PilotEvidence) -> Judged:
    """The report, made again from the stored rows, has the same bytes."""
    is_equal = found.report == found.again
    expected = f"{len(found.report):,} equal bytes"
    text = expected if is_equal else f"{len(found.again):,} bytes, not equal"
    return is_equal, f"{name}: the report, recomputed, is equal", expected, text


def _guarded(name: str, found: PilotEvidence) -> Judged:
    """No guardrail is broken; the effect on the primary KPI and the true one are printed and not judged."""
    words = {kpi.id: kpi.guarded for kpi in found.kpis if kpi.guarded is not None}
    text = ", ".join(f"{kpi} {word}" for kpi, word in words.items())
    text += f"; {found.primary.id} {_effect(found.primary)}, true {found.true_effect:+.1%}"
    return "broken" not in words.values(), f"{name}: no guardrail is broken", "none", text


def _effect(kpi: KpiReport) -> str:
    if kpi.effect is None:
        return kpi.refusal.code if kpi.refusal else "not known"
    limits = (kpi.effect.estimate, kpi.effect.low, kpi.effect.high)
    estimate, low, high = ("no limit" if each is None else f"{each:+.1%}" for each in limits)
    return f"{estimate} [{low}, {high}]"
