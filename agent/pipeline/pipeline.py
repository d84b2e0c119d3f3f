"""From readings to messages: rows to batches, windows and frames to models, results to batches and events."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters.base import Reading
from agent.clock_sync import Stamps
from agent.inference.gate_process import at_once
from agent.inference.model_cache import ModelCache
from agent.outbox import Message
from agent.pipeline import privacy
from agent.pipeline.batcher import JOIN_AGE_S, MAX_AGE_S, Batcher
from agent.pipeline.events import EventReporter
from agent.pipeline.model_runner import Inference, ModelHost, ModelRunner
from agent.pipeline.model_threads import in_thread
from agent.pipeline.settings import DevicePlan, PublishConfig, SlotConfig
from agent.pipeline.sinks import Sinks
from agent.pipeline.snapshots import NewestPicture
from agent.pipeline.source import Sink
from wire.clock import Clock
from wire.messages import ClockState, ModelState, Snapshot, Stream

_LONG_S = 10.0  # a model that takes longer to open makes room for the next one

T = TypeVar("T")


class Pipeline:
    """Everything between the sources and the outbox of one agent.

    `open_models` opens the models, before `run` or beside it: readings do not wait for them. Each source gets
    its `sink`. `gate_memory` is the folder with the gate's reports. Output goes to `sinks`.
    """

    def __init__(
        self,
        devices: Mapping[str, DevicePlan],
        models: Mapping[str, SlotConfig],
        clock: Clock,
        *,
        gate_memory: Path | None,
        clock_state: Callable[[], ClockState],
        sinks: Sinks,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._devices = devices
        self._clock = clock
        self._clock_state = clock_state
        self._sinks = sinks
        self._batchers: dict[tuple[str, str], Batcher] = {}
        self._reporters: dict[str, EventReporter] = {}
        self._pictures: dict[tuple[str, str], NewestPicture] = {}
        self._privacy: dict[str, privacy.Privacy] = {}  # by device
        self._models = ModelCache(gate_memory)
        # frame stream -> the model whose boxes its snapshots show: the first that finds most of what to hide
        self._box_models: dict[tuple[str, str], ModelRunner] = {}
        host = ModelHost(self._models, Stamps(clock, clock_state).of, self._inferred, sinks.changed)
        self.runners = {
            name: ModelRunner(
                name,
                settings,
                devices[settings.device].streams[settings.stream],
                host,
                waits=devices[settings.device].build(clock).waits,
            )
            for name, settings in models.items()
        }
        for device, each in devices.items():
            for name, stream in each.streams.items():
                self._add_stream(device, name, stream)

    async def open_models(self) -> None:
        """Check and open every model, several at a time. A refused model shows why in its state.

        A model gives results as soon as it is open. When this is cancelled, the gates that run are ended.
        """
        places = _Places(at_once())
        try:
            async with asyncio.TaskGroup() as group:
                for device, guard in self._privacy.items():
                    group.create_task(places.run(f"faces-{device}", guard.open))
                for runner in self.runners.values():
                    group.create_task(self._open_runner(places, runner))
        except asyncio.CancelledError:
            self._models.stop()
            raise

    async def _open_runner(self, places: _Places, runner: ModelRunner) -> None:
        runner.install(await places.run(runner.name, runner.prepare))
        stream, device = runner.result_stream(), runner.settings.device
        if stream is None or runner.manifest is None:
            return
        results = msgspec.structs.replace(self._devices[device].config.publish, raw=True)
        self._batchers[device, runner.name] = self._batcher(device, runner.name, stream, results)
        self._reporters[runner.name] = EventReporter(
            runner.name, runner.label, runner.manifest.decoder, runner.settings.events
        )
        if (at := (device, runner.settings.stream)) in self._pictures:
            # in the order of the config, however long each gate took
            here = [each for each in self.runners.values() if each.at_work and at == _input(each)]
            self._box_models[at] = max(here, key=lambda each: len(_finds(each)))
        self._sinks.declared()

    async def until_open(self, device: str) -> None:
        """Wait for the models of a source that waits, such as a recording: they see each reading."""
        for runner in self.runners.values():
            if runner.settings.device == device and runner.waits:
                await runner.opened.wait()

    def sink(self, device: str) -> Sink:
        """The function that takes the readings of `device`."""
        runners: dict[str, list[ModelRunner]] = {name: [] for name in self._devices[device].streams}
        for runner in self.runners.values():
            if runner.settings.device == device:
                runners[runner.settings.stream].append(runner)

        def take(reading: Reading) -> Awaitable[None] | None:
            here = runners[reading.stream]
            if reading.picture is None:
                self._batchers[device, reading.stream].add(reading.at_ns, reading.values, reading.quality)
            elif not any(runner.state.state == "ok" for runner in here):
                self._pictures[device, reading.stream].show(reading)
            waits = [wait for runner in here if (wait := runner.offer(reading)) is not None]
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
        return {**self._devices[device].streams, **results}

    def models(self) -> dict[str, ModelState]:
        """The state of each slot's model."""
        return {name: runner.state for name, runner in self.runners.items()}

    def oversized(self) -> dict[str, int]:
        """Number of rows that were dropped because they fit no message, by `device/stream`."""
        return {f"{at[0]}/{at[1]}": each.oversized for at, each in self._batchers.items() if each.oversized}

    @property
    def busy(self) -> bool:
        """Whether a model still has input."""
        return any(runner.busy for runner in self.runners.values())

    async def run(self) -> None:
        """Run models, flush batches by age and publish pictures, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, runner in self.runners.items():
                group.create_task(runner.run(), name=f"slot-{name}")
            for (device, stream), newest in self._pictures.items():
                every_s = self._devices[device].config.publish.snapshot_every_s
                if every_s > 0:
                    group.create_task(newest.run(every_s), name=f"look-{device}-{stream}")
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

    def flush(self) -> None:
        """Send every row that still waits for its batch to fill."""
        for batcher in self._batchers.values():
            batcher.flush()

    async def snapshot(self, device: str, stream: str = "") -> Snapshot | None:
        """Publish the newest picture of a device now and return it; None while it has sent no picture.

        Raises:
            EdgebedError: the picture cannot be encoded.
        """
        for (of, name), newest in self._pictures.items():
            if of == device and stream in ("", name) and newest.reading is not None:
                return await newest.publish()
        return None

    def _add_stream(self, device: str, name: str, stream: Stream) -> None:
        publish = self._devices[device].config.publish
        if stream.kind == "frame":
            if device not in self._privacy:
                self._privacy[device] = privacy.Privacy(publish.blur, publish.faces, models=self._models)
            self._pictures[device, name] = NewestPicture(
                device,
                name,
                privacy=self._privacy[device],
                clock=self._clock,
                send=self._sinks.snap,
                counters=self.counters,
            )
        else:
            self._batchers[device, name] = self._batcher(device, name, stream, publish)

    def _batcher(self, device: str, name: str, stream: Stream, publish: PublishConfig) -> Batcher:
        stamps = Stamps(self._clock, self._clock_state)
        return Batcher(device, name, stream, stamps=stamps, sinks=self._sinks, publish=publish)

    def _inferred(self, runner: ModelRunner, inference: Inference) -> None:
        device, reading = runner.settings.device, inference.reading
        clk, offset_ns = inference.stamp
        self._batchers[device, runner.name].add(
            reading.at_ns, inference.row(), inference.quality, inference.stamp
        )
        event = self._reporters[runner.name].event(inference, clk)
        if event is not None:
            self._sinks.send(Message("event", device, event.type, event, offset_ns))
        if self._box_models.get((device, runner.settings.stream)) is runner and runner.manifest is not None:
            seen = privacy.seen_by(runner.manifest, inference.result.boxes)
            self._pictures[device, runner.settings.stream].show(reading, seen, runner.label)


class _Places:
    """Limits how many models are opened at the same time: `many`, and as many more that take long.

    A model that hangs in its gate does not keep the next one from being opened.
    """

    def __init__(self, many: int) -> None:
        self._all, self._new = asyncio.Semaphore(2 * many), asyncio.Semaphore(many)

    async def run(self, name: str, work: Callable[[], T]) -> T:
        """The result of `work`, in a thread of its own."""
        async with self._all:
            async with self._new:
                opening = asyncio.create_task(in_thread(f"opening-{name}", work))
                try:
                    await asyncio.wait([opening], timeout=_LONG_S)
                except asyncio.CancelledError:
                    opening.cancel()
                    raise
            return await opening


def _input(runner: ModelRunner) -> tuple[str, str]:
    """The device and the stream that the model sees."""
    return runner.settings.device, runner.settings.stream


def _finds(runner: ModelRunner) -> frozenset[privacy.Kind]:
    """The kinds of parts to hide that the model finds."""
    if runner.manifest is None:
        return frozenset()
    return privacy.finds(privacy.seen_by(runner.manifest, ()).labels)


async def _all(waits: Sequence[Awaitable[None]]) -> None:
    for wait in waits:
        await wait
