"""Reconstruction: how far the output of an autoencoder is from its input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from agent.inference.decoders.base import (
    Decoder,
    ModelError,
    Outputs,
    Placement,
    Result,
    Tensor,
    flat,
    number,
    size_of,
)
from agent.inference.inputs import Input, WindowInput
from wire.messages import Field, Scalar

RESERVED = {"score", "alarm", "part", "infer_ms", "frame"}


class ReconstructionOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: reconstruction`."""

    threshold: Annotated[float, Meta(description="A score of at least this is an alarm.")]
    error: Annotated[
        Literal["absolute", "squared"], Meta(description="Of each number that the model sees.")
    ] = "absolute"
    over_time: Annotated[
        Literal["mean", "max"], Meta(description="From the errors of a signal to its error.")
    ] = "mean"
    over_signals: Annotated[
        Literal["mean", "max"], Meta(description="From the errors of the signals to the score.")
    ] = "mean"
    scores: Annotated[bool, Meta(description="Publish the error of every signal, by its name.")] = False


class Reconstruction(Decoder):
    """The score is the error between the first input and the output; `part` is the worst signal."""

    Options = ReconstructionOptions
    tunable = frozenset({"threshold"})
    reads_input = True

    def __init__(
        self, options: ReconstructionOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        given, made = size_of(outputs[0]), size_of(outputs[-1])
        if len(outputs) < 2 or made not in (given, -1):
            raise ModelError(
                f"a reconstruction has as many numbers as the input {outputs[0]}, the output is {outputs[-1]}"
            )
        self._options = options
        self._numbers = given
        self._signals: list[str] = []
        self._by_signal = (1, -1)
        self._signals_first = True

    def attach(self, spec: Input) -> None:
        """Take the names and the place of the signals; a picture has none."""
        if not isinstance(spec, WindowInput):
            if self._options.scores:
                raise ModelError("output.scores: a picture has no signals")
            return
        part = spec.parts[0]
        self._signals = part.signals
        self._signals_first = part.layout == "signal-time"
        self._by_signal = (len(part.signals), -1) if self._signals_first else (-1, len(part.signals))
        for reserved in RESERVED & {*self._signals}:
            if self._options.scores:
                raise ModelError(f"input.signals: {reserved!r} clashes with a field of that name: rename it")

    def fields(self) -> dict[str, Field]:
        """`score` and `alarm`, `part` of a window, and the error of each signal where `scores` is set."""
        score = Field(t="f32", dec=4, alarm=self._options.threshold)
        part = {"part": Field(t="str", desc="signal")} if self._signals else {}
        every = {name: Field(t="f32", dec=4) for name in self._signals} if self._options.scores else {}
        return {"score": score, "alarm": Field(t="bool"), **part, **every}

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """Errors, worst signal and alarm; null where a number is not finite."""
        options = self._options
        with np.errstate(all="ignore"):  # the model's numbers have no bounds
            errors = self._errors(outputs)
            whole = errors.max() if options.over_signals == "max" else errors.mean()
        score = number(float(whole))
        alarm = score is not None and score >= options.threshold
        values: dict[str, Scalar] = {"score": score, "alarm": alarm}
        part = ""
        if self._signals:
            worst = int(np.argmax(np.where(np.isnan(errors), -math.inf, errors)))
            part = self._signals[worst] if not np.isnan(errors).all() else ""
            values["part"] = part or None
        if options.scores:
            values.update(zip(self._signals, map(number, errors.tolist()), strict=True))
        return Result(values, top=part, score=score, alarm=alarm)

    def _errors(self, outputs: Outputs) -> NDArray[Any]:
        """The error of each signal; one error for a picture."""
        off = flat(outputs[0], self._numbers).astype(np.float64)
        off -= flat(outputs[-1], self._numbers)
        off = np.square(off) if self._options.error == "squared" else np.abs(off)
        axis = 1 if self._signals_first else 0
        table = off.reshape(self._by_signal)
        found: NDArray[Any] = (
            table.max(axis=axis) if self._options.over_time == "max" else table.mean(axis=axis)
        )
        return found
