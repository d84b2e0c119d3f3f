"""Switches a model between acting and shadow, or one number of its decoder, such as a threshold.

A model that is off runs in shadow: its rows are stored and its events are withheld.
"""

from __future__ import annotations

from agent.inference.tuning import refusal
from agent.pilots.exposure import Applied
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.pipeline import Pipeline
from wire.pilot.plan import Intervention, Plan
from wire.pilot.schedule import Arm
from wire.reasons import NO_REASON, Reason, because


class ModelSwitch:
    """The slot of the plan in a pipeline; the model of the slot must be the one that the plan names."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def set(self, plan: Plan, arm: Arm | None) -> Applied:
        """Let the model act, or withhold its events; a model that the plan does not name never acts."""
        what = plan.intervention
        why = self._unable(what)
        is_on = arm == "on" and not why.why
        self._pipeline.withhold(frozenset() if is_on else frozenset({what.slot or ""}))
        # the results of another model in shadow are not those of the plan either
        says = arm == "on" or why.code == "pilot-model-other"
        return Applied("on" if is_on else "off", why if says else NO_REASON)

    def release(self) -> Applied:
        """Let every model act."""
        self._pipeline.withhold(frozenset())
        return Applied("on")

    def stopped(self) -> Applied:
        """Without an agent no model acts."""
        return Applied("off")

    def _unable(self, what: Intervention) -> Reason:
        why, runner = _not_running(self._pipeline, what.slot or "")
        if runner is not None and runner.opened.is_set() and runner.ref.sha256 != what.sha256:
            text = f"the slot {runner.name} has {runner.label}, and the plan names {what.model}"
            return because(text, "pilot-model-other", model=runner.label, planned=what.model)
        return why


class ThresholdSwitch:
    """The number `parameter` of the decoder in the slot of the plan; each input has the one of its period."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def set(self, plan: Plan, arm: Arm | None) -> Applied:
        """Give the decoder the number; it takes effect between two inputs."""
        what = plan.intervention
        arm = arm or "off"
        slot, number = what.slot or "", what.on if arm == "on" else what.off
        if what.parameter is None or number is None:
            return Applied("other", because("the plan has no number", "pilot-number-refused", slot=slot))
        tuned = what.parameter, number
        self._pipeline.tune({slot: tuned})
        why, runner = _not_running(self._pipeline, slot)
        if runner is not None and runner.manifest is not None and (text := refusal(runner.manifest, tuned)):
            why = because(text, "pilot-number-refused", slot=slot)
        return Applied("other", why) if why.why else Applied(arm, NO_REASON, number)

    def release(self) -> Applied:
        """Let each decoder have the number of its package."""
        self._pipeline.tune({})
        return Applied("other")

    def stopped(self) -> Applied:
        """Without an agent no number is in use."""
        return Applied("other")


def _not_running(pipeline: Pipeline, slot: str) -> tuple[Reason, ModelRunner | None]:
    """Why the model of a slot does not run, and its runner."""
    runner = pipeline.runners.get(slot)
    if runner is None:
        return because(f"there is no slot {slot!r}", "pilot-model-missing", slot=slot), None
    if not runner.opened.is_set():
        return because("the gate checks the model", "model-checking"), runner
    if not runner.at_work:
        text = f"the model in {runner.name} does not run"
        return because(text, "pilot-model-missing", slot=slot), runner
    return NO_REASON, runner
