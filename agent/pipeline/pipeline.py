"""From readings to messages: rows to batches, windows and frames to models, results to batches and events."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.base import Reading
from agent.clock_sync import Stamps
from agent.inference.model_cache import Shelf
from agent.outbox import Message
from agent.pipeline import privacy, snapshots
from agent.pipeline.batcher import Batcher, Send, SendLive
from agent.pipeline.events import Reporter
from agent.pipeline.model_runner import Inference, Slot
from agent.pipeline.settings import DevicePlan, SlotConfig
from agent.pipeline.source import Sink
from wire.clock import Clock
from wire.errors import EdgebedError
from wire.messages import ClockState, ModelState, Snapshot, Stream

log = logging.getLogger("edgebed.pipeline")

TICK_S = 0.1

SendSnap = Callable[[str, str, Snapshot], None]


def _drop(*_: object) -> None:
    """Ignore the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Where a pipeline puts its output; each default drops it.

    `send` takes durable messages and returns at once; `live` and `snap` may drop theirs.
    `changed` is called when a model's state changes.
    """

    send: Send = _drop
    live: SendLive = _drop
    snap: SendSnap = _drop
    changed: Callable[[], None] = _drop


class Pipeline:
    """Everything between the sources and the outbox of one agent.

    Call `open_models` first (it blocks), then `run`. Each source gets its `sink`. `gate_memory` is the folder
    where the gate keeps the reports of models that passed. Output goes to `sinks`.
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
        self._stamps = Stamps(clock, clock_state)
        self._sinks = sinks
        self._batchers: dict[tuple[str, str], Batcher] = {}
        self._reporters: dict[str, Reporter] = {}
        self._views: dict[tuple[str, str], _View] = {}
        self._privacy: dict[str, privacy.Privacy] = {}  # by device
        self._models = Shelf(gate_memory)
        # whose boxes a picture shows: the first model's that tells most of what is to be hidden
        self._painters: dict[tuple[str, str], Slot] = {}
        self.slots = {
            name: Slot(
                name,
                settings,
                devices[settings.device].streams[settings.stream],
                waits=devices[settings.device].build(clock).waits,
                stamp=self._stamps.of,
                models=self._models,
                done=self._inferred,
                changed=sinks.changed,
            )
            for name, settings in models.items()
        }
        for device, each in devices.items():
            for name, stream in each.streams.items():
                self._add_stream(device, name, stream)

    def open_models(self) -> None:
        """Load every model; one that is refused says so by its state and keeps nobody else from running."""
        for guard in self._privacy.values():
            guard.open()
        for name, slot in self.slots.items():
            slot.open()
            stream = slot.result_stream()
            if stream is not None and slot.manifest is not None:
                device = slot.settings.device
                if (at := (device, slot.settings.stream)) in self._views:
                    before = self._painters.get(at)
                    if before is None or len(_finds(slot)) > len(_finds(before)):
                        self._painters[at] = slot
                self._batchers[device, name] = self._batcher(device, name, stream, raw=True)
                self._reporters[name] = Reporter(
                    name, slot.label, slot.manifest.decoder, slot.settings.events
                )

    def sink(self, device: str) -> Sink:
        """Where the source of `device` puts its readings."""
        slots: dict[str, list[Slot]] = {name: [] for name in self._devices[device].streams}
        for slot in self.slots.values():
            if slot.settings.device == device and slot.at_work:
                slots[slot.settings.stream].append(slot)

        def take(reading: Reading) -> Awaitable[None] | None:
            at_work = slots[reading.stream]
            if reading.picture is None:
                self._batchers[device, reading.stream].add(reading.at_ns, reading.values, reading.quality)
            elif not any(slot.state.state == "ok" for slot in at_work):
                self._views[device, reading.stream].show(reading)
            waits = [wait for slot in at_work if (wait := slot.offer(reading)) is not None]
            if not waits:
                return None
            return waits[0] if len(waits) == 1 else _all(waits)

        return take

    def streams(self, device: str) -> dict[str, Stream]:
        """What `device` sends: its own streams and the results of its models."""
        results = {
            name: stream
            for name, slot in self.slots.items()
            if slot.settings.device == device and (stream := slot.result_stream()) is not None
        }
        return {**self._devices[device].streams, **results}

    def models(self) -> dict[str, ModelState]:
        """The state of each slot."""
        return {name: slot.state for name, slot in self.slots.items()}

    def oversized(self) -> dict[str, int]:
        """Rows that were left out because they fit no message, by `device/stream`."""
        return {f"{at[0]}/{at[1]}": each.oversized for at, each in self._batchers.items() if each.oversized}

    @property
    def busy(self) -> bool:
        """Whether a model still has input."""
        return any(slot.busy for slot in self.slots.values())

    async def run(self) -> None:
        """Run models, flush what has waited long enough and send pictures, for ever."""
        async with asyncio.TaskGroup() as group:
            for name, slot in self.slots.items():
                group.create_task(slot.run(), name=f"slot-{name}")
            for (device, stream), view in self._views.items():
                every_s = self._devices[device].config.publish.snapshot_every_s
                if every_s > 0:
                    look = self._look(device, stream, view, every_s)
                    group.create_task(look, name=f"look-{device}-{stream}")
            while True:
                await self._clock.sleep(TICK_S)
                for batcher in self._batchers.values():
                    batcher.tick()

    def flush(self) -> None:
        """Hand on every row that still waits for its batch to fill."""
        for batcher in self._batchers.values():
            batcher.flush()

    async def snapshot(self, device: str, stream: str = "") -> Snapshot | None:
        """Publish the newest picture of a device now, and return it; None where there is none (yet).

        Raises:
            EdgebedError: it cannot be encoded.
        """
        for (of, name), view in self._views.items():
            if of == device and stream in ("", name) and view.reading is not None:
                return await self._picture(device, name, view)
        return None

    def _add_stream(self, device: str, name: str, stream: Stream) -> None:
        if stream.kind == "frame":
            self._views[device, name] = _View()
            if device not in self._privacy:
                publish = self._devices[device].config.publish
                self._privacy[device] = privacy.Privacy(publish.blur, publish.faces, models=self._models)
        else:
            raw = self._devices[device].config.publish.raw
            self._batchers[device, name] = self._batcher(device, name, stream, raw=raw)

    def _batcher(self, device: str, name: str, stream: Stream, *, raw: bool) -> Batcher:
        return Batcher(
            device,
            name,
            stream,
            clock=self._clock,
            clock_state=self._clock_state,
            send=self._sinks.send if raw else None,
            send_live=self._sinks.live,
            live_hz=self._devices[device].config.publish.live_hz,
        )

    def _inferred(self, slot: Slot, inference: Inference) -> None:
        device, reading = slot.settings.device, inference.reading
        clk, offset_ns = inference.stamp
        self._batchers[device, slot.name].add(
            reading.at_ns, inference.row(), inference.quality, inference.stamp
        )
        event = self._reporters[slot.name].event(inference, clk)
        if event is not None:
            self._sinks.send(Message("event", device, event.type, event, offset_ns))
        if self._painters.get((device, slot.settings.stream)) is slot and slot.manifest is not None:
            seen = privacy.seen_by(slot.manifest, inference.result.boxes)
            self._views[device, slot.settings.stream].show(reading, seen, slot.label)

    async def _look(self, device: str, stream: str, view: _View, every_s: float) -> None:
        while True:
            began_ns, seen = self._clock.monotonic_ns(), view.reading
            if seen is not None and seen is not view.sent:
                try:
                    await self._picture(device, stream, view)
                except EdgebedError as error:
                    self.counters["snapshots_failed"] += 1
                    if not view.complained:
                        log.warning("%s/%s: no snapshot: %s", device, stream, error)
                    view.complained = True
            await self._clock.sleep(
                every_s - (self._clock.monotonic_ns() - began_ns) / 1e9 if seen is not None else TICK_S
            )

    async def _picture(self, device: str, stream: str, view: _View) -> Snapshot:
        if (reading := view.reading) is None:
            raise snapshots.SnapshotError(f"{device}/{stream} has sent no picture yet")
        made = await asyncio.to_thread(_encoded, self._privacy[device], reading, view.seen, view.model)
        view.sent = reading
        self._count(device, stream, view, made)
        self._sinks.snap(device, stream, made)
        return made

    def _count(self, device: str, stream: str, view: _View, made: Snapshot) -> None:
        self.counters["snapshots"] += 1
        self.counters["snapshots_hidden_whole"] += made.blur == "whole"
        self.counters["faces_hidden"] += made.faces or 0
        self.counters["plates_hidden"] += made.plates or 0
        if made.why and made.why != view.why:
            log.warning("%s/%s: pictures are hidden as a whole: %s", device, stream, made.why)
        view.why = made.why


@dataclass(slots=True)
class _View:
    """The newest picture of a frame stream and what was seen in it."""

    reading: Reading | None = None
    seen: privacy.Seen | None = None  # in just this picture
    model: str = ""
    sent: Reading | None = None
    complained: bool = False
    why: str = ""  # the last picture was hidden as a whole

    def show(self, reading: Reading, seen: privacy.Seen | None = None, model: str = "") -> None:
        self.reading, self.seen, self.model = reading, seen, model


def _finds(slot: Slot) -> frozenset[privacy.Kind]:
    return frozenset() if slot.manifest is None else privacy.finds(privacy.seen_by(slot.manifest, ()).labels)


def _encoded(guard: privacy.Privacy, reading: Reading, seen: privacy.Seen | None, model: str) -> Snapshot:
    """In a thread: what may be seen of a picture, as a message."""
    if reading.picture is None:
        raise snapshots.SnapshotError("this reading has no picture")
    hidden = guard.hide(reading.picture, seen)
    return snapshots.encode(reading, seen.boxes if seen is not None else (), model, hidden)


async def _all(waits: Sequence[Awaitable[None]]) -> None:
    for wait in waits:
        await wait
