"""What every decoder is made of: its base class, the tensors that it reads, and the result that it gives."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from agent.inference.inputs import Input
from wire.config import Mistake
from wire.errors import EdgebedError
from wire.messages import Box, Field, Scalar
from wire.printable import printable
from wire.topics import FIELD

_ROUNDING = 0.01  # of a score of 0 to 1, in 16 bits

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

    `infer_ms` is the time in onnxruntime, `cpu_ms` the CPU time of the whole run. `nan` is True where an
    output contains NaN, or where it contains an infinite number and a value of the row is missing. A decoder
    does not set these three.
    """

    values: dict[str, Scalar]
    boxes: list[Box] = field(default_factory=list)
    top: str = ""
    score: float | None = None
    alarm: bool = False
    infer_ms: float = 0.0
    nan: bool = False
    cpu_ms: float = 0.0


class Decoder(ABC):
    """Built once per model from the manifest's `output`; `decode` may run in several threads."""

    Options: ClassVar[type[Struct]]
    reads_input: ClassVar[bool] = False  # the model's inputs stand before its outputs
    # numbers of the options that only judge a result: they may change between two inputs
    tunable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def mistakes(cls, options: Any) -> Iterable[Mistake]:  # noqa: ARG003 - for subclasses
        """Mistakes that the types of the options cannot express: the keys below `output`, and a sentence."""
        return ()

    def attach(self, spec: Input) -> None:  # noqa: B027 - for decoders that need it
        """Take the manifest's input, whose signals and times `fields` may need; called once.

        Raises:
            ModelError: the decoder cannot be used with it.
        """

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


class Labelled(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Base of options with class names: in the manifest, or one per line in a file beside it."""

    labels: Annotated[
        list[Label], Meta(max_length=10_000, description="Class names in the model's order.")
    ] = []
    labels_file: Annotated[str, Meta(description="A text file in the package, one class name per line.")] = ""


class Quantity(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One number of a regression."""

    unit: Annotated[str, Meta(max_length=128, description="UCUM code.")] = ""
    dec: Annotated[int, Meta(ge=0, le=12, description="Decimals that are sent.")] = 3
    scale: Annotated[float, Meta(description="The model's number is multiplied by this ...")] = 1.0
    offset: Annotated[float, Meta(description="... and then this is added.")] = 0.0


def size_of(output: Tensor) -> int:
    """How many numbers an output has for one input; -1 if it is not declared.

    A first dimension that is not declared is that of a batch, which is 1.
    """
    shape = output.shape[1:] if output.shape[:1] == (-1,) else output.shape
    return -1 if -1 in shape else math.prod(shape)


def joined(outputs: Outputs) -> list[float]:
    """The numbers of all outputs, one after another."""
    row: list[float] = []
    for output in outputs:
        row += output.reshape(-1).tolist()
    return row


def require_size(output: Tensor, size: int, what: str) -> None:
    """Raise ModelError if the output's declared size is not `size`."""
    if size_of(output) not in (-1, size):
        raise ModelError(f"{size} {what} do not fit the model's output {output}")


def flat(output: NDArray[Any], size: int) -> NDArray[Any]:
    """The output as one row of `size` numbers; ModelError if it has another size."""
    if output.size != size:
        raise ModelError(f"the model gave {output.size} numbers where {size} were declared")
    return output.reshape(-1)


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Shares of logits, each by itself, in their type; no number overflows."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def beyond_shares(output: NDArray[Any], cure: str) -> str:
    """Why an output is not scores of 0 to 1, and what to do; "" if it may be."""
    given = output[np.isfinite(output)].astype(np.float64)
    least, most = float(given.min(initial=0)), float(given.max(initial=0))
    if least >= -_ROUNDING and most <= 1 + _ROUNDING:
        return ""
    return f"its scores are from {least:.4g} to {most:.4g}, and a score is 0 to 1: {cure}"


def slugs(labels: Sequence[str]) -> list[str]:
    """Unique field names for labels (`traffic light` -> `traffic_light`); ModelError if impossible."""
    made = [re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:48] for label in labels]
    for name, label in zip(made, labels, strict=True):
        if not FIELD.fullmatch(name):
            raise ModelError(f"label {label!r} gives no field name: it must start with a letter a-z")
        if made.count(name) > 1:
            raise ModelError(f"label {label!r} gives the field name {name!r}, as another label does")
    return made


def number(value: float) -> float | None:
    """The number; None if it is not finite."""
    return float(value) if math.isfinite(value) else None


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of logits; NaN where a logit is not finite."""
    usable = np.isfinite(logits)
    if not usable.any():
        return np.full(logits.shape, np.nan)
    powers = np.exp(np.where(usable, logits - logits[usable].max(), -np.inf))
    shares: NDArray[np.float64] = np.where(usable, powers / powers.sum(), np.nan)
    return shares


def shown(outputs: Sequence[Tensor]) -> str:
    """The outputs, for a sentence."""
    return ", ".join(map(str, outputs))
