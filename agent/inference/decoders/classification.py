"""Classification: a score for each label; the largest wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from agent.inference.decoders.base import (
    Decoder,
    Label,
    Labelled,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    flat,
    number,
    require_size,
    slugs,
    softmax,
)
from wire.messages import Field, Scalar


class ClassificationOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: classification`."""

    softmax: Annotated[bool, Meta(description="The model gives logits: turn them into shares.")] = False
    scores: Annotated[bool, Meta(description="Publish the score of every class, not only the best.")] = False
    alarm: Annotated[list[Label], Meta(description="Labels that raise an alarm when they win.")] = []  # noqa: RUF012 - msgspec copies it for each object


class Classification(Decoder):
    """One output with one number per label; the largest wins."""

    Options = ClassificationOptions

    def __init__(
        self, options: ClassificationOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        if not options.labels:
            raise ModelError("output.labels: a classification needs labels or labels_file")
        for label in options.alarm:
            if label not in options.labels:
                raise ModelError(f"output.alarm: {label!r} is not one of the labels")
        require_size(outputs[0], len(options.labels), "labels")
        self._options = options
        self._names = slugs(options.labels) if options.scores else []
        for reserved in {"label", "score", "alarm", "infer_ms", "frame"} & {*self._names}:
            raise ModelError(f"output.labels: {reserved!r} clashes with a field of that name: rename it")

    def fields(self) -> dict[str, Field]:
        """`label`, `score`, `alarm` where labels raise one, and each class by name where `scores` is set."""
        every = {name: Field(t="f32", dec=3) for name in self._names}
        alarm = {"alarm": Field(t="bool")} if self._options.alarm else {}
        return {"label": Field(t="str"), "score": Field(t="f32", dec=3), **alarm, **every}

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """The best class; null where no number is finite."""
        options = self._options
        scores = flat(outputs[0], len(options.labels)).astype(np.float64)
        if options.softmax:
            scores = softmax(scores)
        usable = np.isfinite(scores)
        every = {name: number(scores[i]) for i, name in enumerate(self._names)}
        if not usable.any():
            empty_alarm = {"alarm": None} if options.alarm else {}
            return Result({"label": None, "score": None, **empty_alarm, **every})
        best = int(np.argmax(np.where(usable, scores, -np.inf)))
        label, score = options.labels[best], float(scores[best])
        alarm = label in options.alarm
        shown_alarm = {"alarm": alarm} if options.alarm else {}
        values: dict[str, Scalar] = {"label": label, "score": score, **shown_alarm, **every}
        return Result(values, top=label, score=score, alarm=alarm)
