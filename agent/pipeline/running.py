"""The devices and models of an agent as they run now; replaces some of them while the others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.pipeline.changes import Changes, Setup, compare, fingerprint
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.source import Source, follow
from wire.clock import Clock
from wire.task_cancellation import end

log = logging.getLogger("edgebed.agent")

CLOSE_S = 4.0  # for the devices to close


class Running:
    """Reads the devices of `setup` into `pipeline`, from `start` on; `change` makes it another setup.

    `versions` puts other packages into a setup, where the slots have a version that was offered; `pipeline`
    was made of that.
    """

    def __init__(
        self,
        setup: Setup,
        clock: Clock,
        pipeline: Pipeline,
        changed: Callable[[], None],
        versions: Callable[[Setup], Setup] = lambda setup: setup,
    ) -> None:
        self.setup = setup
        self._versions = versions
        self._runs = versions(setup)
        self._named: tuple[Setup, str] | None = None  # what ran, and its fingerprint, once a pilot asked
        self.sources: dict[str, Source] = {}  # by device, in the order of the config
        self._clock = clock
        self._pipeline = pipeline
        self._changed = changed
        self._group: asyncio.TaskGroup | None = None  # of `start`
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._stopped = False
        # the event loop alone does not keep a task alive
        self._changing: asyncio.Task[Changes] | None = None
        self._swapping: asyncio.Task[None] | None = None
        self._make_sources()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of what runs, with the versions in the slots."""
        if self._named is None or self._named[0] is not self._runs:
            self._named = self._runs, fingerprint(self._runs)
        return self._named[1]

    def start(self, group: asyncio.TaskGroup) -> None:
        """Read every device in a task of `group`."""
        self._group = group
        self._start_tasks()

    async def change(self, new: Setup) -> Changes:
        """Run `new` instead; what is the same in both goes on without a pause. Returns what was different.

        Models are opened afterwards, by `Pipeline.open_models`. A change that has begun is not broken off
        when its caller is cancelled: `stop` waits for it.
        """
        self._changing = changing = asyncio.create_task(self._change(new), name="change")
        return await asyncio.shield(changing)

    async def swap(self, slot: str, candidate: ModelRunner) -> None:
        """Let the candidate of a slot run, after what `versions` puts there was changed; no input is lost.

        Nothing happens if the candidate was dropped meanwhile: a change of the setup runs the version then.
        """
        self._swapping = swapping = asyncio.create_task(self._swap(slot, candidate), name="swap")
        await asyncio.shield(swapping)

    async def settled(self) -> None:
        """Wait until each change and swap that has begun is done."""
        async with self._lock:
            return

    async def _swap(self, slot: str, candidate: ModelRunner) -> None:
        async with self._lock:
            if self._stopped or self._pipeline.candidates.get(slot) is not candidate:
                return
            await self._pipeline.swap(slot)
            self._runs = self._versions(self.setup)
        self._changed()

    async def _change(self, new: Setup) -> Changes:
        async with self._lock:
            if self._stopped:
                return Changes()
            runs = self._versions(new)
            changes = compare(self._runs, runs)
            await self._end({name: task for name, task in self._tasks.items() if name in changes.devices})
            await self._pipeline.change(runs, changes)
            self.setup, self._runs = new, runs
            self._make_sources(changes)
            self._start_tasks()
        self._changed()
        return changes

    async def stop(self) -> None:
        """End the reading of every device, after a change that has begun."""
        self._stopped = True
        async with self._lock:
            await self._end(dict(self._tasks))

    async def _end(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        for task in await end(tasks.values(), CLOSE_S):
            log.warning("%s did not end within %g s", task.get_name(), CLOSE_S)
        for name in tasks:
            del self._tasks[name]

    def _make_sources(self, changes: Changes | None = None) -> None:
        old, devices = self.sources, self.setup.devices
        kept = {} if changes is None else {name: old[name] for name in old.keys() - changes.devices}
        fresh = {name: plan for name, plan in devices.items() if name not in kept}
        made = follow(fresh, self._clock, self._pipeline.sink, self._changed)
        for name, source in made.items():
            if name in old:  # counters count from the start of the daemon
                source.continue_counters(old[name])
        sources = {name: kept.get(name) or made[name] for name in devices}
        self.sources.clear()  # in place: others hold this dict
        self.sources.update(sources)

    def _start_tasks(self) -> None:
        if self._group is None:
            return
        for name, source in self.sources.items():
            if name not in self._tasks:
                self._tasks[name] = self._group.create_task(self._read(name, source), name=f"source-{name}")

    async def _read(self, device: str, source: Source) -> None:
        await self._pipeline.until_open(device)
        await source.run()
