"""Hands each plan to the switch for its kind of intervention."""

from __future__ import annotations

from collections.abc import Mapping

from agent.pilots.exposure import Applied, Switch
from wire.pilot.plan import Plan
from wire.pilot.schedule import Arm


class Switches:
    """One switch by kind of intervention; those of other kinds are released."""

    def __init__(self, by_kind: Mapping[str, Switch]) -> None:
        self._by_kind = by_kind
        self._current = next(iter(by_kind))

    def set(self, plan: Plan, arm: Arm | None) -> Applied | None:
        """As the switch for the plan."""
        self._current = plan.intervention.kind
        for kind, each in self._by_kind.items():
            if kind != self._current:
                each.release()
        return self._by_kind[self._current].set(plan, arm)

    def release(self) -> Applied:
        """Release all; what is the case for the newest plan."""
        return {kind: each.release() for kind, each in self._by_kind.items()}[self._current]

    def stopped(self) -> Applied:
        """As the switch for the newest plan."""
        return self._by_kind[self._current].stopped()
