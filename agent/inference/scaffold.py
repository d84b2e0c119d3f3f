"""Writes a first manifest for an ONNX file: what its tensors show, and TODO for what only its maker knows."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.inference.decoders import ModelError, Tensor
from agent.inference.session import signature

_ASK = "# TODO:"


def draft(file: Path) -> str:
    """The text of a manifest.yaml for the folder of `file`; lines with TODO are guesses.

    Raises:
        ModelError: the file cannot be loaded, or does not have exactly one input.
    """
    inputs, outputs = signature(file)
    if len(inputs) != 1:
        raise ModelError(
            f"{file}: a model with one input is needed, this one has {', '.join(map(str, inputs))}"
        )
    tensor = inputs[0]
    frame = len(tensor.shape) == 4
    stem = "".join(c if c.isalnum() else "-" for c in file.stem.lower()).strip("-")[:32] or "model"
    lines = [
        f"# input {tensor}; output {', '.join(map(str, outputs))}",
        f"name: {stem}",
        "version: 1.0.0",
        f"licence: unknown {_ASK} the model's licence",
        f"file: {file.name}",
        f'sha256: "{hashlib.sha256(file.read_bytes()).hexdigest()}"',
        "input:",
        *(_frame(tensor) if frame else _window(tensor)),
        "output:",
        *(_boxes(tensor, outputs) if frame else _numbers(outputs, frame=False)),
        "",
    ]
    return "\n".join(lines)


def _frame(tensor: Tensor) -> list[str]:
    _, a, b, c = tensor.shape
    nhwc = c in (1, 3) and a not in (1, 3)
    channels, high, wide = (c, a, b) if nhwc else (a, b, c)
    size = f"[{_known(wide, 640)}, {_known(high, 480)}]"
    return [
        "  kind: frame",
        f"  name: {tensor.name}",
        f"  size: {size}"
        + (f" {_ASK} any size works, use the size of the training" if -1 in (high, wide) else ""),
        f"  colour: {'grey' if channels == 1 else 'rgb'} {_ASK} rgb or bgr",
        f"  scale: 255 {_ASK} x = (pixel / scale - mean) / std; YOLOX uses scale 1",
        f"  fit: letterbox {_ASK} letterbox or stretch, as in the training",
        *(["  layout: nhwc"] if nhwc else []),
    ]


def _window(tensor: Tensor) -> list[str]:
    dims = tensor.shape[1:]
    length, signals = (
        (_known(dims[0], 100), _known(dims[1], 1)) if len(dims) == 2 else (1, _known(dims[0], 1))
    )
    names = ", ".join(f"signal_{i + 1}" for i in range(min(signals, 1024)))
    return [
        "  kind: window",
        f"  name: {tensor.name}",
        f"  signals: [{names}] {_ASK} fields of the stream, in the model's order",
        f"  rate_hz: 1 {_ASK} rows per second",
        f"  length: {length} {_ASK} rows in a window; if signals come first, layout: signal-time",
        f"  hop: {length} {_ASK} rows from one window to the next",
        *(["  layout: flat"] if len(dims) == 1 else []),
    ]


def _boxes(tensor: Tensor, outputs: list[Tensor]) -> list[str]:
    """A detection head that fits the shapes of the outputs, else a classification."""
    shape = outputs[0].shape
    found = None
    if len(shape) == 4 and shape[1] > 5:
        found = ("fastestdet", shape[1] - 5)
    elif len(outputs) == 2 and outputs[1].shape[-1:] == (4,) and len(shape) == 3:
        found = ("ulface", shape[2] - 1)
    elif len(shape) == 3 and shape[1] > 0 and shape[1] == _cells(tensor) and shape[2] > 5:
        found = ("yolox", shape[2] - 5)
    elif len(shape) == 3 and min(shape[1:]) > 4:
        found = ("yolov8", min(shape[1:]) - 4)
    if found is None:
        return _numbers(outputs, frame=True)
    head, classes = found
    return [
        "  decoder: detection",
        f"  head: {head} {_ASK} guessed from the shape",
        f"  labels: [{_labels(classes)}] {_ASK} in the model's order, or labels_file: names.txt",
        "  score: 0.35",
    ]


def _numbers(outputs: list[Tensor], *, frame: bool) -> list[str]:
    width = max(1, outputs[0].shape[-1] if outputs[0].shape else 1)
    if frame:
        return [
            "  decoder: classification",
            f"  labels: [{_labels(width)}] {_ASK} in order",
            "  softmax: true",
        ]
    fields = ", ".join(f"value_{i + 1}: {{unit: '1', dec: 3}}" for i in range(min(width, 256)))
    return [f"  decoder: regression {_ASK} or classification, anomaly", f"  fields: {{{fields}}}"]


def _cells(tensor: Tensor) -> int:
    high, wide = tensor.shape[-2:]
    return sum((high // stride) * (wide // stride) for stride in (8, 16, 32))


def _labels(count: int) -> str:
    return ", ".join(f"class-{i}" for i in range(min(count, 1000)))


def _known(dim: int, fallback: int) -> int:
    return dim if dim > 0 else fallback
