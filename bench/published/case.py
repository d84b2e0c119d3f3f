"""One published model: where it is, its manifest, inputs, and the rows of another decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]
Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A file of a package and how it is used.

    `feeds` makes what onnxruntime is given for each of `inputs`, without edgebed; `row` is the row that the
    outputs (by name, and what was `fed`) must give. `state` carries outputs to inputs, as `{input: output}`.
    """

    name: str
    package: str  # `name==version`, or `npm:name@version`
    file: str  # how the path in the package ends
    manifest: Mapping[str, Any]  # `input` and `output`
    inputs: Callable[[], list[NDArray[Any]]]  # windows, or pictures
    feed: Callable[[NDArray[Any]], Feed]
    row: Callable[[dict[str, Any]], Row]
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # input -> first value
    following: Mapping[str, str] = field(default_factory=dict)  # input -> output
    photos: str = ""  # a package with photographs; `cut` makes the inputs of them
    cut: Callable[[list[NDArray[Any]]], list[NDArray[Any]]] = list
    make: Callable[[], bytes] | None = None  # makes the file that no package has
    labels_from: str = ""  # the key of the file's metadata that has a label in each line; `row` gets it too

    def labels(self, session: Any) -> list[str]:
        """The labels in the file's metadata."""
        return str(session.get_modelmeta().custom_metadata_map[self.labels_from]).split("\n")

    def rows(self, session: Any, inputs: list[NDArray[Any]]) -> Iterator[Row]:
        """The rows that onnxruntime and the decoder of this case give."""
        names = [output.name for output in session.get_outputs()]
        labels = {self.labels_from: self.labels(session)} if self.labels_from else {}
        state = dict(self.state)
        for data in inputs:
            feed = self.feed(data)
            outputs = dict(zip(names, session.run(None, {**feed, **state}), strict=True))
            state = {name: outputs[output] for name, output in self.following.items()}
            yield self.row({**outputs, **labels, "fed": feed})


def windows(length: int, signals: int, count: int = 8, scale: float = 1.0) -> list[NDArray[Any]]:
    """Windows of noise."""
    rng = np.random.default_rng(7)
    return [rng.normal(0, scale, (length, signals)) for _ in range(count)]


def pictures(count: int = 4, high: int = 480, wide: int = 640) -> list[NDArray[Any]]:
    """Smooth pictures: blocks of colours and noise."""
    rng = np.random.default_rng(11)
    made = []
    for _ in range(count):
        blocks = rng.integers(0, 230, (high // 40, wide // 40, 3)).repeat(40, axis=0).repeat(40, axis=1)
        made.append((blocks + rng.integers(0, 25, blocks.shape)).astype(np.uint8))
    return made


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Shares of logits."""
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def best(labels: list[str], scores: NDArray[Any]) -> Row:
    """The row of a classification."""
    at = int(np.argmax(scores))
    return {"label": labels[at], "score": float(scores[at])}
