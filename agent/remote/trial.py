"""Tries another setup on a running agent: its devices and models have a time in which they must work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.pipeline.changes import Changes, Setup, compare
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.running import Running
from wire.clock import Clock
from wire.reasons import NO_REASON, Reason, because

_LOOK_S = 0.25
_WELL = ("ok", "stopped")  # stopped: a recording that has ended


@dataclass(frozen=True, slots=True)
class Trial:
    """One change that runs on trial. `excused` are the devices and models that did not work before either."""

    before: Setup
    changes: Changes
    excused: frozenset[str] = frozenset()

    @property
    def watched(self) -> set[str]:
        """The devices and models that have to work."""
        devices = {f"device {name}" for name in self.changes.devices}
        return devices | {f"model {name}" for name in self.changes.models}


class Trials:
    """Changes the setup of `running` and judges whether the new one works.

    `start` runs the opening of models in a task that outlives its caller. Time is that of `clock`, which is
    never set: a step of the wall clock does not matter.
    """

    def __init__(
        self,
        running: Running,
        pipeline: Pipeline,
        clock: Clock,
        soak_s: float,
        start: Callable[[str], asyncio.Task[None]],
    ) -> None:
        self._running = running
        self._pipeline = pipeline
        self._clock = clock
        self._soak_s = soak_s
        self._start = start

    def broken(self) -> frozenset[str]:
        """The devices and models that do not work now; one that was just started may still come to work."""
        devices = (name for name, source in self._running.sources.items() if source.state.state == "degraded")
        models = (name for name, model in self._pipeline.models().items() if model.state == "failed")
        return frozenset([*(f"device {name}" for name in devices), *(f"model {name}" for name in models)])

    async def change(self, new: Setup, excused: frozenset[str] | None = None) -> Trial:
        """Run `new` from now on."""
        before = self._running.setup
        excused = self.broken() if excused is None else excused
        changes = await self._running.change(new)
        self._start("models")
        return Trial(before, changes, excused)

    def resume(self, before: Setup, excused: frozenset[str]) -> Trial:
        """The trial of the setup that runs already, from a start of the daemon on."""
        return Trial(before, compare(before, self._running.setup), excused)

    async def soak(self, trial: Trial, *, whole: bool) -> Reason:
        """Wait until the trial is decided; the reason why it failed, `NO_REASON` where it works.

        It has failed if a changed device or model does not work at the end of the time. With `whole`, the
        time is waited out also when all of them work before. The gate of a model has as long as it takes.
        """
        end_s = self._clock.monotonic() + self._soak_s
        whole = whole and any(name in trial.watched for name, _ in self._conditions())
        while True:
            why = self._failure(trial)
            is_over = self._clock.monotonic() >= end_s
            if self._pipeline.opened and (is_over or (why is None and not whole)):
                if why is None:
                    self._pipeline.forget_models()
                return why or NO_REASON
            await self._clock.sleep(_LOOK_S)

    async def revert(self, trial: Trial) -> None:
        """Go back to the setup before."""
        await self._running.change(trial.before)
        self._start("models")

    def _failure(self, trial: Trial) -> Reason | None:
        """Why the trial has failed so far: the first changed device or model that does not work."""
        for name, why in self._conditions():
            if name in trial.watched and why is not None and name not in trial.excused:
                text = f"{name}: {why.why}" if why.why else name
                return because(text, "config-reverted", what=text)
        return None

    def _conditions(self) -> Iterator[tuple[str, Reason | None]]:
        """Each device and model with the reason why it does not work; None for one that does."""
        for name, source in self._running.sources.items():
            state = source.state
            well = state.state in _WELL
            yield f"device {name}", None if well else because(state.why or f"it is {state.state}")
        for name, model in self._pipeline.models().items():
            yield f"model {name}", None if model.state == "ok" else because(model.why)
