"""The newest picture of each frame stream: what hides faces in it, and whose boxes a snapshot of it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace

from agent.inference.model_cache import ModelCache
from agent.pipeline.frames import privacy
from agent.pipeline.frames.scene import areas
from agent.pipeline.frames.snapshots import NewestPicture
from agent.pipeline.model_run import Inference
from agent.pipeline.model_runner import ModelRunner
from agent.pipeline.settings import PublishConfig
from agent.pipeline.sinks import Sinks
from wire.clock import Clock
from wire.messages import Snapshot


class Pictures:
    """The frame streams of one agent. `counters` counts snapshots and what was hidden in them."""

    def __init__(self, models: ModelCache, clock: Clock, sinks: Sinks, counters: Counter[str]) -> None:
        self.newest: dict[tuple[str, str], NewestPicture] = {}
        self.guards: dict[str, privacy.Privacy] = {}  # by device
        self._models = models
        self._clock = clock
        self._sinks = sinks
        self._counters = counters
        # the model whose boxes the snapshots show: the first that finds most of what to hide
        self._box_models: dict[tuple[str, str], ModelRunner] = {}

    def add(self, device: str, stream: str, publish: PublishConfig) -> None:
        """Keep the newest picture of a stream from now on."""
        if device not in self.guards:
            self.guards[device] = privacy.Privacy(publish.blur, publish.faces, models=self._models)
        self.newest[device, stream] = NewestPicture(
            device,
            stream,
            privacy=self.guards[device],
            clock=self._clock,
            send=self._sinks.snap,
            counters=self._counters,
        )

    def of(self, devices: Collection[str]) -> list[tuple[str, str]]:
        """The frame streams of these devices."""
        return [at for at in self.newest if at[0] in devices]

    def remove(self, devices: Collection[str]) -> None:
        """Forget the streams of these devices, and the choice of boxes for all."""
        for at in self.of(devices):
            del self.newest[at]
        for device in devices:
            self.guards.pop(device, None)
        self._box_models.clear()

    def choose_boxes(self, at: tuple[str, str], runners: Iterable[ModelRunner]) -> None:
        """Choose whose boxes the snapshots of a stream show; `runners` come in the order of the config."""
        here = [each for each in runners if each.at_work and each.sees_all and at == _input(each)]
        if at in self.newest and here:
            self._box_models[at] = max(here, key=lambda each: len(_finds(each)))

    def leave(self, runner: ModelRunner) -> None:
        """Show no boxes of this model any more."""
        self._box_models = {at: each for at, each in self._box_models.items() if each is not runner}

    def found(self, runner: ModelRunner, inference: Inference) -> None:
        """Show the picture of a result with its boxes, if it is the one whose boxes are shown."""
        at = _input(runner)
        if self._box_models.get(at) is not runner or runner.manifest is None:
            return
        seen = replace(
            privacy.seen_by(inference.by or runner.manifest, inference.every_box),
            areas=areas(runner.settings.scene(runner.manifest.output)),
        )
        self.newest[at].show(inference.reading, seen, inference.label or runner.label)

    async def snapshot(self, device: str, stream: str) -> Snapshot | None:
        """Publish the newest picture of a device and return it; None while it has sent no picture.

        Raises:
            EdgebedError: the picture cannot be encoded.
        """
        for (of, name), newest in self.newest.items():
            if of == device and stream in ("", name) and newest.reading is not None:
                return await newest.publish()
        return None


def _input(runner: ModelRunner) -> tuple[str, str]:
    return runner.settings.device, runner.settings.stream


def _finds(runner: ModelRunner) -> frozenset[privacy.Kind]:
    """The kinds of parts to hide that the model finds."""
    if runner.manifest is None:
        return frozenset()
    return privacy.finds(privacy.seen_by(runner.manifest, ()).labels)
