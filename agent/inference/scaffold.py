"""Writes a first manifest for an ONNX file: what its tensors show, and TODO for what only its maker knows."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.inference import gate_process
from agent.inference.decoders import ModelError, Tensor
from agent.inference.decoders.heads.base import cells
from agent.inference.decoders.heads.table import is_end_to_end
from agent.inference.package import MAX_MODEL
from agent.inference.package_files import read_file
from agent.inference.session import signature
from wire.printable import printable
from wire.reasons import Reason

_ASK = "# TODO:"
_LONGEST = 256  # characters of a name in a manifest
_LONGEST_LINE = 40_000  # characters of a line of a draft: a thousand names
_WALL_S = 90.0


class _Draft(Struct):
    """What the child gives: the draft, or why there is none."""

    text: str = ""
    why: str = ""


def draft_in_child(file: Path) -> str:
    """`draft` in a child process with the limits of the gate: onnxruntime loads a file that may be hostile.

    Raises:
        ModelError: as `draft`; or the child crashed, or needed too much time or memory.
    """
    done = gate_process.run([str(file)], _WALL_S, threading.Event(), __name__)
    if done.failure is not None:
        raise ModelError(f"{file}: {done.failure.why}").coded(done.failure.code, **done.failure.args)
    try:
        found = msgspec.json.decode(done.report, type=_Draft)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{file}: no draft could be made of it: {printable(error)}") from error
    if found.why:
        raise ModelError(f"{file}: {printable(found.why, 1000)}")
    return "\n".join(printable(line, _LONGEST_LINE) for line in found.text.split("\n"))


def main(arguments: Sequence[str]) -> None:
    """`python -m agent.inference.scaffold ... FILE`, as `gate_process.run` starts it."""

    def work(rest: Sequence[str]) -> bytes:
        try:
            return msgspec.json.encode(_Draft(draft(Path(rest[0]))))
        except ModelError as error:
            raise ModelError(str(error).removeprefix(f"{rest[0]}: ")) from error

    def refused(reason: Reason) -> bytes:
        return msgspec.json.encode(_Draft(why=reason.why))

    gate_process.answer(arguments, work, refused)


def draft(file: Path) -> str:
    """The text of a manifest.yaml for the folder of `file`; lines with TODO are guesses.

    Raises:
        ModelError: the file cannot be loaded, does not have exactly one input, or has outputs that no decoder
            reads.
    """
    try:
        body = read_file(file, MAX_MODEL)
        inputs, outputs = signature(body)
        if len(inputs) != 1:
            raise ModelError(
                f"a model with one input is needed, this one has {', '.join(map(str, inputs[:8]))}"
            )
        if not file.name.isprintable() or len(file.name) > _LONGEST or len(inputs[0].name) > _LONGEST:
            raise ModelError(
                "a manifest can name files, without control characters and invisible ones, and inputs of "
                f"up to {_LONGEST} characters: rename it"
            )
        return _manifest(file.name, hashlib.sha256(body).hexdigest(), inputs[0], outputs)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


def _manifest(file: str, sha256: str, tensor: Tensor, outputs: list[Tensor]) -> str:
    frame = len(tensor.shape) == 4
    stem = re.sub(r"[^a-z0-9]+", "-", file.removesuffix(".onnx").lower()).strip("-")[:32].strip("-")
    lines = [
        f"# input {tensor}; output {', '.join(map(str, outputs[:8]))}",
        f"name: {quoted(stem or 'model')}",
        "version: 1.0.0",
        f"licence: unknown {_ASK} the model's licence",
        f"file: {quoted(file)}",
        f"sha256: {quoted(sha256)}",
        "input:",
        *(_frame(tensor) if frame else _window(tensor)),
        "output:",
        *(_boxes(tensor, outputs) if frame else _numbers(outputs, frame=False)),
        "",
    ]
    return "\n".join(lines)


def quoted(text: str) -> str:
    """The text as a YAML scalar in double quotes, which every YAML reader reads as this very text."""
    return '"' + "".join(_escaped(one) for one in text) + '"'


def _escaped(one: str) -> str:
    if one in '"\\':
        return "\\" + one
    code = ord(one)
    if one.isprintable() and code <= 0xFFFF:
        return one
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _frame(tensor: Tensor) -> list[str]:
    _, a, b, c = tensor.shape
    nhwc = c in (1, 3) and a not in (1, 3)
    channels, high, wide = (c, a, b) if nhwc else (a, b, c)
    size = f"[{_known(wide, 640)}, {_known(high, 480)}]"
    return [
        "  kind: frame",
        f"  name: {quoted(tensor.name)}",
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
        f"  name: {quoted(tensor.name)}",
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
    if is_end_to_end(outputs[0], (_known(tensor.shape[-1], 640), _known(tensor.shape[-2], 480))):
        found = ("end-to-end", 1)
    elif len(shape) == 4 and shape[1] > 5:
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
    return cells((tensor.shape[-1], tensor.shape[-2]))


def _labels(count: int) -> str:
    return ", ".join(f"class-{i}" for i in range(min(count, 1000)))


def _known(dim: int, fallback: int) -> int:
    return dim if dim > 0 else fallback


if __name__ == "__main__":
    main(sys.argv[1:])
