"""Guesses the `output` of a manifest: which decoder reads what the model gives for noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from agent.inference.decoders import Tensor
from agent.inference.decoders.heads import HEADS
from agent.inference.decoders.heads.base import cells
from edgebed.model_tools.facts import Facts
from edgebed.model_tools.manifest_text import Entry
from wire.printable import printable

_MOST_LABELS, _LONGEST_LABEL, _MOST_TEXT = 10_000, 128, 150_000
_ROUNDING = 1e-3
_FIELDS = 256  # of a regression
_VECTOR = 4096  # numbers of an embedding
_MOST_CLASSES = 256  # of regions
_ORDER = "in the model's order"
_TASKS = ("detect", "pose", "segment")  # of Ultralytics
_HIDDEN = ("Cc", "Cf", "Zl", "Zp")
_VECTORS = ("embed", "feature", "vector")

Section = list[Entry]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run on noise showed; a label that stands first is not among the tensors."""

    facts: Facts
    size: tuple[int, int] | None  # of a picture
    tensors: list[Tensor]
    arrays: list[NDArray[np.float64]]
    classes: list[str]  # of a ZipMap, which is not among the tensors
    label_first: bool
    voice: bool  # a state goes round, and it hears one signal
    window: tuple[int, ...] = ()  # dimensions of the one input, if it is a window


def candidates(seen: Seen) -> Iterator[Section]:
    """What the manifest's output may be, the likeliest first."""
    tensors, arrays = seen.tensors, seen.arrays
    if seen.size is not None:
        maps, fine = _regions(seen, seen.size)
        yield from maps if fine else []
        yield from _boxes(seen.size, tensors, seen.facts)
        yield from maps
    if seen.classes:
        yield [Entry("decoder", "classification"), Entry("labels", labels(seen.classes, len(seen.classes)))]
    if not tensors or (seen.size is not None and len(tensors[0].shape) > 2 and arrays[0].size > _FIELDS):
        return
    yield from _scores(seen)
    first = tensors[0]
    width = arrays[0].size
    vector = [Entry("decoder", "embedding"), Entry("size", width)]
    if any(word in first.name.lower() for word in _VECTORS) and 8 <= width <= _VECTOR:
        yield vector
    if seen.window == first.shape and (len(first.shape) > 2 or width >= 8):
        yield [
            Entry("decoder", "reconstruction", "or regression; the output has the shape of the input"),
            Entry("threshold", 1.0, "a score of at least this is an alarm"),
        ]
    fields = {
        f"value_{at + 1}": {"unit": "1", "dec": 3} for at in range(min(sum(a.size for a in arrays), _FIELDS))
    }
    yield [
        Entry("decoder", "regression", "or classification, anomaly, forecast"),
        Entry("fields", fields, "their names"),
    ]
    if _FIELDS < width <= _VECTOR:
        yield vector


def _regions(seen: Seen, size: tuple[int, int]) -> tuple[list[Section], bool]:
    """A map over the picture, and whether its cells are too small for those of a detector."""
    shape = seen.tensors[0].shape[1:] if len(seen.tensors) == 1 else ()
    if not 2 <= len(shape) <= 3 or min(shape) < 1:
        return [], False
    first, numbers = seen.tensors[0], seen.arrays[0]
    high, wide = shape[:2] if len(shape) == 3 and shape[2] < shape[0] else shape[-2:]
    if high * size[0] != wide * size[1]:
        return [], False
    whole = first.dtype.startswith(("int", "uint"))
    count = max(2, min(int(numbers.max()) + 1, _MOST_CLASSES)) if whole else numbers.size // (high * wide)
    todo = "background: true if the first class is nothing, and leave it out"
    names = Entry("labels", labels(seen.facts.names, count), f"{_ORDER}; {todo}" if count > 1 else "its name")
    logits = [Entry("sigmoid", value=True)] if count == 1 and _beyond(numbers) else []
    return [[Entry("decoder", "regions"), names, *logits]], high * 8 > size[1]


def _beyond(numbers: NDArray[np.float64]) -> bool:
    """Whether numbers are not between 0 and 1, as scores are."""
    finite = numbers[np.isfinite(numbers)]
    return bool(finite.size) and not -_ROUNDING <= finite.min() <= finite.max() <= 1 + _ROUNDING


def _boxes(size: tuple[int, int], outputs: Sequence[Tensor], facts: Facts) -> Iterator[Section]:
    """Detection heads that fit the shapes."""
    for head, count, more in _heads(size, outputs, facts):
        if count < 1 or head not in HEADS:
            continue
        names = labels(facts.names, count)
        yield [
            Entry("decoder", "detection"),
            Entry("head", head, "" if "task" in facts.notes else "guessed from the shape"),
            *_labels(names, known=bool(facts.names)),
            Entry("score", 0.25 if "task" in facts.notes else 0.35),
            *more,
        ]


def _heads(
    size: tuple[int, int], outputs: Sequence[Tensor], facts: Facts
) -> Iterator[tuple[str, int, Section]]:
    shape = outputs[0].shape if outputs else ()
    points = facts.numbers("kpt_shape", 2, 64)
    if len(shape) == 3 and facts.notes.get("task") in _TASKS:
        more = (
            [Entry("keypoints", [f"point-{at}" for at in range(points[0])], "their names")] if points else []
        )
        if len(outputs) == 2 and len(outputs[1].shape) == 4:
            more = [Entry("masks", value=True)]
        count = len(facts.names) or 1
        yield ("end-to-end" if shape[2] in (6, 6 + math.prod(points or [1])) else "yolov8"), count, more
        yield "yolov8", count, more
    if len(shape) == 3 and shape[2] == 6 and shape[1] != cells(size):
        yield "end-to-end", len(facts.names) or 1, []
    if len(shape) == 4:
        yield "fastestdet", shape[1] - 5, []
    if len(outputs) == 2 and len(shape) == 3 and outputs[1].shape[-1:] == (4,):
        yield from (("ulface", shape[2] - 1, []), ("detr", shape[2], []))
    if len(shape) == 3 and shape[1] == cells(size):
        yield "yolox", shape[2] - 5, []
    if len(shape) == 3 and shape[1] == 3 * cells(size):
        yield "yolov5", shape[2] - 5, []
    if len(shape) == 3 and min(shape[1:]) > 0:
        yield "yolov8", min(shape[1:]) - 4, []
    if len(outputs) in (3, 4) and any(each.shape[-1:] == (4,) for each in outputs):
        yield "ssd", len(facts.names) or 90, []


def _scores(seen: Seen) -> Iterator[Section]:
    """Decoders of scores: classes, and outliers, whose one score is below 0."""
    scores, width, names = seen.arrays[0], seen.arrays[0].size, seen.facts.classes or seen.facts.names
    if seen.label_first and width == 1 and not names:
        yield [
            Entry("decoder", "anomaly"),
            Entry("threshold", 0, "a score of at least this is an alarm"),
            Entry("sign", -1, "outliers of scikit-learn are below 0"),
        ]
        return
    if "ArgMin" in seen.facts.operators and not names:
        return  # distances to the centres of clusters: the smallest wins
    likely = seen.size is not None or seen.label_first or seen.voice or bool(names)
    if not likely or width > _MOST_LABELS or (width == 1 and not seen.voice and len(names) != 2):
        return
    count = max(2, width)
    kind: Section = []
    if _beyond(scores):
        logits = Entry("softmax", value=True, todo="or sigmoid, for labels that do not exclude each other")
        kind = [Entry("margins", value=True) if seen.label_first else logits]
    if width == 1:
        kind = [Entry("sigmoid", value=True)] if kind else []
        kind.append(Entry("binary", value=True))
    known = len(names) == count
    yield [Entry("decoder", "classification"), *_labels(labels(names, count), known=known), *kind]


def labels(names: Sequence[str], count: int) -> list[str]:
    """`count` labels: those of the file, shown escaped and cut, or class-0, class-1, ..."""
    shown = [_label(name, at) for at, name in enumerate(names)]
    if len(shown) == count and len(set(shown)) == count and sum(map(len, shown)) < _MOST_TEXT:
        return shown
    return [f"class-{at}" for at in range(min(count, _MOST_LABELS))]


def _label(name: str, at: int) -> str:
    safe = "".join(printable(one) if category(one) in _HIDDEN else one for one in name[:_LONGEST_LABEL])
    return safe.strip()[:_LONGEST_LABEL] or f"class-{at}"


def _labels(names: list[str], *, known: bool) -> Section:
    return [Entry("labels", names, "" if known else f"{_ORDER}, or labels_file: names.txt")]
