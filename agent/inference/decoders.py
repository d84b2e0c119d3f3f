"""Decoders turn output tensors into values and alarms: the registry, and the decoders without boxes."""

from __future__ import annotations

import importlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from wire.errors import EdgebedError
from wire.messages import Box, Field, Scalar
from wire.plugins import entry_points, third_party
from wire.printable import printable
from wire.topics import FIELD

GROUP = "edgebed.decoders"

# word in a manifest -> (module, class); imported on first use
BUILT_IN: dict[str, tuple[str, str]] = {
    "detection": ("agent.inference.detection", "Detection"),
    "classification": ("agent.inference.decoders", "Classification"),
    "regression": ("agent.inference.decoders", "Regression"),
    "anomaly": ("agent.inference.decoders", "Anomaly"),
}

Outputs = Sequence[NDArray[Any]]
Label = Annotated[str, Meta(min_length=1, max_length=128)]


class ModelError(EdgebedError):
    """A model package cannot be used, or a run failed; the text states why and what to do."""

    reason_code = "model-refused"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output of a model; a dimension of -1 is known only at run time."""

    name: str
    dtype: str  # numpy's name, as float32
    shape: tuple[int, ...]

    def __str__(self) -> str:
        dims = ", ".join("?" if dim < 0 else str(dim) for dim in self.shape)
        return f"{printable(self.name, 64)} {printable(self.dtype, 64)}[{dims}]"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the picture is in the model's input: `normal = (pixel - offset) * scale`, for x and y."""

    offset_x: float
    offset_y: float
    scale_x: float
    scale_y: float


@dataclass(slots=True)
class Result:
    """The decoded result of one run: a row of `values`, boxes, the main finding `top` and its `score`.

    `infer_ms` is the time in onnxruntime. `nan` is True where an output contains NaN, or where it contains
    an infinite number and a value of the row is missing. A decoder does not set these two.
    """

    values: dict[str, Scalar]
    boxes: list[Box] = field(default_factory=list)
    top: str = ""
    score: float | None = None
    alarm: bool = False
    infer_ms: float = 0.0
    nan: bool = False


class Decoder(ABC):
    """Built once per model from the manifest's `output`; `decode` may run in several threads."""

    Options: ClassVar[type[Struct]]

    def doubt(self, outputs: Outputs) -> str:  # noqa: ARG002 - for subclasses
        """Why the outputs for a plain input cannot be what this decoder reads; "" if they can.

        The gate calls this; a decoder may leave it out.
        """
        return ""

    @abstractmethod
    def __init__(self, options: Any, outputs: Sequence[Tensor], size: tuple[int, int] | None) -> None:
        """Check `options` against the model's outputs; `size` is (width, height) of a frame model.

        Raises:
            ModelError: they do not fit; the text states which output has which shape.
        """

    @abstractmethod
    def fields(self) -> dict[str, Field]:
        """The fields of a row of the result stream."""

    @abstractmethod
    def decode(self, outputs: Outputs, placement: Placement | None) -> Result:
        """Decode one run's outputs, in the model's order; the numbers may be anything, NaN included.

        Raises:
            ModelError: an output has another size than declared.
        """


def names() -> list[str]:
    """Every decoder that a manifest can name, sorted."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def load(name: str) -> type[Decoder]:
    """The decoder class for a word in a manifest.

    Raises:
        ModelError: the word is unknown, or two packages register it.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    found = third_party(GROUP, "decoder", name, Decoder, ModelError)  # type: ignore[type-abstract]
    if found is None:
        raise ModelError(f"unknown decoder {name!r}; known are {', '.join(names())}")
    return found


class Labelled(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of options with class names: in the manifest, or one per line in a file beside it."""

    labels: Annotated[
        list[Label], Meta(max_length=10_000, description="Class names in the model's order.")
    ] = []
    labels_file: Annotated[str, Meta(description="A text file in the package, one class name per line.")] = ""


# -- decoders without boxes --------------------------------------------------------------------------------


class ClassificationOptions(Labelled, frozen=True):
    """`output` of a manifest with `decoder: classification`."""

    softmax: Annotated[bool, Meta(description="The model gives logits: turn them into shares.")] = False
    scores: Annotated[bool, Meta(description="Publish the score of every class, not only the best.")] = False
    alarm: Annotated[list[Label], Meta(description="Labels that raise an alarm when they win.")] = []


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
            scores = _softmax(scores)
        usable = np.isfinite(scores)
        every = {name: _number(scores[i]) for i, name in enumerate(self._names)}
        if not usable.any():
            empty_alarm = {"alarm": None} if options.alarm else {}
            return Result({"label": None, "score": None, **empty_alarm, **every})
        best = int(np.argmax(np.where(usable, scores, -np.inf)))
        label, score = options.labels[best], float(scores[best])
        alarm = label in options.alarm
        shown_alarm = {"alarm": alarm} if options.alarm else {}
        values: dict[str, Scalar] = {"label": label, "score": score, **shown_alarm, **every}
        return Result(values, top=label, score=score, alarm=alarm)


class Quantity(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One number of a regression."""

    unit: Annotated[str, Meta(max_length=128, description="UCUM code.")] = ""
    dec: Annotated[int, Meta(ge=0, le=12, description="Decimals that are sent.")] = 3
    scale: Annotated[float, Meta(description="The model's number is multiplied by this ...")] = 1.0
    offset: Annotated[float, Meta(description="... and then this is added.")] = 0.0


class RegressionOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: regression`."""

    fields: Annotated[
        dict[str, Quantity],
        Meta(min_length=1, max_length=256, description="Field name to quantity, in the model's order."),
    ]


class Regression(Decoder):
    """The outputs together hold one number per field."""

    Options = RegressionOptions

    def __init__(
        self, options: RegressionOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        for name in options.fields:
            if not FIELD.fullmatch(name):
                raise ModelError(f"output.fields: {name!r} is not [a-z][a-z0-9_]*, 48 characters at most")
        if all(-1 not in output.shape for output in outputs):
            total = sum(math.prod(output.shape) for output in outputs)
            if total != len(options.fields):
                shown = ", ".join(map(str, outputs))
                raise ModelError(
                    f"output.fields names {len(options.fields)} numbers, the model gives {total} ({shown})"
                )
        self._quantities = dict(options.fields)

    def fields(self) -> dict[str, Field]:
        """The manifest's fields."""
        return {name: Field(t="f32", unit=q.unit, dec=q.dec) for name, q in self._quantities.items()}

    def decode(self, outputs: Outputs, _placement: Placement | None) -> Result:
        """One value per field; null where the number is not finite."""
        row: list[float] = []
        for output in outputs:
            row += output.reshape(-1).tolist()
        if len(row) != len(self._quantities):
            raise ModelError(f"the model gave {len(row)} numbers for {len(self._quantities)} fields")
        values: dict[str, Scalar] = {
            name: _number(number * q.scale + q.offset)
            for number, (name, q) in zip(row, self._quantities.items(), strict=True)
        }
        return Result(values)


class AnomalyOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """`output` of a manifest with `decoder: anomaly`."""

    threshold: Annotated[float, Meta(description="A score of at least this is an alarm.")]
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

    def __init__(
        self, options: AnomalyOptions, outputs: Sequence[Tensor], _size: tuple[int, int] | None
    ) -> None:
        sizes = [math.prod(output.shape) if -1 not in output.shape else -1 for output in outputs]
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
                f"output.parts names {parts} parts, no output has {parts} numbers: {_shown(outputs)}"
            )
        if self._score_at is None and self._parts_at is None:
            raise ModelError(
                f"an anomaly model needs an output of one number, or output.parts: {_shown(outputs)}"
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
            for name, number in zip(
                options.parts, flat(outputs[self._parts_at], len(options.parts)).tolist(), strict=True
            ):
                if worst < number < math.inf:
                    part, worst = name, number
        elif options.parts:
            part = options.parts[0]
        score = _number(flat(outputs[self._score_at], 1).tolist()[0] if self._score_at is not None else worst)
        alarm = score is not None and score >= options.threshold
        values: dict[str, Scalar] = {"score": score, "alarm": alarm}
        if options.parts:
            values["part"] = part or None
        if options.part_threshold is not UNSET:
            values["part_score"] = _number(worst)
            alarm = values["alarm"] = alarm or worst >= options.part_threshold
        return Result(values, top=part, score=score, alarm=alarm)


# -- shared by decoders ------------------------------------------------------------------------------------


def require_size(output: Tensor, size: int, what: str) -> None:
    """Raise ModelError if the output's declared size is not `size`."""
    if -1 not in output.shape and math.prod(output.shape) != size:
        raise ModelError(f"{size} {what} do not fit the model's output {output}")


def flat(output: NDArray[Any], size: int) -> NDArray[Any]:
    """The output as one row of `size` numbers; ModelError if it has another size."""
    if output.size != size:
        raise ModelError(f"the model gave {output.size} numbers where {size} were declared")
    return output.reshape(-1)


def slugs(labels: Sequence[str]) -> list[str]:
    """Unique field names for labels (`traffic light` -> `traffic_light`); ModelError if impossible."""
    made = [re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:48] for label in labels]
    for name, label in zip(made, labels, strict=True):
        if not FIELD.fullmatch(name):
            raise ModelError(f"label {label!r} gives no field name: it must start with a letter a-z")
        if made.count(name) > 1:
            raise ModelError(f"label {label!r} gives the field name {name!r}, as another label does")
    return made


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    usable = np.isfinite(logits)
    if not usable.any():
        return np.full(logits.shape, np.nan)
    powers = np.exp(np.where(usable, logits - logits[usable].max(), -np.inf))
    shares: NDArray[np.float64] = np.where(usable, powers / powers.sum(), np.nan)
    return shares


def _shown(outputs: Mapping[str, Tensor] | Sequence[Tensor]) -> str:
    return ", ".join(map(str, outputs))
