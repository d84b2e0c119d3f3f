"""`edgebed record`: read the devices and run the models as the daemon does, into a file; needs no broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path

from msgspec.structs import replace

from adapters.base import Reading
from agent.clock_sync import TimeSync
from agent.config import AgentPlan
from agent.inference.model_cache import ModelCache
from agent.inference.signing.trust import read
from agent.offline import mcap_file
from agent.offline.mcap_file import Recorder, RecordingError
from agent.outbox import Message
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.sinks import Sinks
from agent.pipeline.source import Sink, Source, follow
from wire.clock import Clock
from wire.errors import Unreachable
from wire.messages import Event
from wire.task_cancellation import end

SYNC_S = 1.0  # a power cut loses at most this much
_ANSWERS_S = 1.5  # how long a recording that was stopped waits for its models


class RecordRun:
    """Records one session of `plan` into `path`; `sources` and `recorder` show its progress.

    A picture is recorded as JPEG of `quality` (0: PNG), and the models see the picture as recorded, so that a
    replay sees the same. The session ends at `max_bytes`.
    """

    def __init__(
        self,
        plan: AgentPlan,
        clock: Clock,
        path: Path,
        *,
        version: str,
        quality: int = 95,
        max_bytes: int = 2**33,
    ) -> None:
        self.sources: dict[str, Source] = {}
        self.recorder: Recorder | None = None
        self.ended = ""  # why it ended by itself
        self._plan, self._clock, self._path = plan, clock, path
        self._version, self._quality, self._max_bytes = version, quality, max_bytes
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End the session in order."""
        self._stop.set()

    async def run(self, within_s: float | None) -> None:
        """Record until `stop`, for `within_s` at most, or until every device has ended.

        Raises:
            RecordingError: the file cannot be written.
            Unreachable: no device gave a reading.
        """
        pipeline = self._pipeline()
        with closing(pipeline):
            await pipeline.open_models()
            recorder = self.recorder = await asyncio.to_thread(self._open, pipeline)
            try:
                await self._flow(pipeline, recorder, within_s)
            finally:
                await asyncio.to_thread(recorder.close)
        if not recorder.rows + recorder.pictures:
            why = "; ".join(
                f"{name}: {source.state.why or 'no reading'}" for name, source in self.sources.items()
            )
            raise Unreachable(f"nothing was recorded: {why}")

    async def _flow(self, pipeline: Pipeline, recorder: Recorder, within_s: float | None) -> None:
        def sink(device: str) -> Sink:
            return self._recording(device, recorder, pipeline.sink(device))

        self.sources = follow(self._plan.devices, self._clock, sink)
        loop = asyncio.get_running_loop()
        until_s = None if within_s is None else loop.time() + within_s
        async with asyncio.TaskGroup() as group:
            reading = [
                group.create_task(source.run(), name=f"source-{name}")
                for name, source in self.sources.items()
            ]
            working = group.create_task(pipeline.run(), name="pipeline")
            stop = group.create_task(self._stop.wait(), name="asked-to-stop")
            while not stop.done() and not all(task.done() for task in reading):
                left_s = SYNC_S if until_s is None else min(SYNC_S, until_s - loop.time())
                if left_s <= 0:
                    break
                await asyncio.wait([stop, *reading], timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.to_thread(recorder.sync)
                if recorder.size > self._max_bytes:
                    self.ended = f"the recording has reached its {self._max_bytes // 2**20:,} MB"
                    break
            await end(reading)
            give_up_s = loop.time() + _ANSWERS_S
            while pipeline.busy and loop.time() < give_up_s:
                await asyncio.sleep(0.01)
                if not self._stop.is_set():  # after a stop, a model that hangs must not cost the file its end
                    give_up_s = loop.time() + _ANSWERS_S
            working.cancel()
            stop.cancel()

    def _pipeline(self) -> Pipeline:
        return Pipeline(
            self._plan.devices,
            self._plan.config.models,
            self._clock,
            cache=ModelCache(trust=read(self._plan.config.trust, self._plan.address).trust),
            clock_state=TimeSync(self._clock).state,
            sinks=Sinks(send=self._send),
        )

    def _open(self, pipeline: Pipeline) -> Recorder:
        config = self._plan.path
        here = self._path.resolve().parent
        return Recorder(
            self._path,
            self._clock,
            about={
                "version": self._version,
                "node": str(self._plan.address),
                "started_ms": str(self._clock.now_ms()),
                # relative, so that a replay finds the model packages after both folders were moved together
                "config": os.path.relpath(config.resolve(), here),
            },
            models={
                name: f"{runner.label} {runner.ref.sha256}"
                for name, runner in pipeline.runners.items()
                if runner.at_work
            },
            config=config.read_text(encoding="utf-8"),
            streams={name: device.streams for name, device in self._plan.devices.items()},
        )

    def _recording(self, device: str, recorder: Recorder, on: Sink) -> Sink:
        def take(reading: Reading) -> Awaitable[None] | None:
            if reading.picture is not None:
                return self._picture(device, recorder, reading, on)
            recorder.reading(device, reading)
            return on(reading)

        return take

    async def _picture(self, device: str, recorder: Recorder, reading: Reading, on: Sink) -> None:
        if (picture := reading.picture) is None:
            raise RecordingError(f"{device}/{reading.stream} gave a reading without a picture")
        data = await asyncio.to_thread(mcap_file.jpeg, picture, self._quality)
        recorder.reading(device, reading, data)
        seen = await asyncio.to_thread(mcap_file.decoded, data)
        if (wait := on(replace(reading, picture=seen))) is not None:
            await wait

    def _send(self, message: Message) -> None:
        if self.recorder is not None and isinstance(message.body, Event):
            self.recorder.event(message.device, message.body)
