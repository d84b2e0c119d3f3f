"""A detection head reads one layout of output tensors; what the heads share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders.base import ModelError, Outputs, Tensor

Found = tuple[
    NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]
]  # boxes [n,4] xyxy px, scores, classes

STRIDES = (8, 16, 32)  # px between the cells of the grids of the YOLO family


class Head:
    """One layout of output tensors; `read` returns boxes (n, 4) as x0, y0, x1, y1 in px of the input."""

    outputs: ClassVar[int] = 1  # number of output tensors

    def __init__(self, outputs: Sequence[Tensor], classes: int, size: tuple[int, int]) -> None:
        self.classes = classes
        self.size = size
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
        """Every number that is between 0 and 1 if the model has this head."""
        raise NotImplementedError

    def doubt(self, outputs: Outputs) -> str:  # noqa: ARG002 - for subclasses
        """Why the boxes for a plain input cannot be those of this head; "" if they can."""
        return ""


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
        raise ModelError(f"the model's output has the shape {list(shape)}, which its head cannot read")
    return output


def corners(x: Any, y: Any, w: Any, h: Any) -> NDArray[np.float32]:
    """Boxes as x0, y0, x1, y1 from centres and sides."""
    boxes = np.empty((len(x), 4), np.float32)
    half_w, half_h = w * 0.5, h * 0.5
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = x - half_w, y - half_h, x + half_w, y + half_h
    return boxes


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-x)), which overflows for no number."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def nothing() -> Found:
    """No boxes."""
    return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.intp)


def cells(size: tuple[int, int]) -> int:
    """The number of cells of the grids of strides 8, 16 and 32 over an input of `size`."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)
