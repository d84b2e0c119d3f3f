"""`edgebed agent once`: read the devices, run the models and print what would be sent; sends nothing."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import msgspec

from adapters.base import Reading
from agent.clock_sync import TimeSync
from agent.config import AgentPlan
from agent.inference.inputs import WindowInput
from agent.inference.model_cache import ModelCache
from agent.inference.signing.trust import read
from agent.outbox import Message
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.sinks import Sinks
from agent.pipeline.source import Sink, follow
from wire.clock import Clock
from wire.errors import EdgebedError, Unreachable
from wire.messages import Live, Snapshot

log = logging.getLogger("edgebed.once")

ENOUGH = 3  # readings of each stream


class PartlyFailed(EdgebedError):
    """Some devices or models gave output, others did not."""

    exit_code = 3


class Once:
    """One run of `plan`: each message that would be sent goes to `show` as a line of JSON, topic and body."""

    def __init__(self, plan: AgentPlan, clock: Clock, show: Callable[[str], None]) -> None:
        self._plan = plan
        self._clock = clock
        self._show = show
        self._seen: Counter[tuple[str, str]] = Counter()
        self._pictured: set[tuple[str, str]] = set()  # a snapshot of these streams was shown
        self._stopped = False

    def stop(self) -> None:
        """End now: `run` shows what there is."""
        self._stopped = True

    def progress(self) -> str:
        """One line: how many readings came from each stream."""
        return ", ".join(f"{'/'.join(of)}: {count}" for of, count in self._seen.items()) or "no reading yet"

    async def run(self, within_s: float) -> None:
        """Run until every stream gave three readings and every model a result, at most `within_s`.

        Raises:
            Unreachable: no device gave a reading.
            PartlyFailed: a device gave no reading, or a model was refused, failed or had too little input.
        """
        sync = TimeSync(self._clock)
        self._pipeline = Pipeline(
            self._plan.devices,
            self._plan.config.models,
            self._clock,
            cache=ModelCache(trust=read(self._plan.config.trust, self._plan.address).trust),
            clock_state=sync.state,
            sinks=Sinks(send=self._send, live=self._send_live, snap=self._send_snap),
        )
        with closing(self._pipeline):
            await self._pipeline.open_models()
            self._sources = follow(self._plan.devices, self._clock, self._counting)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(source.run(), name=f"source-{name}")
                    for name, source in self._sources.items()
                ]
                tasks.append(group.create_task(self._pipeline.run(), name="pipeline"))
                until_s = asyncio.get_running_loop().time() + within_s
                while not (self._enough() or self._stopped or asyncio.get_running_loop().time() >= until_s):
                    await asyncio.wait(tasks, timeout=0.02)
                await self._show_pictures()
                for task in tasks:
                    task.cancel()
        self._pipeline.flush()
        self._judge(within_s)

    def _judge(self, within_s: float) -> None:
        silent = [
            f"{name}: {source.state.why or f'no reading within {within_s:g} s'}"
            for name, source in self._sources.items()
            if not source.readings
        ]
        if len(silent) == len(self._sources):
            raise Unreachable(_listed("no device gave a reading", silent))
        for name, runner in self._pipeline.runners.items():
            if runner.at_work and not self._sources[runner.settings.device].readings:
                continue  # its device is in the list
            if not runner.at_work or runner.state.state == "failed":
                silent.append(f"model {name}: {runner.state.why}")
            elif not runner.counters["runs"]:
                silent.append(f"model {name}: {_why_no_result(runner, within_s)}")
        for name, source in self._sources.items():
            if source.readings and (why := source.problem_so_far(ENOUGH)):
                log.warning("%s: %s", name, why)
        if silent:
            raise PartlyFailed(_listed("these gave no output, the others are above", silent))

    async def _show_pictures(self) -> None:
        """Show the newest picture of each camera, as a `snapshot` command would publish it."""
        for device, stream in sorted(self._seen):
            try:
                if (device, stream) not in self._pictured:
                    await self._pipeline.snapshot(device, stream)
            except EdgebedError as error:
                log.warning("%s/%s: %s", device, stream, error)

    def _counting(self, device: str) -> Sink:
        sink = self._pipeline.sink(device)

        def take(reading: Reading) -> Awaitable[None] | None:
            self._seen[device, reading.stream] += 1
            return sink(reading)

        return take

    def _enough(self) -> bool:
        streams = all(
            self._seen[name, stream] >= ENOUGH or self._sources[name].state.state == "stopped"
            for name, device in self._plan.devices.items()
            for stream in device.streams
        )
        models = all(runner.counters["runs"] for runner in self._pipeline.runners.values() if runner.at_work)
        return streams and models

    def _send(self, message: Message) -> None:
        self._line((message.cls, message.device, message.name), message.body)

    def _send_live(self, device: str, stream: str, body: Live) -> None:
        self._line(("live", device, stream), body)

    def _send_snap(self, device: str, stream: str, body: Snapshot) -> None:
        self._pictured.add((device, stream))
        shown = {**msgspec.to_builtins(body), "jpeg": f"({len(body.jpeg)} bytes)"}
        self._line(("snap", device, stream), shown)

    def _line(self, tail: tuple[str, str, str], body: Any) -> None:
        topic = self._plan.address.topic(*tail)
        self._show(msgspec.json.encode({"topic": topic, "body": body}).decode())


_FAULTS = ("gaps", "incomplete", "repeated", "wrong_rate")  # counters of windows, see docs/models.md


def _why_no_result(runner: ModelRunner, within_s: float) -> str:
    """Why a model that works gave no result."""
    spec = runner.manifest.input if runner.manifest else None
    span_s = spec.length / spec.rate_hz if isinstance(spec, WindowInput) else 0.0
    if span_s < within_s:
        found = [f"{runner.counters[name]} {name}" for name in _FAULTS if runner.counters[name]]
        return f"no whole input within {within_s:g} s" + (f" ({', '.join(found)})" if found else "")
    return f"its window is {span_s:g} s long: run longer, with --seconds {math.ceil(span_s + 10)}"


def _listed(what: str, each: list[str]) -> str:
    return "\n  ".join([f"{what}:", *each])
