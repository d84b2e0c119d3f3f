"""`edgebed replay`: feeds a recorded session through the pipeline, with the same result every time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from adapters.base import Adapter, Options, Reading
from agent.config import AgentConfig, AgentPlan
from agent.inference.model_cache import ModelCache
from agent.offline.mcap_file import McapReader, RecordedSession, RecordingError, read_session
from agent.offline.regression import Difference
from agent.outbox import Message
from agent.pipeline.pipeline import Pipeline
from agent.pipeline.settings import LEAST_STALL_S, DevicePlan
from agent.pipeline.sinks import Sinks
from wire import config
from wire.clock import Clock
from wire.messages import ClockState, Event, ModelState, Stream
from wire.task_cancellation import end
from wire.topics import Address

_AT_ONCE = 64  # readings fed between two looks at the event loop


class ReplayClock(Clock):
    """A clock at the time of the recording; sleeping lets other tasks run."""

    def __init__(self) -> None:
        super().__init__(rate=1.0, start_ns=0)
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic_ns(self) -> int:
        return self.at_ns

    async def sleep(self, seconds: float) -> None:  # noqa: ARG002 - time passes with the records
        await asyncio.sleep(0.001)


class ReplayRun:
    """Feeds one recording to the models of its own config, or of another config that fits its streams.

    After `run`: `events` in the order of device time, device and slot; `readings`, `left_out` and the
    `states` of the models. The same file and models give the same events; only the
    duration of an inference differs.

    Raises:
        RecordingError: the file is not a recording.
        ConfigError: the config does not fit it.
    """

    def __init__(self, path: Path, config_path: Path | None = None) -> None:
        self.path = path
        self.session: RecordedSession = read_session(path)
        self.plan = _plan(path, self.session, config_path)
        self.events: list[tuple[str, Event]] = []  # device, event
        self.readings = 0
        self.left_out = 0  # readings of streams that the config does not name
        self.seconds = 0.0  # of recorded time
        self._clock = ReplayClock()

    @property
    def models(self) -> dict[str, str]:
        """Slot -> "name@version sha256" of the models that ran."""
        return {name: f"{s.label} {s.ref.sha256}" for name, s in self._pipeline.runners.items() if s.at_work}

    @property
    def int8(self) -> list[str]:
        """The slots whose models have operators on whole numbers of 8 bits."""
        return [name for name, runner in self._pipeline.runners.items() if runner.int8]

    @property
    def states(self) -> dict[str, ModelState]:
        """The state of each model."""
        return self._pipeline.models()

    async def run(self) -> None:
        """Feed every reading; a slow model holds the file back, so that nothing is dropped."""
        self._pipeline = Pipeline(
            self.plan.devices,
            self.plan.config.models,
            self._clock,
            cache=ModelCache(),
            clock_state=_synced,
            sinks=Sinks(send=self._send),
        )
        with closing(self._pipeline):
            await self._pipeline.open_models()
            working = asyncio.create_task(self._pipeline.run(), name="pipeline")
            try:
                await asyncio.sleep(0)  # let the runners start
                await self._feed()
                while self._pipeline.busy and not working.done():  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(0.001)
                if working.done():
                    working.result()  # it ends by itself only with an error
            finally:
                await end([working])
        self.events.sort(key=lambda each: (each[1].ts, each[0], each[1].slot, each[1].type))

    async def _feed(self) -> None:
        sinks = {device: self._pipeline.sink(device) for device in self.plan.devices}
        first_ns = None
        for number, record in enumerate(McapReader(self.path).records()):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            if (reading := record.reading) is None:
                continue
            self._clock.at_ns = max(self._clock.at_ns, record.log_ns)
            first_ns = record.log_ns if first_ns is None else first_ns
            self.seconds = (record.log_ns - first_ns) / 1e9
            device = self.plan.devices.get(record.device)
            if device is None or reading.stream not in device.streams:
                self.left_out += 1
                continue
            self.readings += 1
            if (wait := sinks[record.device](reading)) is not None:
                await wait

    def _send(self, message: Message) -> None:
        if isinstance(message.body, Event):
            self.events.append((message.device, message.body))


class _RecordedOptions(Options, frozen=True, kw_only=True):
    streams: dict[str, Stream] = msgspec.field(default_factory=dict)


class _RecordedDevice(Adapter):
    """The adapter in the plan for a recorded device: its streams, and that it waits for its reader."""

    Options = _RecordedOptions
    kind = "recording"

    @property
    def waits(self) -> bool:
        return True

    def streams(self) -> dict[str, Stream]:
        return dict(self.options.streams)

    async def open(self) -> None:
        raise NotImplementedError("a recording is fed, not opened")

    async def close(self) -> None:
        """Nothing was opened."""

    def readings(self) -> AsyncIterator[Reading]:
        raise NotImplementedError("a recording is fed, not read")


def _plan(path: Path, found: RecordedSession, config_path: Path | None) -> AgentPlan:
    streams = found.streams

    def check(settings: AgentConfig, _marks: Any) -> Any:
        for name, slot in settings.models.items():
            recorded = streams.get(slot.device, {})
            if slot.stream not in recorded:
                there = ", ".join(f"{d}/{s}" for d, each in streams.items() for s in each)
                yield (
                    ("models", name, "input"),
                    f"{slot.input!r} was not recorded; recorded are {there or 'none'}",
                )

    if config_path is not None:
        settings = config.load(config_path, AgentConfig, check)
        where = config_path
    elif found.config:
        where = path.resolve().parent / found.about.get("config", "config.yaml")
        settings = config.parse(
            found.config, AgentConfig, name=f"{path}:config.yaml", folder=where.parent, check=check
        )
    else:
        raise RecordingError(f"{path} was cut off before its config: pass one with --config")
    devices = {
        name: DevicePlan(
            device,
            _RecordedDevice,
            _RecordedOptions(streams=dict(streams[name])),
            dict(streams[name]),
            LEAST_STALL_S if device.stall_s is UNSET else device.stall_s,
            waits=True,
        )
        for name, device in settings.devices.items()
        if name in streams
    }
    return AgentPlan(where, settings, Address.parse(settings.node), devices)


def changed_models(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A sentence for each slot whose model is not the recorded one."""
    changes = []
    for slot in sorted({*recorded, *now}):
        before, after = recorded.get(slot, ""), now.get(slot, "")
        if before != after:
            changes.append(f"{slot}: recorded with {_short(before)}, replayed with {_short(after)}")
    return changes


def int8_note(slots: Collection[str], difference: Difference) -> str:
    """A sentence where events of 8-bit models, in `slots`, differ from the expected ones; else ""."""
    each = [*difference.missing, *difference.unexpected, *(expected for expected, _, _ in difference.changed)]
    found = sorted({event.slot for event in each} & {*slots})
    if not found:
        return ""
    return (
        f"{', '.join(found)}: 8-bit products are exact now, also on CPUs without VNNI, where sums saturated: "
        "if the events are right, write them with --update"
    )


def _short(model: str) -> str:
    name, _, sha256 = model.partition(" ")
    return f"{name} ({sha256[:12]})" if name else "no model"


def _synced() -> ClockState:
    return ClockState.NTP
