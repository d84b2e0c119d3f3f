"""The configuration of a running agent: reads its file again, tries it, and goes back where it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from agent.config import AgentConfig, AgentPlan, load
from agent.desired import DesiredConfig, Start, invalid
from agent.pipeline.changes import Changes, Setup
from agent.remote.desired import Document, NotAcceptable, read_document
from agent.remote.trial import Trial, Trials
from agent.state_dir import reload_request
from wire.clock import Clock
from wire.errors import ConfigError
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because

log = logging.getLogger("edgebed.agent")

_PAUSE_S = 0.5  # between two documents: a flood of them costs little
_EARLY_S = 30.0  # a document that is dated after this node's clock is judged again: the clock may be set
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

    def __init__(
        self,
        plan: AgentPlan,
        desired: DesiredConfig,
        start: Start,
        trials: Trials,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.plan = plan  # of the operator's file
        self.desired = desired
        self.outcome: Outcome | None = None
        self._start = start
        self._trials = trials
        self._clock = clock
        self._changed = changed
        self._asked = asyncio.Event()
        self._reload_asked = False
        self._next: tuple[bytes, bool] | None = None  # the newest desired document that waits
        self._early: tuple[bytes, bool] | None = None  # one that is dated after the clock of this node

    @property
    def problem(self) -> Reason:
        """Why the newest configuration is not in use; `NO_REASON` where it is."""
        of_file = NO_REASON if self.outcome is None else self.outcome.problem
        return of_file if of_file.why else self.desired.problem

    def document(self) -> dict[str, Any]:
        """The newest outcomes for status.json."""
        of_file = {} if self.outcome is None else {"reload": self.outcome.document()}
        return {**of_file, **self.desired.document()}

    def reload(self) -> None:
        """Ask to read the file again; returns at once."""
        self._reload_asked = True
        self._asked.set()

    def take_desired(self, body: bytes, *, signed: bool = False) -> None:
        """Take a message on `desired/config`; returns at once. Of several that wait, the newest is used.

        `signed`: its mac was checked.
        """
        self._next = body, signed
        self._asked.set()

    async def run(self) -> None:
        """Apply what is asked for, until cancelled."""
        if self._start.before is not None:
            await self._resume(self._start.before)
        while True:
            self._asked.clear()
            if self._reload_asked:
                self._reload_asked = False
                await self._reload()
            elif self._next is not None:
                (body, signed), self._next = self._next, None
                await self._desire(body, signed=signed)
                await asyncio.sleep(_PAUSE_S)
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Wait until something is asked for; judge an early document again from time to time."""
        try:
            # not wait_for: before Python 3.12 it loses a cancellation that comes with the event
            async with asyncio.timeout(None if self._early is None else _EARLY_S):
                await self._asked.wait()
        except TimeoutError:
            self._next, self._early = self._early, None

    async def _reload(self) -> None:
        request = await asyncio.to_thread(reload_request, self.plan.config.state)
        path = self.plan.path
        log.info("reading %s again", path)
        try:
            plan = await asyncio.to_thread(load, path, self._clock, files=True)
            if keys := fixed_keys(self.plan.config, plan.config):
                text = f"restart the agent to change {', '.join(keys)}"
                why = because(f"{path}: {text}", "config-needs-restart", keys=", ".join(keys))
                self._refuse(why, request)
                return
            over, setup = await asyncio.to_thread(self._setup, plan, self.desired.kept.used)
        except ConfigError as error:
            self._refuse(invalid(error), request)
            return
        for doubt in over.doubts:
            log.warning("%s", doubt)
        trial = await self._trials.change(setup)
        what = describe(trial.changes, setup)
        if trial.changes:
            log.info("the new configuration runs on trial: %s", what)
            self._enter(Outcome("soaking", self._clock.now_ms(), what, request=request))
        why = await self._trials.soak(trial, whole=False)
        if not why.why:
            self.plan = plan
            self.desired.usable()
            log.info("the new configuration is in use: %s", what)
            self._enter(Outcome("applied", self._clock.now_ms(), what, request=request))
            return
        await self._trials.revert(trial)
        log.error("the new configuration does not work, the one before is in use again: %s", why.why)
        self._enter(Outcome("reverted", self._clock.now_ms(), what, why, request))

    def _setup(self, base: AgentPlan, document: Document | None) -> tuple[AgentPlan, Setup]:
        """The operator's file with a document over it; blocks."""
        plan = self.desired.plan(base, document)
        return plan, Setup.of(plan.devices, plan.config.models)

    async def _desire(self, body: bytes, *, signed: bool) -> None:
        """Judge a desired document; apply it if it can be used."""
        desired, self._early = self.desired, None
        try:
            document = read_document(body, self._clock.now_ms(), signed=signed)
        except NotAcceptable as error:
            if error.reason_code == "config-clock":
                self._early = body, signed
            if desired.report is None or desired.report.why != error.reason.why:
                log.error("a desired document is refused: %s", printable(error, 2_000))
            desired.note(None, "rejected", error.reason)
            self._changed()
            return
        if desired.is_done(document):
            desired.forget_note()
        elif desired.is_old(document):
            log.warning(
                "the desired document %d is older than %d and is ignored", document.ver, desired.kept_ver
            )
            return
        else:
            await self._apply(document)
        self._changed()

    async def _apply(self, document: Document) -> None:
        desired, used = self.desired, self.desired.kept.used
        log.info("desired document %d of %s", document.ver, printable(document.by or "a controller"))
        try:
            if document.withdraws or (used is not None and used.digest == document.digest):
                setup = (await asyncio.to_thread(self._setup, self.plan, document))[1]
                await asyncio.to_thread(desired.use, document)
                await self._trials.change(setup)
                return
            setup = (await asyncio.to_thread(self._setup, self.plan, document))[1]
            excused = self._trials.broken()
            await asyncio.to_thread(desired.begin_trial, document, excused)
        except ConfigError as error:
            why = invalid(error)
            log.error("the desired document %d is refused: %s", document.ver, printable(why.why, 2_000))
            await asyncio.to_thread(desired.reject, document, why)
            return
        except OSError as error:
            why = because(f"the document cannot be kept: {error.strerror}", "disk-failed")
            log.error("%s", why.why)
            desired.note(document, "failed", why)
            return
        trial = await self._trials.change(setup, excused)
        log.info("the desired document runs on trial: %s", describe(trial.changes, setup))
        await asyncio.to_thread(desired.soaking)
        self._changed()
        await self._decide(trial)

    async def _resume(self, before: AgentPlan) -> None:
        """Run the trial again that the last daemon did not survive."""
        setup = await asyncio.to_thread(Setup.of, before.devices, before.config.models)
        await self._decide(self._trials.resume(setup, frozenset(self.desired.kept.excused)))
        self._changed()

    async def _decide(self, trial: Trial) -> None:
        """Wait for the end of a document's trial: keep the document, or go back."""
        why = await self._trials.soak(trial, whole=True)
        if why.why:
            log.error("the desired document does not work, going back: %s", why.why)
            await asyncio.to_thread(self.desired.end_trial, why)  # on disk first: a kill here goes back too
            await self._trials.revert(trial)
        else:
            log.info("the desired document is in use")
            await asyncio.to_thread(self.desired.confirm)

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
