"""From readings to messages: rows to batches, windows and frames to models, results to batches and events."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from adapters.base import Reading
from agent.clock_sync import Stamps
from agent.inference.gate_process import at_once
from agent.inference.model_cache import Isolation, ModelCache
from agent.inference.signing.trust import Trust
from agent.inference.tuning import Tuned
from agent.pipeline.batcher import JOIN_AGE_S, MAX_AGE_S, Batcher
from agent.pipeline.changes import Changes, Setup
from agent.pipeline.input_watch import InputSummary
from agent.pipeline.model_events import ModelEvents
from agent.pipeline.model_run import Inference
from agent.pipeline.model_runner import STUCK_S, ModelHost, ModelRunner
from agent.pipeline.model_threads import in_thread
from agent.pipeline.opening import OpeningPlaces
from agent.pipeline.pictures import Pictures
from agent.pipeline.settings import DevicePlan, PublishConfig, ShadowConfig, SlotConfig, shadow_stream
from agent.pipeline.shadow import STREAM as SHADOW_STREAM
from agent.pipeline.shadow import Shadow, ShadowHost, Watch
from agent.pipeline.sinks import Sinks
from agent.pipeline.source import Sink
from wire.clock import Clock
from wire.messages import ClockState, ModelState, Scalar, Snapshot, Stream
from wire.reasons import Reason, because
from wire.task_cancellation import end

if TYPE_CHECKING:
    from agent.inference.isolation.worker import Worker
    from agent.inference.session import Model

log = logging.getLogger("edgebed.model")

_ALONE = because("the model of the slot is not open", "shadow-alone")


class Pipeline:
    """Everything between the sources and the outbox of one agent.

    `open_models` opens the models, before `run` or beside it: readings do not wait for them. Each source gets
    its `sink`. `cache` opens models and has the limits of the agent. Output goes to `sinks`. `change`
    replaces devices and models while the others run.
    """

    def __init__(
        self,
        devices: Mapping[str, DevicePlan],
        models: Mapping[str, SlotConfig],
        clock: Clock,
        *,
        cache: ModelCache,
        clock_state: Callable[[], ClockState],
        sinks: Sinks,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.devices: dict[str, DevicePlan] = {}
        self.runners: dict[str, ModelRunner] = {}
        self._clock = clock
        self._clock_state = clock_state
        self._sinks = sinks
        self._batchers: dict[tuple[str, str], Batcher] = {}
        self._events = ModelEvents(sinks)
        self._oversized_before: Counter[str] = Counter()  # of batchers that were replaced
        self._pictures = Pictures(cache, clock, sinks, self.counters)
        self._models = cache
        self._host = ModelHost(
            self._models,
            Stamps(clock, clock_state).of,
            self._inferred,
            sinks.changed,
            cache.fences,
            sinks.declared,
            self._summarised,
        )
        self._shadow_host = ShadowHost(cache, cache.fences, clock, sinks.changed, sinks.state)
        self._inputs: dict[tuple[str, str], list[ModelRunner]] = {}  # stream -> the models that see it
        self.candidates: dict[str, ModelRunner] = {}  # by slot: runners whose results act on nothing
        self.spare: dict[str, ModelRunner] = {}  # by slot: runners whose model stays open, to go back to
        self._next: dict[
            str, ModelRunner
        ] = {}  # by slot: of another config, run by the one before until open
        self._replacing = asyncio.Lock()
        # (device, stream) -> what else sees each of its readings
        self.taps: dict[tuple[str, str], Callable[[Reading], None]] = {}
        self._group: asyncio.TaskGroup | None = None  # of `run`
        self._readers: dict[str, object] = {}  # device -> the source that may give readings
        self._tasks: dict[str, asyncio.Task[None]] = {}  # of runners and of pictures, by name
        self._add(devices, models, devices)

    def _add(
        self, devices: Mapping[str, DevicePlan], models: Mapping[str, SlotConfig], published: Iterable[str]
    ) -> None:
        """Use `devices` and `models` from now on: make missing runners, and what `published` devices need."""
        self.devices = dict(devices)
        self.runners = {
            name: self.runners.get(name) or self._runner(name, slot) for name, slot in models.items()
        }
        for seen in self._inputs.values():
            seen.clear()  # in place: the sinks of sources that go on hold these lists
        opened = [made for made in self.candidates.values() if made.opened.is_set()]
        for runner in (*self.runners.values(), *opened):
            self._seen_by(*_input(runner)).append(runner)
        for device in published:
            for name, stream in devices[device].streams.items():
                self._add_stream(device, name, stream)
        for runner in self.runners.values():
            if runner.shadow is None:
                self._add_shadow(runner, runner.settings.shadow)
        for at in self._pictures.newest:
            self._pictures.choose_boxes(at, self.runners.values())
        self._start_tasks()

    def _runner(self, name: str, slot: SlotConfig) -> ModelRunner:
        plan = self.devices[slot.device]
        return ModelRunner(name, slot, plan.streams[slot.stream], self._host, waits=plan.waits)

    def _add_shadow(
        self, runner: ModelRunner, settings: ShadowConfig | UnsetType, watch: Watch | None = None
    ) -> None:
        """Give a runner a second model, if there are settings for one."""
        if settings is not UNSET:
            guard = partial(self._pictures.guards.get, runner.settings.device)
            runner.shadow = Shadow(runner.name, runner.settings, settings, self._shadow_host, guard, watch)

    def _seen_by(self, device: str, stream: str) -> list[ModelRunner]:
        return self._inputs.setdefault((device, stream), [])

    async def change(self, new: Setup, changes: Changes) -> None:
        """Replace devices and models between two readings; the sources of `changes.devices` have ended.

        New models are not open yet: call `open_models`. A model whose slot gets another one
        on the same input runs until that is open. Every row taken so far is sent.
        """
        async with self._replacing:
            await self._change(new, changes)

    async def _change(self, new: Setup, changes: Changes) -> None:
        for name in changes.models & self.candidates.keys():
            await self.drop_candidate(name)
        going_on = {name for name in changes.models if self._goes_on(name, new, changes)}
        gone = {name for name in changes.models - going_on if name in self.runners}
        published = changes.devices | changes.published
        for name in gone:  # first, so that no source is held back by a model that ends
            self._seen_by(*_input(self.runners[name])).remove(self.runners[name])
            self.runners[name].retire()
        ending = [_slot(name) for name in gone] + [_look(*at) for at in self._pictures.of(published)]
        ending += [shadow_stream(name) for name in gone]
        await end([self._tasks.pop(name) for name in ending if name in self._tasks])
        # no await from here to the end: a reading sees the old setup or the new one
        counters = {name: self.runners[name].counters for name in gone}
        for name in gone:
            runner = self.runners.pop(name)
            self._events.remove(name)
            self._remove_batcher(runner.settings.device, name)
            self._remove_batcher(runner.settings.device, shadow_stream(name))
        for device, stream in [at for at in self._batchers if at[0] in published]:
            self._remove_batcher(device, stream)
        for device in changes.devices:
            self._readers.pop(device, None)
        self._pictures.remove(published)
        self._add(new.devices, new.models, [name for name in new.devices if name in published])
        for name in changes.models:
            self._next.pop(name, None)
            if name in going_on:
                self._next[name] = self._runner(name, new.models[name])
        for name in gone & new.models.keys():  # they count from the start of the daemon
            self.runners[name].counters.update(counters[name])
        for runner in self.runners.values():
            if runner.settings.device in published and runner.at_work:
                self._add_results(runner)
        self._sinks.declared()

    def _goes_on(self, name: str, new: Setup, changes: Changes) -> bool:
        """Whether the model of a slot runs until the one of another setup is open."""
        old, slot = self.runners.get(name), new.models.get(name)
        if old is None or slot is None or not old.at_work:
            return False
        return old.settings.input == slot.input and slot.device not in changes.devices

    async def _open_next(self, places: OpeningPlaces, made: ModelRunner) -> None:
        """Open a model of another config, and let it run instead of the one before; no input is lost."""
        name, trust = made.name, self._models.trust
        opened = await places.run(name, made.prepare)
        async with self._replacing:
            if self._next.get(name) is not made:
                self.forget_models()
                return
            if isinstance(opened.model, Reason) and opened.model.code == "fence-memory":
                await self._stop(self.runners[name], opened.model)  # there is room for one of them
                opened = await places.run(name, made.prepare)
            del self._next[name]
            made.install(opened)
            await self._replace(name, made)
            self.spare.pop(name, None)
        self.forget_models()
        await self._trust_again(trust)

    def _remove_batcher(self, device: str, stream: str) -> None:
        batcher = self._batchers.pop((device, stream), None)
        if batcher is not None:
            batcher.flush()
            self._oversized_before[f"{device}/{stream}"] += batcher.oversized

    async def open_models(self) -> None:
        """Check and open every model that is not open, several at a time.

        A refused model shows why in its state. A model gives results as soon as it is open. When this is
        cancelled, the gates that run are ended.
        """
        places = OpeningPlaces(at_once())
        try:
            async with asyncio.TaskGroup() as group:
                for device, guard in self._pictures.guards.items():
                    if not guard.opened:
                        group.create_task(places.run(f"faces-{device}", guard.open))
                for runner in self.runners.values():
                    if not runner.opened.is_set():
                        group.create_task(self._open_runner(places, runner))
                for made in self._next.values():
                    group.create_task(self._open_next(places, made))
        except asyncio.CancelledError:
            self._models.stop()
            raise

    async def _open_runner(self, places: OpeningPlaces, runner: ModelRunner) -> None:
        trust = self._models.trust
        opened = await places.run(runner.name, runner.prepare)
        if self.runners.get(runner.name) is not runner or runner.opened.is_set():
            self.forget_models()  # it was replaced meanwhile, and no one else needs what it has opened
            return
        runner.install(opened)
        if runner.at_work:
            self._add_results(runner)
            self._sinks.declared()
        await self._open_shadow(places, runner)
        await self._trust_again(trust)

    async def _trust_again(self, trust: Trust) -> None:
        """Stop what was opened meanwhile, if other keys count since the gate looked with `trust`."""
        if self._models.trust is not trust:
            await self.trust(self._models.trust)

    async def candidate(self, name: str, package: Path, isolation: Isolation | None = None) -> ModelRunner:
        """Open another package for a slot beside what runs; its `state` shows why it cannot be used.

        It sees the input of the slot and does not run, until `swap`, `try_beside` or `drop_candidate`.
        `isolation` counts more than that of the config.
        """
        await self.drop_candidate(name)
        plain = self._next.get(name) or self.runners[name]
        settings = msgspec.structs.replace(plain.settings, package=package)
        stream = self.devices[settings.device].streams[settings.stream]
        made = ModelRunner(name, settings, stream, self._host, waits=plain.waits)
        made.mode = "warm"
        self.candidates[name] = made
        trust = self._models.trust
        opened = await in_thread(f"opening-{name}", partial(made.prepare, isolation))
        if self.candidates.get(name) is made:
            made.install(opened)
            made.warmed = made.result_stream() is not None and not made.makes_windows
            self._seen_by(*_input(made)).append(made)
            self._start_tasks()
        else:
            self.forget_models()
        await self._trust_again(trust)
        return made

    async def drop_candidate(self, name: str) -> None:
        """End the runner that `candidate` made for a slot, if there is one."""
        made = self.candidates.pop(name, None)
        if made is None:
            return
        await self.end_beside(name)
        seen = self._seen_by(*_input(made))
        if made in seen:
            seen.remove(made)
        made.opened.set()
        made.release()
        await end([self._tasks.pop(task) for task in [_candidate(name)] if task in self._tasks])

    async def try_beside(self, name: str, watch: Watch) -> Shadow | None:
        """Compare the candidate of a slot with its model, instead of the second model of the config.

        None while the model of the slot is not open. `watch` gets the answers of the candidate.
        """
        runner, made = self.runners[name], self.candidates[name]
        if runner.shadow is not None and runner.shadow.watch is not None:
            return runner.shadow
        if not runner.opened.is_set() or made.model is None:
            return None
        slot = runner.settings
        plain = ShadowConfig(package=slot.package) if slot.shadow is UNSET else slot.shadow
        settings = msgspec.structs.replace(plain, package=made.settings.package, mode="shadow")
        tried = await self._replace_shadow(runner, settings, watch)
        await self._open_shadow(OpeningPlaces(1), runner, made.model)
        return tried

    async def end_beside(self, name: str) -> None:
        """End `try_beside`: the second model of the config, if there is one, is opened again."""
        runner = self.runners.get(name)
        if runner is None or runner.shadow is None or runner.shadow.watch is None:
            return
        await self._replace_shadow(runner, runner.settings.shadow)
        self._open_shadow_later(runner)

    async def _replace_shadow(
        self, runner: ModelRunner, settings: ShadowConfig | UnsetType, watch: Watch | None = None
    ) -> Shadow | None:
        tried = self._end_shadow(runner)
        self._remove_batcher(runner.settings.device, runner.name)
        self._add_shadow(runner, settings, watch)
        if runner.at_work:
            self._add_results(runner)
        self._sinks.declared()
        if tried is not None:
            await end([tried])
        return runner.shadow

    def _open_shadow_later(self, runner: ModelRunner) -> None:
        if self._group is not None and runner.shadow is not None:
            opening = f"opening-{shadow_stream(runner.name)}"
            self._group.create_task(self._open_shadow(OpeningPlaces(1), runner), name=opening)

    async def swap(self, name: str) -> None:
        """Let the candidate of a slot run instead of the runner before, which becomes its `spare`.

        What was offered is answered in order, once, by one of them. If the candidate is refused, the slot has
        no model.
        """
        async with self._replacing:
            self._next.pop(name, None)
            await self._replace(name, self.candidates.pop(name))

    async def _replace(self, name: str, new: ModelRunner) -> None:
        old = self.runners[name]
        self.spare[name] = new  # its model stays open meanwhile
        seen = self._seen_by(*_input(old))
        new.take_over(old)  # no await from here to the next line: a reading is for one of them
        seen[:] = [new if runner is old else runner for runner in seen if runner is not new]
        await old.drained(STUCK_S)
        task = self._tasks.pop(_slot(name), None)
        old.retire()
        self._remove_batcher(old.settings.device, name)
        self._events.remove(name)
        tried = self._end_shadow(old)
        self._add_shadow(new, new.settings.shadow)
        self._pictures.leave(old)
        self.runners[name], self.spare[name] = new, old
        if (running := self._tasks.pop(_candidate(name), None)) is not None:
            self._tasks[_slot(name)] = running
        if new.at_work:
            self._add_results(new)
        self._start_tasks()
        new.follow(old)
        self._sinks.declared()
        await end([each for each in (task, tried) if each is not None])
        self._open_shadow_later(new)

    def _end_shadow(self, runner: ModelRunner) -> asyncio.Task[None] | None:
        """Forget the second model of a runner; returns its task, which is to be ended."""
        runner.shadow = None
        self._remove_batcher(runner.settings.device, shadow_stream(runner.name))
        return self._tasks.pop(shadow_stream(runner.name), None)

    async def _open_shadow(
        self, places: OpeningPlaces, runner: ModelRunner, opened: Model | Worker | None = None
    ) -> None:
        """Open the second model of a slot whose model is open, or take one that is `opened`."""
        shadow, acting = runner.shadow, runner.model
        if shadow is None:
            return
        if acting is None:
            shadow.close(_ALONE)
            return
        trust = self._models.trust
        ref, found = await places.run(shadow_stream(runner.name), partial(shadow.prepare, acting, opened))
        if (runner.shadow, runner.model) != (shadow, acting) or self.runners.get(runner.name) is not runner:
            shadow.close(_ALONE)  # it was replaced or stopped meanwhile
            self.forget_models()
            return
        shadow.install(acting, runner.ref, ref, found)
        self._start_tasks()
        await self._trust_again(trust)

    async def stop_newest(self, why: Reason) -> str:
        """Stop the model that was opened last and free its memory; returns its slot, "" if none is open.

        Models that are only tried go first.
        """
        for each in self.runners.values():
            if each.shadow is not None and each.shadow.model is not None:
                each.shadow.close(why)
                self.forget_models()
                return shadow_stream(each.name)
        runner = max(
            (each for each in self.runners.values() if each.at_work),
            key=lambda each: each.opened_s,
            default=None,
        )
        if runner is None:
            return ""
        await self._stop(runner, why)
        return runner.name

    async def stop(self, name: str, why: Reason) -> None:
        """Stop the model of a slot and free its memory."""
        await self._stop(self.runners[name], why)

    def refusal(self, package: Path) -> Reason:
        """Why the keys that count now do not allow a package; blocks. Raises ModelError: it is not one."""
        from agent.inference.package import load_package

        return self._models.refusal(load_package(package))

    async def trust(self, trust: Trust) -> None:
        """Use other keys from now on; a model whose package they do not allow is stopped."""
        self._models.trust = trust
        for runner in list(self.runners.values()):
            if (model := runner.model) is None:
                continue
            why = await in_thread(runner.name, partial(self._models.refusal, model.package))
            if why.why and runner.model is model:
                log.error("model %s is stopped: %s", runner.name, why.why)
                await self._stop(runner, why)
            shadow = runner.shadow
            if shadow is not None and (second := shadow.model) is not None:
                why = await in_thread(runner.name, partial(self._models.refusal, second.package))
                if why.why:
                    shadow.close(why)
        for name, made in [*self.candidates.items(), *self.spare.items()]:
            if (model := made.model) is not None:
                why = await in_thread(name, partial(self._models.refusal, model.package))
                if why.why and made.model is model:
                    log.error("model %s: another version is not used: %s", name, why.why)
                    if made.task is not None:
                        await end([made.task])
                    made.close(why)
        for guard in self._pictures.guards.values():
            if (model := guard.model) is not None:
                why = await in_thread("faces", partial(self._models.refusal, model.package))
                if why.why:
                    guard.refuse(why.why)
        self.forget_models()

    async def _stop(self, runner: ModelRunner, why: Reason) -> None:
        """Stop one model and free its memory."""
        task = self._tasks.pop(_slot(runner.name), None)
        if task is not None:
            await end([task])
        runner.close(why)
        if runner.shadow is not None:
            runner.shadow.close(_ALONE)
        self.forget_models()
        self._sinks.declared()

    def _add_results(self, runner: ModelRunner) -> None:
        """Make what the results of an open model need."""
        stream, device = runner.result_stream(), runner.settings.device
        if stream is None or runner.manifest is None:
            return
        results = msgspec.structs.replace(self.devices[device].config.publish, raw=True)
        self._batchers[device, runner.name] = self._batcher(device, runner.name, stream, results)
        if runner.shadow is not None:
            name = shadow_stream(runner.name)
            self._batchers[device, name] = self._batcher(device, name, SHADOW_STREAM, results)
        self._events.add(runner, runner.manifest.decoder)
        self._pictures.choose_boxes(_input(runner), self.runners.values())

    @property
    def opened(self) -> bool:
        """Whether every model is open or refused."""
        return not self._next and all(runner.opened.is_set() for runner in self.runners.values())

    @property
    def opening(self) -> bool:
        """Whether a model is being opened, which `forget_models` would close as not needed."""
        runners = (*self.runners.values(), *self.candidates.values(), *self._next.values())
        return any(not each.opened.is_set() for each in runners)

    def forget_models(self) -> None:
        """Free the memory of models that no device uses any more."""
        beside = (*self.candidates.values(), *self.spare.values(), *self._next.values())
        runners = (*self.runners.values(), *beside)
        in_use = [model for runner in runners for model in (runner.model, runner.prepared)]
        tried = [runner.shadow for runner in runners if runner.shadow is not None]
        in_use += [model for shadow in tried for model in (shadow.model, shadow.prepared)]
        self._models.keep([*in_use, *(guard.model for guard in self._pictures.guards.values())])

    def close(self) -> None:
        """End the worker processes of models; blocks for about a second at most. `run` has ended."""
        self._models.close()

    async def until_open(self, device: str) -> None:
        """Wait for the models of a source that waits, such as a recording: they see each reading."""
        for runner in list(self.runners.values()):
            if runner.settings.device == device and runner.waits:
                await runner.opened.wait()

    def sink(self, device: str) -> Sink:
        """The function that takes the readings of `device`."""
        runners = {name: self._seen_by(device, name) for name in self.devices[device].streams}
        mine = self._readers[device] = object()

        def take(reading: Reading) -> Awaitable[None] | None:
            if self._readers.get(device) is not mine:
                return None  # of an adapter that did not end when its device was replaced
            here = runners[reading.stream]
            if (tap := self.taps.get((device, reading.stream))) is not None:
                tap(reading)
            if reading.picture is None:
                self._batchers[device, reading.stream].add(reading.at_ns, reading.values, reading.quality)
            elif not any(each.state.state == "ok" and each.mode == "live" for each in here if each.sees_all):
                self._pictures.newest[device, reading.stream].show(reading)
            waits = [
                wait
                for runner in here
                if (wait := runner.offer(reading) if runner.sees_all else runner.held_back()) is not None
            ]
            if not waits:
                return None
            return waits[0] if len(waits) == 1 else _all(waits)

        return take

    def streams(self, device: str) -> dict[str, Stream]:
        """The streams of `device`: its own and the results of its models."""
        results = {
            name: stream
            for name, runner in self.runners.items()
            if runner.settings.device == device and (stream := runner.result_stream()) is not None
        }
        shadows = {
            shadow_stream(name): SHADOW_STREAM for name in results if self.runners[name].shadow is not None
        }
        return {**self.devices[device].streams, **results, **shadows}

    def models(self) -> dict[str, ModelState]:
        """The state of each slot's model."""
        return {name: runner.state for name, runner in self.runners.items()}

    def oversized(self) -> dict[str, int]:
        """Number of rows that were dropped because they fit no message, by `device/stream`."""
        now = {f"{device}/{stream}": each.oversized for (device, stream), each in self._batchers.items()}
        return {at: number for at, number in (self._oversized_before + Counter(now)).items() if number}

    @property
    def busy(self) -> bool:
        """Whether a model still has input."""
        return any(runner.busy for runner in self.runners.values())

    async def run(self) -> None:
        """Run models, flush batches by age and publish pictures, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._start_tasks()
            while True:
                now_s = self._clock.monotonic()
                due_s = min(
                    (each.due_s(now_s) for each in self._batchers.values()), default=now_s + MAX_AGE_S
                )
                await self._clock.sleep_roughly(due_s - now_s)
                batchers = self._batchers.values()  # no await here: a model may open between two rounds
                if sum(each.tick() for each in batchers):  # not `any`, which would stop at the first
                    for each in batchers:
                        each.tick(JOIN_AGE_S)

    def _start_tasks(self) -> None:
        """Start the tasks of models and pictures that have none, if `run` is running."""
        if self._group is None:
            return
        tasks = {_slot(name): runner for name, runner in self.runners.items()}
        tasks |= {_candidate(name): runner for name, runner in self.candidates.items()}
        for task, runner in tasks.items():
            if task not in self._tasks:
                self._tasks[task] = self._group.create_task(runner.run(), name=task)
            self._start_shadow(runner)
        for (device, stream), newest in self._pictures.newest.items():
            every_s = self.devices[device].config.publish.snapshot_every_s
            if every_s > 0 and (task := _look(device, stream)) not in self._tasks:
                self._tasks[task] = self._group.create_task(newest.run(every_s), name=task)

    def _start_shadow(self, runner: ModelRunner) -> None:
        """Start the task of an open second model that has none."""
        shadow, task = runner.shadow, shadow_stream(runner.name)
        at = runner.settings.device, task
        if self._group is None or shadow is None or shadow.model is None or task in self._tasks:
            return
        if at in self._batchers:
            row = partial(self._summed_up, at)
            self._tasks[task] = self._group.create_task(shadow.run(row), name=task)

    def flush(self) -> None:
        """Send every row that still waits for its batch to fill."""
        for batcher in self._batchers.values():
            batcher.flush()

    async def snapshot(self, device: str, stream: str = "") -> Snapshot | None:
        """Publish the newest picture of a device now and return it; None while it has sent no picture.

        Raises:
            EdgebedError: the picture cannot be encoded.
        """
        return await self._pictures.snapshot(device, stream)

    def _add_stream(self, device: str, name: str, stream: Stream) -> None:
        publish = self.devices[device].config.publish
        if stream.kind == "frame":
            self._pictures.add(device, name, publish)
        else:
            self._batchers[device, name] = self._batcher(device, name, stream, publish)

    def _batcher(self, device: str, name: str, stream: Stream, publish: PublishConfig) -> Batcher:
        stamps = Stamps(self._clock, self._clock_state)
        return Batcher(device, name, stream, stamps=stamps, sinks=self._sinks, publish=publish)

    def _summarised(self, runner: ModelRunner, summary: InputSummary) -> None:
        """Send a summary of what a model saw."""
        self._events.summary(runner, summary, self._host.stamp(summary.at_ns))

    def _summed_up(self, at: tuple[str, str], row: dict[str, Scalar]) -> None:
        """Send a row about the second model of a slot."""
        if (batcher := self._batchers.get(at)) is not None:
            batcher.add(self._clock.now_ns(), row)

    def _inferred(self, runner: ModelRunner, inference: Inference) -> None:
        device, reading = runner.settings.device, inference.reading
        self._batchers[device, runner.name].add(
            reading.at_ns, inference.row(), inference.quality, inference.stamp
        )
        self._events.results(runner, inference)
        for other in self._seen_by(*_input(runner)):
            other.offer_crops(runner.name, inference)
        self._pictures.found(runner, inference)

    def withhold(self, slots: frozenset[str]) -> None:
        """Send no events of these slots; their rows go on."""
        self._events.withhold(slots)

    def tune(self, numbers: Mapping[str, Tuned]) -> None:
        """Give the decoders of these slots one other number from the next input on, all others their own."""
        if numbers != self._host.tuned:
            self._host.tuned.clear()
            self._host.tuned.update(numbers)
            self._sinks.changed()


def _look(device: str, stream: str) -> str:
    """The name of the task that publishes pictures of a stream."""
    return f"look-{device}-{stream}"


def _slot(name: str) -> str:
    """The name of the task of the runner of a slot."""
    return f"slot-{name}"


def _candidate(name: str) -> str:
    """The name of the task of the candidate of a slot."""
    return f"candidate-{name}"


def _input(runner: ModelRunner) -> tuple[str, str]:
    """The device and the stream that the model sees."""
    return runner.settings.device, runner.settings.stream


async def _all(waits: Sequence[Awaitable[None]]) -> None:
    for wait in waits:
        await wait
