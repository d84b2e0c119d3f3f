"""Switches a model between acting and shadow: off, its rows are stored and its events are withheld."""

from __future__ import annotations

from agent.pipeline.pipeline import Pipeline
from wire.pilot.plan import Intervention, Plan
from wire.pilot.schedule import Arm
from wire.reasons import NO_REASON, Reason, because


def cannot_switch(what: Intervention) -> Reason:
    """Why this node cannot follow a plan with this intervention; `NO_REASON` where it can."""
    if what.kind == "model":
        return NO_REASON
    return because(f"this release cannot switch a {what.kind}", "pilot-not-able", what=what.kind)


class ModelSwitch:
    """The slot of the plan in a pipeline; the model of the slot must be the one that the plan names."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def set(self, plan: Plan, arm: Arm) -> tuple[Arm, Reason]:
        """Let the model act, or withhold its events; a model that the plan does not name never acts."""
        what = plan.intervention
        slot = what.slot or ""
        why = self._unable(what)
        is_on = arm == "on" and not why.why
        self._pipeline.withhold(frozenset() if is_on else frozenset({slot}))
        return ("on" if is_on else "off"), (why if arm == "on" else NO_REASON)

    def release(self) -> None:
        """Let every model act."""
        self._pipeline.withhold(frozenset())

    def _unable(self, what: Intervention) -> Reason:
        runner = self._pipeline.runners.get(what.slot or "")
        if runner is None:
            return because(f"there is no slot {what.slot!r}", "pilot-model-missing", slot=what.slot)
        if runner.opened.is_set() and runner.ref.sha256 != what.sha256:
            text = f"the slot {runner.name} has {runner.label}, and the plan names {what.model}"
            return because(text, "pilot-model-other", model=runner.label, planned=what.model)
        if not runner.opened.is_set():
            return because("the gate checks the model", "model-checking")
        if not runner.at_work:
            text = f"the model in {runner.name} does not run"
            return because(text, "pilot-model-missing", slot=runner.name)
        return NO_REASON
