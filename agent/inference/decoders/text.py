"""Text: a sequence of characters, read by CTC (a class for each step, with a blank between two)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from agent.inference.decoders.base import (
    Decoder,
    Labelled,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    beyond_shares,
    softmax,
)
from wire.messages import Field

_LONGEST = 256  # characters


class TextOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: text`."""

    softmax: Annotated[bool, Meta(description="The model gives logits: turn them into shares.")] = False
    blank: Annotated[
        Literal["first", "last"], Meta(description="Where the blank is; the labels are the other classes.")
    ] = "first"
    space: Annotated[bool, Meta(description="A class after the labels is the space.")] = False
    score: Annotated[float, Meta(ge=0, le=1, description="Text with a smaller mean score is dropped.")] = 0.0


class Text(Decoder):
    """One output [1, steps, classes]; equal classes in a row are one character."""

    Options = TextOptions
    tunable = frozenset({"score"})

    def __init__(
        self, options: TextOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        if not options.labels:
            raise ModelError("output.labels: a text needs the characters as labels or labels_file")
        self._options = options
        characters = [*options.labels, *([" "] if options.space else [])]
        self._classes = len(characters) + 1
        self._characters = ["", *characters] if options.blank == "first" else [*characters, ""]
        shape = outputs[0].shape
        if len(shape) != 3 or shape[0] not in (1, -1) or shape[2] not in (self._classes, -1):
            raise ModelError(
                f"decoder text with {len(characters)} characters reads [1, ?, {self._classes}], the model's "
                f"output is {outputs[0]}"
            )

    def fields(self) -> dict[str, Field]:
        """`text` and its mean `score`."""
        return {"text": Field(t="str"), "score": Field(t="f32", dec=3)}

    def doubt(self, outputs: Outputs) -> str:
        """Why the output is not shares of 0 to 1; "" if it may be."""
        if self._options.softmax:
            return ""
        return beyond_shares(outputs[0], "the model gives logits (output.softmax: true)")

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """The text and the mean score of its characters; null where there is none."""
        steps = outputs[0]
        if steps.ndim != 3 or steps.shape[0] != 1 or steps.shape[2] != self._classes:
            raise ModelError(f"the model's output has the shape {list(steps.shape)}, which is not a text")
        table = steps[0].astype(np.float64)
        table[~np.isfinite(table)] = -np.inf
        best = table.argmax(axis=1) if len(table) else np.empty(0, np.intp)
        blank = 0 if self._options.blank == "first" else self._classes - 1
        begins = np.flatnonzero((best != blank) & (best != np.concatenate([[-1], best[:-1]])))[:_LONGEST]
        scores = [
            float(softmax(table[at]).max() if self._options.softmax else table[at].max()) for at in begins
        ]
        text = "".join(self._characters[best[at]] for at in begins)[:_LONGEST]
        score = float(np.mean(scores)) if scores else None
        if score is None or not np.isfinite(score) or score < self._options.score:
            return Result({"text": None, "score": None})
        return Result({"text": text, "score": score}, top=text, score=score)
