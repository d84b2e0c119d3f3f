"""The configuration of a running agent: reads its file again, tries it, and goes back where it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.config import AgentConfig, AgentPlan, load
from agent.pipeline.changes import Changes, Setup
from agent.remote.trial import Trials
from agent.state_dir import reload_request
from wire.clock import Clock
from wire.errors import ConfigError
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because

log = logging.getLogger("edgebed.agent")

CHANGEABLE = ("devices", "models")

State = Literal["applied", "soaking", "refused", "reverted"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the newest request to change the configuration; `request` is the id of a reload."""

    state: State
    ts: int
    what: str = ""
    reason: Reason = NO_REASON
    request: str = ""

    @property
    def problem(self) -> Reason:
        """Why what was requested is not in use; `NO_REASON` where it is."""
        return self.reason if self.state in ("refused", "reverted") else NO_REASON

    def document(self) -> dict[str, Any]:
        """The outcome for status.json."""
        return {
            "state": self.state,
            "ts": self.ts,
            "what": self.what,
            "request": self.request,
            **self.reason.fields(),
        }


class Configuration:
    """Applies changed configurations to a running agent, one at a time, in `run`.

    Only `devices` and `models` change; outbox, identity, custody and uplink do not notice. `changed` is
    called with each new `outcome`.
    """

    def __init__(self, plan: AgentPlan, trials: Trials, clock: Clock, changed: Callable[[], None]) -> None:
        self.plan = plan
        self.outcome: Outcome | None = None
        self._trials = trials
        self._clock = clock
        self._changed = changed
        self._reload_asked = asyncio.Event()

    @property
    def problem(self) -> Reason:
        """Why the newest configuration is not in use; `NO_REASON` where it is."""
        return NO_REASON if self.outcome is None else self.outcome.problem

    def document(self) -> dict[str, Any]:
        """The newest outcome for status.json."""
        return {} if self.outcome is None else {"reload": self.outcome.document()}

    def reload(self) -> None:
        """Ask to read the file again; returns at once."""
        self._reload_asked.set()

    async def run(self) -> None:
        """Apply what is asked for, until cancelled."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self._reload()

    async def _reload(self) -> None:
        request = await asyncio.to_thread(reload_request, self.plan.config.state)
        path = self.plan.path
        log.info("reading %s again", path)
        try:
            plan, setup = await asyncio.to_thread(self._read, path)
        except ConfigError as error:
            self._refuse(because(str(error), "config-invalid", detail=error.mistakes[0]), request)
            return
        if keys := fixed_keys(self.plan.config, plan.config):
            text = f"restart the agent to change {', '.join(keys)}"
            self._refuse(because(f"{path}: {text}", "config-needs-restart", keys=", ".join(keys)), request)
            return
        for doubt in plan.doubts:
            log.warning("%s", doubt)
        await self._try(plan, setup, request)

    def _read(self, path: Path) -> tuple[AgentPlan, Setup]:
        plan = load(path, self._clock, files=True)
        return plan, Setup.of(plan.devices, plan.config.models)

    async def _try(self, plan: AgentPlan, setup: Setup, request: str) -> None:
        """Run a plan; go back to the one before where it does not work."""
        trial = await self._trials.change(setup)
        what = describe(trial.changes, setup)
        if trial.changes:
            log.info("the new configuration runs on trial: %s", what)
            self._enter(Outcome("soaking", self._clock.now_ms(), what, request=request))
        why = await self._trials.soak(trial, whole=False)
        if not why.why:
            self.plan = plan
            log.info("the new configuration is in use: %s", what)
            self._enter(Outcome("applied", self._clock.now_ms(), what, request=request))
            return
        await self._trials.revert(trial)
        log.error("the new configuration does not work, the one before is in use again: %s", why.why)
        self._enter(Outcome("reverted", self._clock.now_ms(), what, why, request))

    def _refuse(self, why: Reason, request: str) -> None:
        log.error("the configuration stays as it is: %s", printable(why.why, 2_000))
        self._enter(Outcome("refused", self._clock.now_ms(), "", why, request))

    def _enter(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._changed()


def fixed_keys(old: AgentConfig, new: AgentConfig) -> list[str]:
    """The keys that differ and that a running agent cannot change."""
    names = [name for name in AgentConfig.__struct_fields__ if name not in CHANGEABLE]
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def describe(changes: Changes, new: Setup) -> str:
    """The changes in one line."""
    if not changes:
        return "nothing differs"
    parts = []
    for word, names, there in (
        ("device", changes.devices, new.devices),
        ("what leaves of device", changes.published, new.devices),
        ("model", changes.models, new.models),
    ):
        changed, gone = sorted(names & there.keys()), sorted(names - there.keys())
        parts += [f"{word} {', '.join(changed)}"] if changed else []
        parts += [f"without {word} {', '.join(gone)}"] if gone else []
    return "; ".join(parts)
