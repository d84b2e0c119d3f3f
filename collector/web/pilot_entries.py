"""What `/api/v1/pilots` states of the pilot of one node: its plan, where it is now, and what the node did."""

from __future__ import annotations

import functools
from typing import Any, Literal

import msgspec

from collector.fleet.fleet import Fleet
from collector.fleet.pilot_events import PilotEvents
from collector.pilots.report.making import moment
from collector.state.desired import DesiredDocument
from collector.state.pilot_plans import SentPlan
from wire.errors import WireError
from wire.pilot.frozen import Opened, read_signed
from wire.pilot.schedule import Schedule

MAX_PLANS = 64  # that are kept opened

State = Literal["planned", "baseline", "trial", "over"]


def entry(document: DesiredDocument, opened: Opened, fleet: Fleet, now_ms: int) -> dict[str, Any]:
    """The entry of a node that was sent the plan in `document`."""
    frozen, node = opened.plan, document.node
    plan, recorded = frozen.plan, fleet.pilot_events.of(node)
    switched = recorded.switched
    began_ms = recorded.began.get(opened.hash)
    return {
        "node": node,
        "pilot": plan.pilot,
        "owner": plan.owner,
        "title": msgspec.to_builtins(plan.title),
        "hash": opened.hash,
        "version": frozen.version,
        "nodes": len(plan.nodes),
        "design": {"kind": plan.design.kind, "unit": plan.design.unit, "periods": plan.design.periods},
        "trial": list(frozen.schedule.trial_ms),
        "baseline": frozen.schedule.baseline_ms,
        **progress(frozen.schedule, now_ms),
        "until": moment(opened, now_ms),
        "began": began_ms,
        "in_time": began_ms is not None and began_ms < frozen.schedule.trial_ms[0],
        "switched": None
        if switched is None or switched.hash != opened.hash
        else msgspec.to_builtins(switched),
        "online": fleet.is_online(node),
        "ts": document.at_ms,
        "by": document.by,
        "reported": msgspec.to_builtins(fleet.reported(node, "pilot")),
    }


def progress(schedule: Schedule, now_ms: int) -> dict[str, Any]:
    """Where in a schedule a moment is; `done` counts the periods of the trial that are over."""
    start_ms, end_ms = schedule.trial_ms
    now, trial = schedule.at(now_ms), schedule.trial
    state: State = "planned"
    if now_ms >= end_ms:
        state = "over"
    elif now_ms >= start_ms:
        state = "trial"
    elif now is not None:
        state = "baseline"
    period = None
    if now is not None:
        number = trial.index(now) if now.phase == "trial" else -1
        period = {"number": number, "from": now.start_ms, "to": now.end_ms, "arm": now.arm}
    return {
        "state": state,
        "period": period,
        "done": sum(each.end_ms <= now_ms for each in trial),
    }


def opened_of(document: DesiredDocument) -> Opened | None:
    """The plan of a document; None of one that was withdrawn or that an older release wrote otherwise."""
    return plan_in(msgspec.json.encode(document.doc)) if document.doc else None


def acted(opened: Opened, recorded: PilotEvents) -> tuple[int, int] | None:
    """The part of the trial in which a node followed the plan, as it recorded that; None: it did not."""
    began_ms = recorded.began.get(opened.hash)
    if began_ms is None:
        return None
    start_ms, end_ms = opened.plan.schedule.trial_ms
    replaced_ms = min((ms for ms in recorded.began.values() if ms > began_ms), default=end_ms)
    found = max(start_ms, began_ms), min(end_ms, replaced_ms, recorded.ended.get(opened.hash, end_ms))
    return found if found[0] < found[1] else None


def kept_plan(one: SentPlan) -> Opened | None:
    """The plan that was sent; None where something else is kept: somebody changed `state.db`."""
    if (opened := plan_in(one.doc)) is None:
        return None
    plan = opened.plan
    found = opened.hash, plan.plan.pilot, plan.version, plan.previous
    return opened if found == (one.hash, one.pilot, one.version, one.previous) else None


@functools.lru_cache(maxsize=MAX_PLANS)
def plan_in(body: bytes) -> Opened | None:
    """The plan in an envelope; kept, since pages ask again and again for plans that do not change."""
    try:
        return read_signed(body)
    except WireError:
        return None
