"""Each plan goes to the switch for its kind; what the plan before switched is released."""

from __future__ import annotations

from agent.pilots.exposure import Applied
from agent.pilots.switches import Switches
from tests.unit.agent.pilots.test_pilots import MODEL, THRESHOLD
from tests.unit.wire.pilot.plans import changed
from wire.pilot.plan import Plan, parse
from wire.pilot.schedule import Arm


class Noted:
    """A switch that notes what is asked of it."""

    def __init__(self, number: float) -> None:
        self.number = number
        self.asked: list[str] = []

    def set(self, plan: Plan, arm: Arm | None) -> Applied | None:
        self.asked.append(f"{plan.intervention.kind} {arm}")
        return Applied(arm or "off", value=self.number)

    def release(self) -> Applied:
        self.asked.append("release")
        return Applied("other", value=self.number)

    def stopped(self) -> Applied:
        return Applied("off", value=self.number)


def test_each_plan_goes_to_the_switch_for_its_kind() -> None:
    model, threshold = Noted(1), Noted(2)
    switches = Switches({"model": model, "threshold": threshold})
    plan = parse(changed(), "pilot.yaml")
    assert switches.set(plan, "on") == Applied("on", value=2)
    assert (model.asked, threshold.asked) == (["release"], ["threshold on"])
    assert switches.stopped().value == 2
    assert switches.set(parse(changed((THRESHOLD, MODEL)), "pilot.yaml"), None) == Applied("off", value=1)
    assert (model.asked, threshold.asked) == (["release", "model None"], ["threshold on", "release"])
    assert switches.release() == Applied("other", value=1)
    assert switches.stopped().value == 1
    assert (model.asked[-1], threshold.asked[-1]) == ("release", "release")
