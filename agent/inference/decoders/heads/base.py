"""A detection head reads one layout of output tensors; what the heads share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Outputs, Tensor, sigmoid

Order = Literal["centre", "corners", "corners-yx"]
Unit = Literal["pixels", "shares"]

STRIDES = (8, 16, 32)  # px between the cells of the grids of the YOLO family
_SHARES = 2.0  # boxes whose numbers are all below this are shares of the input, not pixels
_PIXELS = 16.0  # boxes with a number above this are pixels of the input, not shares
_LEAST_CELLS = 16  # numbers from which a range can be judged


class Found(NamedTuple):
    """What a head read: boxes (n, 4) as x0, y0, x1, y1 in px of the input, and more numbers of each box."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.intp]
    more: NDArray[np.float32] | None = None  # (n, k): keypoints, or the coefficients of a mask

    def pick(self, at: NDArray[Any]) -> Found:
        """The boxes at these indices, or where this is true."""
        more = None if self.more is None else self.more[at]
        return Found(self.boxes[at], self.scores[at], self.classes[at], more)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the manifest states about the outputs of a head; "" for what the head is known for."""

    classes: int
    sigmoid: bool = False
    order: Order | Literal[""] = ""
    unit: Unit | Literal[""] = ""
    keypoints: int = 0
    masks: bool = False


class Head:
    """One layout of output tensors."""

    outputs: ClassVar[int] = 1  # number of output tensors
    word: ClassVar[str]
    takes: ClassVar[Collection[str]] = ()  # the options beside the labels that it can have
    finished: ClassVar[bool] = False  # its boxes have no duplicates
    order: ClassVar[Order] = "corners"
    unit: ClassVar[Unit] = "pixels"

    def __init__(self, outputs: Sequence[Tensor], layout: Layout, size: tuple[int, int]) -> None:
        given = {
            "sigmoid": layout.sigmoid,
            "box": layout.order,
            "unit": layout.unit,
            "keypoints": layout.keypoints,
            "masks": layout.masks,
        }
        if wrong := [key for key, value in given.items() if value and key not in self.takes]:
            raise ModelError(f"output.{wrong[0]}: the head {self.word} does not have it")
        self.layout, self.classes, self.size = layout, layout.classes, size
        if len(outputs) < type(self).outputs:
            raise ModelError(f"this head needs {type(self).outputs} outputs, the model has {len(outputs)}")
        self.check(outputs)

    def check(self, outputs: Sequence[Tensor]) -> None:
        """Raise ModelError if a declared shape does not fit this head."""
        raise NotImplementedError

    def read(self, outputs: Outputs, least: float) -> Found:
        """Boxes with a score of at least `least`; drops boxes with NaN among their scores."""
        raise NotImplementedError

    def scores(self, outputs: Outputs) -> NDArray[Any]:
        """Every number that is between 0 and 1 if the model has this head; logits with `sigmoid`."""
        raise NotImplementedError

    def doubt(self, outputs: Outputs) -> str:
        """Why the boxes for a plain input cannot be those of this head; "" if they can."""
        if not self.layout.sigmoid:
            return ""
        logits = self.scores(outputs)
        if logits.size < _LEAST_CELLS or not (logits.min() >= 0 and logits.max() <= 1):
            return ""
        return (
            f"head {self.word} has sigmoid: true, and every number that it would change is between 0 and 1 "
            "already: leave it out"
        )

    # -- for subclasses

    def raw(self, least: float) -> float:
        """The number in the output that stands for the score `least`."""
        return float(np.log(least) - np.log1p(-min(least, 1 - 1e-9))) if self.layout.sigmoid else least

    def shares(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Scores from the numbers in the output."""
        return sigmoid(raw.astype(np.float32)) if self.layout.sigmoid else raw

    def placed(self, four: NDArray[Any]) -> NDArray[np.float32]:
        """Boxes (n, 4) in px of the input from the four numbers (4, n) of each."""
        width, height = self.size
        a, b, c, d = four.astype(np.float32)
        order = self.layout.order or self.order
        if order == "centre":
            boxes = corners(a, b, c, d)
        else:
            boxes = np.stack((b, a, d, c) if order == "corners-yx" else (a, b, c, d), axis=1)
        if (self.layout.unit or self.unit) == "shares":
            boxes *= np.array((width, height, width, height), np.float32)
        return boxes

    def doubt_unit(self, four: NDArray[Any]) -> str:
        """Why the numbers of the boxes are not in the unit of this head."""
        usable = np.abs(four[np.isfinite(four)])
        largest = float(usable.max(initial=0))
        unit = self.layout.unit or self.unit
        if unit == "pixels" and 0 < largest <= _SHARES:
            other = "shares"
        elif unit == "shares" and usable.size and float(np.median(usable)) > _PIXELS:
            other = "pixels"
        else:
            return ""
        found = (
            f"no number of a box is above {largest:.3g}" if other == "shares" else f"they reach {largest:.4g}"
        )
        which = "shares of the input, as RT-DETR gives them" if other == "shares" else "pixels of the input"
        what = "pixels of the input" if unit == "pixels" else "shares of the input"
        return f"head {self.word} reads boxes in {what}, and {found}: they are {which} (output.unit: {other})"


def expect(output: Tensor, head: str, wanted: tuple[int, ...], classes: int) -> None:
    """Raise ModelError unless the shapes agree in every dimension that both declare."""
    shape = output.shape
    if len(shape) != len(wanted) or any(
        have != want and -1 not in (have, want) for have, want in zip(shape, wanted, strict=True)
    ):
        dims = ", ".join("?" if dim < 0 else str(dim) for dim in wanted)
        raise ModelError(
            f"head {head} with {classes} labels reads [{dims}], the model's output is {output}: "
            "check head, labels and input.size"
        )


def shaped(output: NDArray[Any], dims: int, *wanted: int | None) -> NDArray[Any]:
    """Return the output; ModelError if it has another shape than the head reads."""
    shape = output.shape
    if len(shape) != dims or any(w is not None and w != shape[at] for at, w in enumerate(wanted)):
        raise unreadable(output)
    return output


def unreadable(output: NDArray[Any]) -> ModelError:
    """The error for an output of another shape than was declared."""
    return ModelError(f"the model's output has the shape {list(output.shape)}, which its head cannot read")


def corners(x: Any, y: Any, w: Any, h: Any) -> NDArray[np.float32]:
    """Boxes as x0, y0, x1, y1 from centres and sides."""
    boxes = np.empty((len(x), 4), np.float32)
    half_w, half_h = w * 0.5, h * 0.5
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = x - half_w, y - half_h, x + half_w, y + half_h
    return boxes


def classes_of(numbers: NDArray[Any], classes: int) -> NDArray[np.intp]:
    """Class numbers as whole ones; -1 for one that is not a class."""
    whole = np.rint(np.where(np.isfinite(numbers), numbers, -1)).astype(np.float64)
    return np.where((whole >= 0) & (whole < classes), whole, -1).astype(np.intp)


def doubt_classes(numbers: NDArray[Any], classes: int, word: str) -> str:
    """Why numbers cannot be those of classes; "" if they can."""
    usable = numbers[np.isfinite(numbers)].astype(np.float64)
    if not np.array_equal(usable, np.rint(usable)):
        return (
            f"head {word} reads the number of a class, and finds {usable[usable != np.rint(usable)][0]:.4g}: "
            "the model has another head, or its outputs another order (output.tensors)"
        )
    most = int(min(usable.max(initial=-1), 1e9))
    if most >= classes:
        return f"output.labels: {classes} are given, and the model finds the class {most} (they begin at 0)"
    return ""


def nothing() -> Found:
    """No boxes."""
    return Found(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.intp))


def cells(size: tuple[int, int]) -> int:
    """The number of cells of the grids of strides 8, 16 and 32 over an input of `size`."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
