"""Puts offered versions of models into slots: checks, opens, swaps and judges them, and undoes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from agent.inference.decoders import ModelError
from agent.pipeline.changes import Setup
from agent.pipeline.model_run import Answer
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.running import Running
from agent.pipeline.shadow import Seen
from agent.slots.health_window import Drift, Gates, input_drift, last_gates
from agent.slots.model_store import ModelStore, unwritten
from agent.slots.slot_state import (
    JUDGED,
    ON_THE_WAY,
    REPEATED,
    Action,
    Arrived,
    Confirm,
    Damaged,
    Enough,
    Event,
    Failed,
    Free,
    Offer,
    Passed,
    Shadowed,
    Sick,
    Slot,
    Sound,
    Started,
    TakenBack,
    objection,
    step,
    without,
)
from agent.slots.update_lock import UpdateLock
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import Evidence, ModelSlot
from wire.model_offer import SHADOW_S
from wire.printable import printable
from wire.reasons import NO_REASON, Reason, because
from wire.task_cancellation import end

if TYPE_CHECKING:
    from agent.inference.decoders import Result

log = logging.getLogger("edgebed.model")

LOOK_S = 0.25
_CONFIG = because("the config names another package for the slot now", "slot-config-changed")
_WARM_S = 15.0  # longer than a window takes: with so little input nothing is lost by a swap


class Fetch(Protocol):
    """Puts the package with a digest into the store, going on with what `ModelStore.incoming` has."""

    async def __call__(self, slot: str, digest: str) -> None:
        """Return when `ModelStore.take` took it. Raises EdgebedError: it cannot be had, with the reason."""


@dataclass(slots=True)
class _Live:
    """What is known of a slot in this process only."""

    kept: Slot
    unsaved: Reason = NO_REASON  # why the disk did not take `kept`
    unproven: Reason = NO_REASON  # why it did not take the confirmation
    gates: Gates | None = None  # of what runs, from its swap on
    shadow: Gates | None = None
    judged: ModelRunner | None = None  # whose answers `gates` gets
    seen: Gates | None = None  # the newest of the version that was offered last, also after its end
    until_s: float = 0.0  # the soak ends
    held: Reason = NO_REASON
    task: asyncio.Task[None] | None = None
    undo: asyncio.Task[None] | None = None  # never cancelled by what comes later: a sick model would run on
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Slots:
    """The only writer of slot states. `start`, then `versions` and `attach`, then `run`.

    `fetch` gets a package that the store does not have; without it such an offer is refused. `drift` looks at
    each result of a version that can still be undone. `changed` is called when a report changes.
    """

    def __init__(
        self,
        store: ModelStore,
        clock: Clock,
        changed: Callable[[], None],
        fetch: Fetch | None = None,
        drift: Drift = input_drift,
    ) -> None:
        self.store = store
        self.lock = UpdateLock(store.folder, clock)
        self.fetch = fetch
        self.drift = drift
        self._clock = clock
        self._changed = changed
        self._live: dict[str, _Live] = {}
        self._bases: Mapping[str, str] = {}
        self._pipeline: Pipeline
        self._running: Running
        self._untidy = False  # models are open that nothing needs
        self._group: asyncio.TaskGroup | None = None

    def start(self) -> None:
        """Read every slot, undo what is not confirmed and what is damaged; blocks for the disk."""
        try:
            self.store.sweep()
        except OSError as error:
            log.error("%s: %s", self.store.folder, error.strerror or error)
        for name in self.store.slot_names():
            live = self._live[name] = _Live(self.store.slot(name))
            named = live.kept.digests | frozenset(live.kept.earlier) - {""}
            bad = frozenset(digest for digest in named if self._damage(digest))
            bad -= {live.kept.candidate} if live.kept.state in ON_THE_WAY else set()
            for event in (Started(), Damaged(bad)):
                live.kept, _ = step(live.kept, event, self._clock.now_ms())
            if live.kept.why and live.kept.state == "rolled-back":
                log.error("model %s: %s", name, live.kept.why)
            live.unsaved = self._save(name, live.kept)

    def versions(self, setup: Setup) -> Setup:
        """The setup with the package of each slot that has a version which was offered."""
        self._bases = setup.manifests
        models = {}
        for name, slot in setup.models.items():
            kept = self._counting(name)
            models[name] = slot if not kept.current else replace(slot, package=self.store.path(kept.current))
        return Setup(setup.devices, models, setup.files, setup.manifests)

    def attach(self, pipeline: Pipeline, running: Running) -> None:
        """Use the pipeline that was made of `versions`."""
        self._pipeline, self._running = pipeline, running

    async def run(self) -> None:
        """Go on with what was offered and judge what runs, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for name, live in self._live.items():
                if live.kept.state in ON_THE_WAY:
                    self._begin(name, "fetch" if live.kept.state == "downloading" else "check")
            try:
                while True:
                    await self._look()
                    await self._clock.sleep(LOOK_S)
            finally:
                tasks = [task for live in self._live.values() for task in (live.task, live.undo)]
                await end(task for task in tasks if task is not None)

    async def offer(self, slot: str, digest: str, attempt: int, confirm: Confirm) -> Reason:
        """Offer the package with a digest to a slot; returns why it is not taken, `NO_REASON` where it is.

        What is taken is on disk when this returns, and goes its way by itself, also after a restart; `report`
        shows how far it is. The same `attempt` of a digest is taken once. If the store does not have the
        package, `fetch` is awaited for it: it puts files into `store.incoming(digest)` and ends with
        `store.take(digest)`. `store.add(folder)` puts a package there from a local folder.
        """
        if slot not in self._running.setup.models:
            return because(f"there is no slot {slot!r}", "slot-unknown", slot=slot)
        offer = Offer(digest, attempt, confirm)
        live = self._live.setdefault(slot, _Live(Slot()))
        async with live.lock:
            kept = replace(self._counting(slot), base=self._bases.get(slot, ""))
            if (why := objection(kept, offer)).why:
                return why
            after, actions = step(kept, offer, self._clock.now_ms())
            try:
                await asyncio.to_thread(self.store.keep_slot, slot, after)
            except OSError as error:
                return self._disk(error)
            live.kept, live.unsaved, live.seen = after, NO_REASON, None
        log.info("model %s: version %s is offered (attempt %d)", slot, digest[:12], attempt)
        self._act(slot, actions)
        return NO_REASON

    async def undo(self, slot: str, by: str, digest: str = "") -> Reason:
        """Take back a version, by default the one that was offered last: what ran before it runs again.

        Returns why that cannot be, `NO_REASON` where it is done. What cannot run any more, as after its key
        was revoked, does not replace a version that runs.
        """
        none = because(f"slot {slot!r} has no version that can be taken back", "slot-unknown", slot=slot)
        if slot not in self._live:
            return none
        kept = self._counting(slot)
        if not digest:
            digest = kept.candidate
        elif digest not in (kept.current, kept.candidate if kept.state in ON_THE_WAY else ""):
            text = f"{printable(digest, 80)} does not run in slot {slot!r} and is not about to"
            return because(text, "slot-unknown", slot=slot)
        if digest == kept.current and kept.previous is not None and kept.state not in ON_THE_WAY:
            why = await asyncio.to_thread(self._unusable, slot, kept.previous)
            if why.why:
                which = kept.previous[:12] or "the package of the config"
                return Reason(f"{which}, which ran before, cannot run again: {why.why}", why.code, why.args)
        event = TakenBack(digest, because(f"{by} took the version back", "slot-undone", by=by))
        return NO_REASON if await self._apply(slot, event) else none

    def _unusable(self, name: str, digest: str) -> Reason:
        """Why a package that ran before in a slot must not run again; blocks."""
        try:
            if digest and (why := self._damage(digest)):
                return because(why, "slot-damaged")
            return self._pipeline.refusal(self._package(name, digest))
        except EdgebedError as error:
            return error.reason

    def _with_usable(self, name: str, kept: Slot) -> Slot:
        """A slot that goes back to what may run; blocks. A trial never goes on for want of it."""
        if kept.previous is None:
            return kept
        history = (*kept.earlier, kept.previous)
        found = {each: self._unusable(name, each).why for each in history}
        bad = {each: why for each, why in found.items() if why}
        for digest, why in bad.items():
            log.error("model %s: %s cannot run again: %s", name, digest[:12] or "that of the config", why)
        left = without(kept, frozenset(bad))
        return kept if left.previous is None and kept.state == "unconfirmed" else left

    def report(self, slot: str, runner: ModelRunner) -> ModelSlot | UnsetType:
        """What the node reports of a slot; UNSET where nothing was ever offered."""
        live = self._live.get(slot)
        if live is None:
            return UNSET
        kept = self._counting(slot)
        gates = live.gates if kept.state in ("unconfirmed", "confirmed") else live.shadow
        seen = live.seen or gates
        reason = live.held if live.held.why and kept.state == "waiting" else kept.reason
        package = runner.settings.package
        return ModelSlot(
            state=kept.state,
            digest=package.name if package.parent == self.store.folder else "",
            offered=kept.candidate,
            attempt=kept.attempt,
            since=kept.since,
            results=0 if gates is None else gates.good,
            of=kept.confirm.results,
            why=reason.why[:2_000],
            code=reason.code,
            args=reason.fields()["args"],
            ran=UNSET if seen is None or not kept.candidate else seen.ran.shown(),
            evidence=self._evidence(kept, runner),
        )

    def _evidence(self, kept: Slot, runner: ModelRunner) -> Evidence | UnsetType:
        """How the candidate agrees with what runs, or how it did before it ran itself."""
        tried = runner.shadow
        if kept.state == "shadow" and tried is not None and tried.watch is not None:
            return tried.evidence()
        return UNSET if kept.evidence is None else kept.evidence

    # -- the state -----------------------------------------------------------------------------------------

    def _counting(self, name: str) -> Slot:
        """What is kept of a slot, if it is about the package that the config names now; else a new state."""
        live = self._live.get(name)
        if live is None:
            return Slot()
        base, kept = self._bases.get(name, ""), live.kept
        return kept if base in ("", kept.base) or not kept.base else Slot(base=base, judged=kept.judged)

    async def _done(self, name: str, event: Event) -> None:
        """Take the event that the task of the slot leads to, unless another task has its place."""
        await self._apply(name, event, asyncio.current_task())

    async def _apply(self, name: str, event: Event, task: asyncio.Task[None] | None = None) -> bool:
        """Take an event: the state it leads to is on disk before anything is done. Whether it fits."""
        live = self._live[name]
        async with live.lock:
            if task is not None and task is not live.task:
                return False
            before, now = live.kept, self._clock.now_ms()
            if isinstance(event, Sick) or (isinstance(event, Failed) and before.state in JUDGED):
                before = await asyncio.to_thread(self._with_usable, name, before)
            after, actions = step(before, event, now)
            if after == live.kept:
                return False
            if isinstance(event, Sick):
                log.error("model %s: version %s must not run: %s", name, before.current[:12], event.why.why)
            why = await asyncio.to_thread(self._save, name, after)
            if why.why and after.state == "confirmed":
                live.unproven = why
                return False  # the next look tries again
            if why.why and after.state in (*ON_THE_WAY, "unconfirmed") and "undo" not in actions:
                after, actions = step(before, Failed(why), now)
            live.kept, live.unsaved = after, why
            if "run" in actions:
                live.gates = live.judged = None  # those of the version before
        if live.kept.why and live.kept.state in ("rolled-back", "refused"):
            log.error(
                "model %s: version %s is %s: %s",
                name,
                live.kept.candidate[:12],
                live.kept.state,
                live.kept.why,
            )
        else:
            log.info("model %s: version %s is %s", name, live.kept.candidate[:12], live.kept.state)
        self._act(name, actions)
        return True

    def _save(self, name: str, slot: Slot) -> Reason:
        """Keep the state of a slot; why the disk did not take it, `NO_REASON` where it did; blocks."""
        try:
            self.store.keep_slot(name, slot)
        except OSError as error:
            why = self._disk(error)
            log.error("the state of slot %s cannot be kept: %s", name, why.why)
            return why
        return NO_REASON

    def _disk(self, error: OSError) -> Reason:
        return unwritten(self.store.folder, error).reason

    def _damage(self, digest: str) -> str:
        try:
            return self.store.damage(digest)
        except (ModelError, OSError) as error:
            return str(error)

    # -- what is done --------------------------------------------------------------------------------------

    def _act(self, name: str, actions: tuple[Action, ...]) -> None:
        if actions:
            self._begin(name, *actions)
        self._changed()

    def _begin(self, name: str, *actions: Action) -> None:
        """Do what actions say in the task of the slot, instead of what it did before, but after an undo."""
        if self._group is None:
            return
        live = self._live[name]
        work = self._after(live.task, name, actions)
        live.task = self._group.create_task(work, name=f"{actions[-1]}-{name}")
        if "undo" in actions:
            live.undo = live.task

    def _works(self) -> dict[Action, Callable[[str], Awaitable[object]]]:
        return {
            "fetch": self._fetch, "check": self._check, "open": self._open, "shadow": self._shadow,
            "wait": self._wait, "run": self._swap, "undo": self._undo, "close": self._close,
            "free": self._free,
        }  # fmt: skip

    async def _after(self, before: asyncio.Task[None] | None, name: str, actions: tuple[Action, ...]) -> None:
        undo, works = self._live[name].undo, self._works()
        if before is not None and before is not undo:
            await end([before])
        if undo is not None and undo is not asyncio.current_task():
            await asyncio.wait({undo})
        try:
            for action in actions:
                await works[action](name)
        except EdgebedError as error:
            await self._done(name, Failed(error.reason))
        except OSError as error:
            await self._done(name, Failed(self._disk(error)))

    async def _fetch(self, name: str) -> None:
        digest = self._live[name].kept.candidate
        if not await asyncio.to_thread(self.store.has, digest):
            if self.fetch is None:
                raise EdgebedError(f"{digest[:12]} is not in the store").coded("slot-not-stored")
            try:
                await self.fetch(name, digest)
            except EdgebedError:  # before the refusal is kept: a full disk has room for it then
                await asyncio.to_thread(self.store.forget_incoming, digest)
                raise
        await self._done(name, Arrived())

    async def _check(self, name: str) -> None:
        why = await asyncio.to_thread(self._damage, self._live[name].kept.candidate)
        await self._done(name, Failed(because(why, "slot-damaged")) if why else Sound())

    async def _open(self, name: str) -> None:
        kept = self._live[name].kept
        await self._candidate(name, kept.candidate, apart=kept.confirm.shadow > 0)
        await self._done(name, Passed())

    async def _candidate(self, name: str, digest: str, *, apart: bool = False) -> ModelRunner:
        """The candidate of a slot that is open; it is opened if it is not. Raises EdgebedError.

        One that is only tried is in a process of its own, `apart`: it may hang or crash.
        """
        package = self._package(name, digest)
        found = self._pipeline.candidates.get(name)
        is_known = found is not None and found.settings.package == package and found.opened.is_set()
        if found is None or not is_known or (found.at_work and not apart and not found.is_where_asked):
            found = await self._pipeline.candidate(name, package, "process" if apart else None)
        if not found.at_work:
            raise EdgebedError(found.state.why).coded(found.state.code, **found.state.args)
        return found

    def _package(self, name: str, digest: str) -> Path:
        """The folder of a package, that of the config for no digest. Raises EdgebedError: no such slot."""
        slot = self._running.setup.models.get(name)
        if slot is None or name not in self._pipeline.runners:
            raise EdgebedError(_CONFIG.why).coded(_CONFIG.code)
        return self.store.path(digest) if digest else slot.package

    async def _shadow(self, name: str) -> None:
        live = self._live[name]
        confirm = replace(live.kept.confirm, results=live.kept.confirm.shadow)
        limit_s = SHADOW_S if confirm.shadow_s is UNSET else confirm.shadow_s
        until_s = self._clock.monotonic() + limit_s
        made = await self._candidate(name, live.kept.candidate, apart=True)
        gates = live.shadow = live.seen = Gates(confirm, _limit_ms(confirm, made))
        sick: list[Reason] = []

        def watch(seen: Seen, result: Result | None) -> None:
            if (why := gates.take(result, seen.quality)).why:
                sick.append(why)

        tried = None
        while not (gates.enough and tried is not None):
            made = await self._candidate(name, live.kept.candidate, apart=True)
            tried = await self._pipeline.try_beside(name, watch)
            if tried is not None and tried.model is None and self._pipeline.runners[name].shadow is tried:
                sick.append(_not_compared(tried.reason))
            if sick := [why for why in (*sick, made.drift) if why.why]:
                raise EdgebedError(sick[0].why).coded(sick[0].code, **sick[0].args)
            if self._clock.monotonic() > until_s:
                text = f"{gates.good} of {confirm.shadow} good results in shadow within {limit_s:g} s"
                counts = {"results": gates.good, "of": confirm.shadow, "seconds": limit_s}
                raise EdgebedError(text).coded("slot-shadow-over", **counts)
            await self._clock.sleep(LOOK_S)
        await self._done(name, Shadowed(tried.evidence()))

    async def _wait(self, name: str) -> None:
        live, began_s = self._live[name], self._clock.monotonic()
        await self._pipeline.end_beside(name)  # a shadow has done its work
        while True:
            made = await self._candidate(name, live.kept.candidate)
            is_late = self._clock.monotonic() - began_s > _WARM_S + _window_s(made)
            live.held = (await self._held()).get(name, NO_REASON)
            if not live.held.why and (made.warmed or is_late):
                break
            await self._clock.sleep(LOOK_S)
        await self._done(name, Free())

    async def _held(self) -> dict[str, Reason]:
        slots = self._running.setup.models
        self._pipeline.taps.clear()
        for slot in slots.values():
            if slot.hold:
                device, stream, _ = slot.hold.split("/")
                self._pipeline.taps[device, stream] = partial(self.lock.take, device)
        return await asyncio.to_thread(self.lock.held, slots)

    async def _swap(self, name: str) -> None:
        live = self._live[name]
        live.held = live.unproven = NO_REASON
        if (made := self._pipeline.candidates.get(name)) is not None:
            await self._running.swap(name, made)
        live.until_s = self._clock.monotonic() + live.kept.confirm.soak_s
        self._judge(name, live)

    async def _undo(self, name: str) -> None:
        """Run what the state says again; a package that cannot be opened leaves the slot without a model."""
        live = self._live[name]
        live.gates = live.judged = None
        await self._running.settled()  # a swap that has begun ends by itself
        digest = self._counting(name).current
        if digest and (why := await asyncio.to_thread(self._damage, digest)):
            log.error("model %s: %s", name, why)
            await self._apply(name, Damaged(frozenset({digest})))
            return
        package, runner = self._package(name, digest), self._pipeline.runners[name]
        if runner.settings.package != package or not runner.at_work:
            made = await self._pipeline.candidate(name, package)
            await self._running.swap(name, made)
        await self._free(name)
        again = REPEATED.get(live.kept.state)
        if again is not None and live.task is asyncio.current_task():  # a later offer goes on
            self._begin(name, again)

    async def _close(self, name: str) -> None:
        live = self._live[name]
        live.held = NO_REASON
        await self._pipeline.drop_candidate(name)
        self._untidy = True

    async def _free(self, name: str) -> None:
        self._pipeline.spare.pop(name, None)
        self._untidy = True

    # -- the health of what runs ---------------------------------------------------------------------------

    def _judge(self, name: str, live: _Live) -> None:
        """Have the gates see the answers of the runner that the slot has now."""
        runner = self._pipeline.runners.get(name)
        if runner is None or runner is live.judged or not self._is_current(runner, live):
            return
        live.judged = runner
        if live.gates is None:
            confirm = live.kept.judging
            if live.kept.state == "rolled-back":
                live.gates = last_gates(confirm)
            else:
                live.gates = Gates(confirm, _limit_ms(confirm, runner), self.drift)
            if live.kept.state != "unconfirmed":
                live.gates.confirm()
            if live.kept.candidate == live.kept.current:  # the report is about it
                live.seen = live.gates
        runner.watch = partial(self._answered, name, live.gates)

    def _answered(self, name: str, gates: Gates, answer: Answer) -> None:
        live = self._live[name]
        if gates is not live.gates:
            return
        why = gates.add(answer)
        if why.why and live.kept.state == "rolled-back":
            live.gates = None
            if self._group is not None:
                self._group.create_task(self._end(name, why), name=f"end-{name}")
        elif why.why and live.kept.state in (*JUDGED, *ON_THE_WAY):
            live.gates = None  # one verdict
            self._then(name, Sick(why))
        elif live.kept.state == "unconfirmed" and gates.enough:
            gates.confirm()
            self._then(name, Enough())

    async def _end(self, name: str, why: Reason) -> None:
        """Stop what runs again after a version was undone: a slot goes back by itself once."""
        live = self._live[name]
        async with live.lock:
            if live.kept.state != "rolled-back":
                return
            undone = live.kept.candidate[:12]
            text = f"it ran again after {undone} was undone, and {why.why}: offer another version or restart"
            log.error("model %s is stopped: %s", name, text)
            await self._pipeline.stop(name, because(text, "slot-ended", digest=undone))

    def _then(self, name: str, event: Event) -> None:
        if self._group is not None:
            self._group.create_task(self._apply(name, event), name=f"judge-{name}")

    async def _look(self) -> None:
        """Find what no answer shows: a soak that is over, a model that was stopped, another config."""
        if self._untidy and not self._pipeline.opening:
            self._pipeline.forget_models()
            self._untidy = False
        for name, live in list(self._live.items()):
            if live.unsaved.why:
                async with live.lock:
                    live.unsaved = await asyncio.to_thread(self._save, name, live.kept)
            kept = live.kept
            if self._counting(name) is not kept or name not in self._running.setup.models:
                live.gates = live.judged = None
                if kept.state in (*ON_THE_WAY, "unconfirmed"):
                    await self._apply(name, Failed(_CONFIG))
                continue
            if kept.state == "rolled-back":
                self._judge(name, live)
            if kept.state not in (*JUDGED, *ON_THE_WAY) or kept.previous is None:
                continue
            if (why := self._sick(name, live)).why:
                await self._apply(name, Sick(why))
            else:
                self._judge(name, live)
                if kept.state == "unconfirmed" and live.gates is not None and live.gates.enough:
                    await self._apply(name, Enough())

    def _is_current(self, runner: ModelRunner, live: _Live) -> bool:
        """Whether a runner has the version that is `current`: during a swap the one before still answers."""
        return runner.settings.package == self._package(runner.name, live.kept.current)

    def _sick(self, name: str, live: _Live) -> Reason:
        """Why what runs cannot stay; `NO_REASON` where nothing shows."""
        runner = self._pipeline.runners.get(name)
        if runner is None or not runner.opened.is_set():
            return NO_REASON
        if not self._is_current(runner, live):
            return NO_REASON  # the swap has not ended
        if not runner.at_work or runner.state.code == "model-no-answer":
            state = runner.state
            return because(state.why or "it was stopped", state.code, **state.args)
        if live.kept.state == "unconfirmed" and 0 < live.until_s < self._clock.monotonic():
            if live.gates is not None and live.gates.enough and live.unproven.why:
                return live.unproven
            good = 0 if live.gates is None else live.gates.good
            confirm = live.kept.confirm
            text = f"{good} of {confirm.results} good results in {confirm.soak_s:g} s"
            return because(text, "slot-soak-over", results=good, of=confirm.results, seconds=confirm.soak_s)
        return NO_REASON


def _limit_ms(confirm: Confirm, runner: ModelRunner) -> float:
    """The limit of the time of a run: that of the offer, else the budget of the manifest; 0 for none."""
    if confirm.p99_ms or runner.manifest is None:
        return confirm.p99_ms
    return runner.manifest.budgets.p99_ms


def _not_compared(why: Reason) -> Reason:
    """Why a shadow has ended, with what an operator can do."""
    if why.code not in ("shadow-mismatch", "shadow-alone"):
        return why
    return Reason(f"{why.why}: offer it without shadow runs", why.code, why.args)


def _window_s(runner: ModelRunner) -> float:
    spec = None if runner.manifest is None else runner.manifest.input
    return spec.length / spec.rate_hz if spec is not None and spec.kind == "window" else 0.0
