"""What a session is fed with: the picture or the window, constants, and state that goes round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders import ModelError, Placement, Tensor
from agent.inference.inputs import FrameInput, Input, WindowInput
from agent.inference.preprocess import FrameTensor, WindowTensor
from agent.inference.tensors import NUMBERS, fits, tensor
from wire.printable import printable

_MAX_CONSTANT = 16_000_000  # numbers
_MAX_STATE = 1_000_000  # numbers of all states; each stream keeps a copy
_MANY = 8  # tensors that a sentence lists

Arrays = dict[str, NDArray[Any]]


@dataclass(slots=True)
class Buffers:
    """The buffers of one thread: `fill` writes the tensors `filled`, which are in `feed`."""

    fill: Callable[[Any], Placement | None]
    filled: list[NDArray[Any]]
    feed: Arrays


class Feeds:
    """The inputs of a model, checked against its manifest."""

    def __init__(self, spec: Input, nodes: Sequence[Any]) -> None:
        """Check the inputs `nodes` of a session.

        Raises:
            ModelError: an input is missing, is not one of the model, or has another type or shape.
        """
        self._spec = spec
        self._declared = {found.name: found for found in map(tensor, nodes)}
        self._shown = ", ".join(map(str, list(self._declared.values())[:_MANY]))
        state = spec.state if isinstance(spec, WindowInput) else {}
        self.filled = self._checked()
        self._constants = {
            name: self._constant(value, self._known(name, "input.constants"))
            for name, value in spec.constants.items()
        }
        self.initial = {name: self._zeros(self._known(name, "input.state")) for name in state}
        if sum(array.size for array in self.initial.values()) > _MAX_STATE:
            raise ModelError(f"input.state has more than {_MAX_STATE} numbers")
        named = [*(found.name for found in self.filled), *spec.constants, *state]
        for name in named:
            if named.count(name) > 1:
                raise ModelError(f"input: {printable(name)!r} gets its value twice")
        if missing := [found for name, found in self._declared.items() if name not in named]:
            raise ModelError(
                f"input names no value for {', '.join(map(str, missing[:_MANY]))}: name it in input.inputs, "
                "input.constants or input.state"
            )
        self.whole = any("int" in found.dtype for found in self.filled)
        self.wide = any(found.dtype in ("float64", "int64", "int32") for found in self.filled)

    def buffers(self) -> Buffers:
        """New buffers for one thread."""
        spec = self._spec
        if isinstance(spec, FrameInput):
            frames = FrameTensor(spec, self.filled[0].dtype)
            filled = [frames.tensor]
            fill: Callable[[Any], Placement | None] = frames.fill
        else:
            windows = [
                WindowTensor(spec, found.dtype, part)
                for part, found in zip(spec.parts, self.filled, strict=True)
            ]
            filled = [each.tensor for each in windows]
            fill = windows[0].fill if len(windows) == 1 else _all(windows)
        feed = {found.name: array for found, array in zip(self.filled, filled, strict=True)}
        return Buffers(fill, filled, {**feed, **self._constants, **self.initial})

    def blank(self) -> NDArray[Any]:
        """An input without content, for warming up: a grey picture, or a window of means."""
        spec = self._spec
        if isinstance(spec, FrameInput):
            return np.full((spec.size[1], spec.size[0], 3), 114, np.uint8)
        return np.tile(np.array(spec.mean or [0.0] * len(spec.signals), np.float32), (spec.length, 1))

    def next_state(self, given: Mapping[str, NDArray[Any]]) -> Arrays | None:
        """The state for the next run, from the outputs of this one; None if it has a number that is not one.

        Raises:
            ModelError: an output has another shape or type than its input.
        """
        for name, initial in self.initial.items():
            found = given[name]
            if found.shape != initial.shape or found.dtype != initial.dtype:
                raise ModelError(
                    f"input.state: {printable(name, 64)} is {initial.dtype}{list(initial.shape)}, and its "
                    f"output gave {found.dtype}{list(found.shape)}"
                )
        return dict(given) if all(np.isfinite(array).all() for array in given.values()) else None

    def _checked(self) -> list[Tensor]:
        """The inputs that the picture or the window fills, with the shapes that the manifest gives."""
        spec = self._spec
        shapes = (
            {spec.name: spec.shape}
            if isinstance(spec, FrameInput)
            else {part.name: part.dims for part in spec.parts}
        )
        where = "input.inputs" if isinstance(spec, WindowInput) and spec.inputs else "input.name"
        found = []
        for name, shape in shapes.items():
            declared = self._known(name, where)
            if not fits(declared.shape, shape):
                raise ModelError(
                    f"the manifest's input makes a tensor {list(shape)}, the model needs {self._shown}"
                )
            found.append(Tensor(name, declared.dtype, shape))
        return found

    def _known(self, name: str, where: str) -> Tensor:
        declared = self._declared.get(name)
        if declared is None:
            verb = "input is" if len(self._declared) == 1 else "inputs are"
            raise ModelError(f"{where} is {printable(name)!r}, the model's {verb} {self._shown}")
        require_usable(declared)
        return declared

    def _constant(self, value: Any, declared: Tensor) -> NDArray[Any]:
        where = f"input.constants: {printable(declared.name, 64)}"
        try:
            given = np.array(value)
            with np.errstate(all="ignore"):  # what does not fit is refused below
                made = given.astype(declared.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{where} is not a number or nested lists of numbers of one length") from error
        if given.dtype.kind not in "biuf" or (made.dtype.kind in "biu" and not np.array_equal(made, given)):
            raise ModelError(f"{where} must have numbers of the type {made.dtype}")
        if made.dtype.kind == "f" and not np.array_equal(np.isfinite(made), np.isfinite(given)):
            raise ModelError(f"{where} has a number that is too large for {made.dtype}")
        if not made.ndim:
            return np.full(self._dims(declared), made)
        if not fits(declared.shape, made.shape):
            raise ModelError(f"{where} has the shape {list(made.shape)}, the model needs {declared}")
        return made

    def _zeros(self, declared: Tensor) -> NDArray[Any]:
        return np.zeros(self._dims(declared), declared.dtype)

    def _dims(self, declared: Tensor) -> tuple[int, ...]:
        """The shape of a constant or a state; a dimension that is not declared is 1, as a batch is."""
        dims = tuple(abs(dim) for dim in declared.shape)
        if np.prod(dims, dtype=float) > _MAX_CONSTANT:
            raise ModelError(f"input {declared} has more than {_MAX_CONSTANT} numbers")
        return dims


def require_usable(found: Tensor) -> None:
    """Raise ModelError unless numbers can be put into this input."""
    if found.dtype not in NUMBERS.values():
        raise ModelError(f"input {found}: its type must be one of {', '.join(NUMBERS.values())}")


def _all(windows: Sequence[WindowTensor]) -> Callable[[NDArray[Any]], None]:
    def fill(window: NDArray[Any]) -> None:
        for each in windows:
            each.fill(window)

    return fill
