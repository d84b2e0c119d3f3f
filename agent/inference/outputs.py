"""Which outputs of a session a decoder reads, and how each becomes an array of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders import ModelError, Tensor
from agent.inference.tensors import LABELS, NUMBERS, tensor
from wire.printable import printable

MAX_OUTPUT = 64_000_000  # bytes of one run's outputs
_LABEL_FIRST = ("classification", "anomaly")  # decoders that read scores, not the label before them
_MAPS = {"seq(map(int64,tensor(float)))": int, "seq(map(string,tensor(float)))": str}  # ZipMap
_MANY = 8  # outputs and labels that a sentence lists


class Outputs:
    """The outputs that a decoder reads, in its order, and those that are the next state."""

    def __init__(
        self, nodes: Sequence[Any], names: Sequence[str], decoder: str, state: Sequence[str]
    ) -> None:
        """Choose among the outputs `nodes` of a session; `names` are those of the manifest, if it has any.

        Raises:
            ModelError: an output is missing, or one that is read does not give numbers.
        """
        known = {str(node.name): node for node in nodes}
        for where, name in [*(("output.tensors", n) for n in names), *(("input.state", n) for n in state)]:
            if name not in known:
                there = ", ".join(printable(each, 64) for each in list(known)[:_MANY])
                raise ModelError(f"{where} names {printable(name)!r}, the model's outputs are {there}")
        chosen = [known[name] for name in names]
        if not names:
            chosen = [node for name, node in known.items() if name not in state]
            if decoder in _LABEL_FIRST and len(chosen) > 1 and is_label(chosen[0]):
                chosen = chosen[1:]  # scikit-learn and LightGBM give the label before the scores
        if not known:
            raise ModelError("the model has no output")
        if not chosen:
            raise ModelError("every output is a state (input.state), so none is left for the decoder")
        if decoder in _LABEL_FIRST and len(chosen) == 1 and is_label(chosen[0]):
            raise ModelError(
                f"its output {tensor(chosen[0])} is a label, and the decoder {decoder} reads scores: "
                "name the output with the scores in output.tensors, or export the model with them"
            )
        self._maps = {at: _MAPS[node.type] for at, node in enumerate(chosen) if node.type in _MAPS}
        if decoder != "classification":
            self._maps = {}
        for at, node in enumerate([*chosen, *(known[name] for name in state)]):
            if at not in self._maps:
                _require_numbers(node)
        self._state = len(chosen)  # where the state begins among what a run gives
        self.names = [str(node.name) for node in chosen] + list(state)
        self.declared = [tensor(node) for node in [*chosen, *(known[name] for name in state)]]
        size = sum(
            np.dtype(each.dtype).itemsize * math.prod(abs(dim) for dim in each.shape)
            for at, each in enumerate(self.declared)
            if at not in self._maps
        )
        if size > MAX_OUTPUT:
            raise ModelError(f"its outputs take {size} bytes a run; {MAX_OUTPUT} are allowed")
        self._readers: dict[int, Callable[[Any], NDArray[Any]]] = {}

    @property
    def tensors(self) -> list[Tensor]:
        """What the decoder reads, in its order."""
        return self.declared[: self._state]

    def learn(self, given: Sequence[Any], labels: Sequence[str]) -> None:
        """Learn the classes of maps from the outputs of a first run.

        Raises:
            ModelError: they are not the labels of the manifest.
        """
        for at, kind in self._maps.items():
            keys = _keys(given[at], kind, labels)
            self._readers[at] = _reader(keys)
            name = self.declared[at].name
            self.declared[at] = Tensor(name, "float32", (1, len(keys)))

    def arrays(self, given: list[Any]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """The arrays that the decoder reads, and those of the state.

        Raises:
            ModelError: a map has other classes than before.
        """
        if not self._readers and self._state == len(given):
            return given, []
        read = given[: self._state]
        for at, reader in self._readers.items():
            read[at] = reader(read[at])
        return read, given[self._state :]


def _keys(given: Any, kind: type, labels: Sequence[str]) -> list[Any]:
    """The keys of a map in the order of the labels.

    Classes with names have those of the labels; numbers are labels, or in the order of the labels.
    """
    keys = list(given[0]) if isinstance(given, list) and len(given) == 1 else []
    shown = ", ".join(printable(str(key), 64) for key in keys[:_MANY])
    by_name = {str(key): key for key in keys}
    if by_name.keys() == set(labels):
        return [by_name[label] for label in labels]
    if kind is int and len(keys) == len(labels):
        return sorted(keys)
    raise ModelError(
        f"output.labels must be the model's {len(keys)} classes: {shown}"
        if len(labels)
        else f"output.labels: the model's classes are {shown}"
    )


def _reader(keys: Sequence[Any]) -> Callable[[Any], NDArray[Any]]:
    def read(given: Any) -> NDArray[Any]:
        if len(given) != 1 or len(given[0]) != len(keys):
            raise ModelError(f"the model gave other classes than its {len(keys)}")
        try:
            return np.array([[given[0][key] for key in keys]], np.float32)
        except KeyError as error:
            raise ModelError(f"the model gave no score for the class {printable(error, 64)}") from error

    return read


def _require_numbers(node: Any) -> None:
    shown = f"output '{printable(node.name, 64)}' is {printable(node.type, 64)}"
    if not str(node.type).startswith("tensor("):
        raise ModelError(
            f"{shown}, not a tensor: name the outputs to read in output.tensors, or export the model without "
            "it (scikit-learn, LightGBM: zipmap=False)"
        )
    if node.type not in NUMBERS:
        raise ModelError(
            f"{shown}, not numbers: name the outputs to read in output.tensors, or export the model with "
            "numbers only"
        )


def is_label(node: Any) -> bool:
    """Whether an output can only be the name or number of a class: one for the input, and not a fraction."""
    return node.type in LABELS and math.prod(abs(dim) for dim in tensor(node).shape) == 1
