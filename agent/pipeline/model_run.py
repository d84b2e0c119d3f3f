"""One run of a model: its input, and its result with what the slot adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as copied
from typing import TYPE_CHECKING

from adapters.base import Picture, Reading
from agent.clock_sync import Stamp
from agent.inference.tuning import Tuned, refusal
from agent.pipeline.frames.crops import Crop
from agent.pipeline.frames.scene import Happening, Scene
from agent.pipeline.shadow import Seen
from agent.pipeline.windows import Window
from wire.messages import Box, Quality, Scalar
from wire.reasons import NO_REASON, Reason

if TYPE_CHECKING:
    from agent.inference.decoders import Result
    from agent.inference.isolation.worker import Worker
    from agent.inference.manifest import Manifest
    from agent.inference.session import Model


@dataclass(frozen=True, slots=True)
class Inference:
    """The result of one frame or window; `reading` is the picture, or the row that completed the window.

    `quality` is the picture's own; for a window it is UNCERTAIN if a row was flagged or filled.
    """

    reading: Reading
    result: Result
    window: bool
    quality: Quality
    stamp: Stamp  # the clock's state when the reading came: the clock may have been set since
    happened: Sequence[Happening] = ()  # in zones and at lines
    every_box: Sequence[Box] = ()  # with those that are left out
    crop: Crop | None = None
    drift: Reason = NO_REASON  # how the input differs from what the model was made for
    by: Manifest | None = None  # of the model that answered, where two answer in turns

    @property
    def label(self) -> str:
        """`name@version` of the model that answered, where two answer in turns; else empty."""
        return "" if self.by is None else f"{self.by.name}@{self.by.version}"

    def row(self) -> dict[str, Scalar]:
        """The row of the result stream."""
        row: dict[str, Scalar] = {**self.result.values, "infer_ms": self.result.infer_ms}
        if self.crop is not None:
            row |= self.crop.row()
        if self.by is not None:
            row["ver"] = self.label
        return row if self.window else {**row, "frame": self.reading.index}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model, for who judges it; `inference` is None for a run that failed."""

    inference: Inference | None


@dataclass(frozen=True, slots=True)
class Job:
    """One input of a model: a picture, a crop of one, or a window."""

    reading: Reading
    window: Window | None
    stamp: Stamp
    crop: Crop | None = None
    other: Model | Worker | None = None  # that answers instead of the slot's model
    tuned: Tuned | None = None

    @property
    def picture(self) -> Picture | None:
        """What a model of pictures sees."""
        return self.reading.picture if self.crop is None else self.crop.picture

    def seen(self, result: Result) -> Seen:
        """The input with a copy of its result, which the zones of the slot change afterwards."""
        kept = copied(result, values=dict(result.values), boxes=list(result.boxes))
        return Seen(self.reading.at_ns, self.picture, self.window, kept, self.quality)

    @property
    def quality(self) -> Quality:
        """That of the picture, or of the window."""
        return self.reading.quality if self.window is None else self.window.quality

    def answer(self, result: Result, scene: Scene | None, drift: Reason, by: Manifest | None) -> Inference:
        """What the model found, with what happened in the zones and at the lines of `scene`."""
        whole, crop = self.window, self.crop
        if crop is not None:
            result = crop.on_frame(result)
        boxes = result.boxes
        happened = scene.apply(result, self.reading.at_ns) if scene is not None else ()
        seen = (happened, boxes, crop)
        return Inference(self.reading, result, whole is not None, self.quality, self.stamp, *seen, drift, by)


@dataclass(frozen=True, slots=True)
class Given:
    """A result, who gave it, and why the model that should have given it did not."""

    result: Result
    by: Model | Worker
    missed: Exception | None = None


def infer(model: Model | Worker, stream: str, job: Job) -> Given:
    """Run a job on the model that is to answer, on `model` where that fails; `stream` names its state."""
    missed: Exception | None = None
    if job.other is not None:
        try:
            return Given(_run(job.other, stream, job), job.other)
        except Exception as error:  # noqa: BLE001 - the shadow counts it; the slot's model answers
            missed = error
    return Given(_run(model, stream, job), model, missed)


def _run(model: Model | Worker, stream: str, job: Job) -> Result:
    tuned = job.tuned
    if tuned is not None and model is job.other and refusal(model.manifest, tuned):
        tuned = None
    if job.window is not None and model.stateful:
        return model.run_window(job.window.rows, stream, job.window.end, tuned=tuned)
    if job.window is not None:
        return model.run_window(job.window.rows, tuned=tuned)
    if (picture := job.picture) is None:
        raise TypeError("a frame stream gave a reading without a picture")
    return model.run_frame(picture, lasting=True, tuned=tuned)
