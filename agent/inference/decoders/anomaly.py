"""Anomaly: a score with a threshold, and the part that is worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agent.inference.decoders.base import (
    Decoder,
    Label,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    flat,
    number,
    shown,
    size_of,
)
from wire.messages import Field, Scalar


class AnomalyOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: anomaly`."""

    threshold: Annotated[float, Meta(description="A score of at least this is an alarm.")]
    sign: Annotated[
        Literal[1, -1],
        Meta(description="-1 if lower is worse: score and part scores are the model's numbers times this."),
    ] = 1
    parts: Annotated[
        list[Label], Meta(max_length=256, description="Names of the parts, in the order of the part scores.")
    ] = []
    part_threshold: (
        Annotated[
            float,
            Meta(description="A part score of at least this is an alarm too; adds `part_score`."),
        ]
        | UnsetType
    ) = UNSET


class Anomaly(Decoder):
    """One score, scores of parts, or both (distinguished by size); the largest part names the fault.

    Where the model gives no score, the score is that of the worst part.
    """

    Options = AnomalyOptions
    tunable = frozenset({"threshold", "part_threshold"})

    def __init__(
        self, options: AnomalyOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        sizes = [size_of(output) for output in outputs]
        self._score_at = next((at for at, length in enumerate(sizes) if length == 1), None)
        parts = len(options.parts)
        self._parts_at = next(
            (
                at
                for at, length in enumerate(sizes)
                if parts and at != self._score_at and length in (parts, -1)
            ),
            None,
        )
        if parts and self._parts_at is None and not (parts == 1 and self._score_at is not None):
            raise ModelError(
                f"output.parts names {parts} parts, no output has {parts} numbers: {shown(outputs)}"
            )
        if self._score_at is None and self._parts_at is None:
            raise ModelError(
                f"an anomaly model needs an output of one number, or output.parts: {shown(outputs)}"
            )
        if options.part_threshold is not UNSET and self._parts_at is None:
            raise ModelError("output.part_threshold: the model gives no part scores")
        self._options = options

    def fields(self) -> dict[str, Field]:
        """`score` and `alarm`, `part` where there are parts, and `part_score` where it has a threshold."""
        score = Field(t="f32", dec=3, alarm=self._options.threshold)
        found = {"score": score, "alarm": Field(t="bool")}
        if self._options.parts:
            found["part"] = Field(t="str")
        if self._options.part_threshold is not UNSET:
            found["part_score"] = Field(t="f32", dec=3, alarm=self._options.part_threshold)
        return found

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """Score, worst part and alarm; a number that is not finite becomes null and raises no alarm."""
        # lists are faster than numpy for a few numbers: the run has replaced numpy's code in the CPU cache
        options, part, worst = self._options, "", -math.inf
        if self._parts_at is not None:
            for name, value in zip(
                options.parts, flat(outputs[self._parts_at], len(options.parts)).tolist(), strict=True
            ):
                value *= options.sign  # noqa: PLW2901
                if worst < value < math.inf:
                    part, worst = name, value
        elif options.parts:
            part = options.parts[0]
        if self._score_at is not None:
            score = number(options.sign * flat(outputs[self._score_at], 1).tolist()[0])
        else:
            score = number(worst)
        alarm = score is not None and score >= options.threshold
        values: dict[str, Scalar] = {"score": score, "alarm": alarm}
        if options.parts:
            values["part"] = part or None
        if options.part_threshold is not UNSET:
            values["part_score"] = number(worst)
            alarm = values["alarm"] = alarm or worst >= options.part_threshold
        return Result(values, top=part, score=score, alarm=alarm)
