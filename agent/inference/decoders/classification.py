"""Classification: a score for each label; the largest wins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.inference.decoders.base import (
    Decoder,
    Label,
    Labelled,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    beyond_shares,
    flat,
    number,
    require_size,
    sigmoid,
    slugs,
    softmax,
)
from wire.messages import Field, Scalar

_MAX_FOUND = 500  # characters of `found`; a label has at most 128
_RESERVED = {"label", "score", "found", "alarm", "infer_ms", "frame"}


class ClassificationOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: classification`."""

    softmax: Annotated[bool, Meta(description="The model gives logits: turn them into shares.")] = False
    sigmoid: Annotated[
        bool, Meta(description="The model gives logits of labels that are independent of each other.")
    ] = False
    margins: Annotated[
        bool, Meta(description="The scores have no bounds, as those of a linear SVM: the largest wins.")
    ] = False
    binary: Annotated[
        bool, Meta(description="The model gives one number, the score of the second of two labels.")
    ] = False
    multi: Annotated[
        bool, Meta(description="Several labels can be right at once: the row has `found`, a list of them.")
    ] = False
    threshold: Annotated[
        float, Meta(ge=0, le=1, description="With multi: a label with a score of at least this is found.")
    ] = 0.5
    scores: Annotated[bool, Meta(description="Publish the score of every class, not only the best.")] = False
    alarm: Annotated[
        list[Label], Meta(description="Labels that raise an alarm when they win, or are found.")
    ] = []  # noqa: RUF012 - msgspec copies it for each object


class Classification(Decoder):
    """One number per label; the largest wins."""

    Options = ClassificationOptions
    tunable = frozenset({"threshold"})

    def __init__(
        self, options: ClassificationOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        if not options.labels:
            raise ModelError("output.labels: a classification needs labels or labels_file")
        for label in options.alarm:
            if label not in options.labels:
                raise ModelError(f"output.alarm: {label!r} is not one of the labels")
        if options.softmax + options.sigmoid + options.margins > 1:
            raise ModelError("output: only one of softmax, sigmoid and margins can be true")
        if options.multi and (options.softmax or options.margins):
            raise ModelError("output.multi: the scores are shares of each label: sigmoid, or none")
        if options.binary and (len(options.labels) != 2 or options.softmax):
            raise ModelError("output.binary: two labels and no softmax are needed")
        self._numbers = 1 if options.binary else len(options.labels)
        what = "number (binary)" if options.binary else "labels"
        require_size(outputs[0], self._numbers, what)
        self._options = options
        self._names = slugs(options.labels) if options.scores else []
        for reserved in _RESERVED & {*self._names}:
            raise ModelError(f"output.labels: {reserved!r} clashes with a field of that name: rename it")

    def fields(self) -> dict[str, Field]:
        """`label`, `score`, and as the options ask `found`, `alarm` and each class by name."""
        every = {name: Field(t="f32", dec=3) for name in self._names}
        found = {"found": Field(t="str", desc="labels")} if self._options.multi else {}
        alarm = {"alarm": Field(t="bool")} if self._options.alarm else {}
        return {"label": Field(t="str"), "score": Field(t="f32", dec=3), **found, **alarm, **every}

    def doubt(self, outputs: Outputs) -> str:
        """Why the output is not a score of 0 to 1 for each label; "" if it may be."""
        if self._options.margins or self._options.softmax or self._options.sigmoid:
            return ""
        return beyond_shares(
            outputs[0],
            "the model gives logits (output.softmax or output.sigmoid: true), or numbers without bounds "
            "(output.margins: true)",
        )

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """The best class; null where no number is finite."""
        options = self._options
        scores = self._scores(outputs)
        usable = np.isfinite(scores)
        every = {name: number(scores[i]) for i, name in enumerate(self._names)}
        if not usable.any():
            return Result(dict.fromkeys(self.fields()))
        best = int(np.argmax(np.where(usable, scores, -np.inf)))
        label, score = options.labels[best], float(scores[best])
        found = [label]
        if options.multi:  # a comparison with NaN is false
            found = [options.labels[at] for at in np.flatnonzero(scores >= options.threshold)]
        alarm = any(each in options.alarm for each in found)
        values: dict[str, Scalar] = {"label": label if found else None, "score": score}
        if options.multi:
            values["found"] = _listed(found)
        if options.alarm:
            values["alarm"] = alarm
        return Result({**values, **every}, top=label if found else "", score=score, alarm=alarm)

    def _scores(self, outputs: Outputs) -> NDArray[Any]:
        options = self._options
        scores = flat(outputs[0], self._numbers).astype(np.float64)
        if options.softmax:
            scores = softmax(scores)
        elif options.sigmoid:
            scores = sigmoid(scores)
        if not options.binary:
            return scores
        return np.concatenate([-scores if options.margins else 1 - scores, scores])


def _listed(labels: Sequence[str]) -> str:
    """The labels as one text; those that it has no place for are left out."""
    text = ", ".join(labels)
    if len(text) <= _MAX_FOUND:
        return text
    return text[: text.rindex(", ", 0, _MAX_FOUND)]
