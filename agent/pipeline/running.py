"""The devices and models of an agent as they run now; replaces some of them while the others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.pipeline.changes import Changes, Setup, compare
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.source import Source, follow
from wire.clock import Clock
from wire.task_cancellation import end

log = logging.getLogger("edgebed.agent")

CLOSE_S = 4.0  # for the devices to close


class Running:
    """Reads the devices of `setup` into `pipeline`, from `start` on; `change` makes it another setup."""

    def __init__(self, setup: Setup, clock: Clock, pipeline: Pipeline, changed: Callable[[], None]) -> None:
        self.setup = setup
        self.sources: dict[str, Source] = {}  # by device, in the order of the config
        self._clock = clock
        self._pipeline = pipeline
        self._changed = changed
        self._group: asyncio.TaskGroup | None = None  # of `start`
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._stopped = False
        self._changing: asyncio.Task[None] | None = None  # the event loop alone does not keep a task alive
        self._make_sources()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Read every device in a task of `group`."""
        self._group = group
        self._start_tasks()

    async def change(self, new: Setup) -> Changes:
        """Run `new` instead; what is the same in both goes on without a pause. Returns what was different.

        Models are opened afterwards, by `Pipeline.open_models`. A change that has begun is not broken off
        when its caller is cancelled: `stop` waits for it.
        """
        changes = compare(self.setup, new)
        self._changing = asyncio.create_task(self._change(new, changes), name="change")
        await asyncio.shield(self._changing)
        return changes

    async def _change(self, new: Setup, changes: Changes) -> None:
        async with self._lock:
            if self._stopped:
                return
            await self._end({name: task for name, task in self._tasks.items() if name in changes.devices})
            await self._pipeline.change(new, changes)
            self.setup = new
            self._make_sources(changes)
            self._start_tasks()
        self._changed()

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
