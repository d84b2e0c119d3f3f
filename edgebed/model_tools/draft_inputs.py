"""Guesses the `input` of a manifest from a model's inputs: the picture or window, constants and state."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.inference.decoders import ModelError, Tensor
from agent.inference.feeds import require_usable
from edgebed.model_tools.facts import Facts
from edgebed.model_tools.manifest_text import Entry

_MANY = 8  # tensors that a sentence lists
_SIGNALS = 1024  # that a window can have
_ROW = 32  # numbers that are rather a row of signals than rows of one signal
_SIDES = (8, 4096)  # of a picture
RATES = ("sr", "sample_rate", "sampling_rate", "fs")
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# what a model calls an input and the output that it gets next, without these words
_HIDDEN = re.compile(
    r"(?:h|c|hx|cx|hidden|cell|state|memory)[_.]?[0n]?"
)  # names of a state whose output has another
_STATE_WORDS = re.compile(r"(?:^|_)(?:in|out|input|output|new|next|prev|old|last)(?=_|$)|[n0N_]+$|_?new$")

Section = list[Entry]


def candidates(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], facts: Facts, known: Mapping[str, Any]
) -> Iterator[Section]:
    """What the manifest's input may be, the likeliest first; `known` has the values of small inputs.

    Raises:
        ModelError: no manifest describes these inputs.
    """
    for each in inputs:
        require_usable(each)
        if len(each.name) > 256:
            raise ModelError("a manifest can name inputs of up to 256 characters: rename it")
    state = states(inputs, outputs)
    rest = [each for each in inputs if each.name not in state]
    pictures = [each for each in rest if _is_picture(each)]
    if len(pictures) == 1:
        constants = _constants([each for each in rest if each is not pictures[0]], known)
        yield from _frames(pictures[0], outputs, facts, constants)
        return
    fixed = [each for each in rest if _is_constant(each) and len(rest) > 1]
    filled = [each for each in rest if each not in fixed]
    if not filled:
        raise ModelError(
            f"no input takes a picture or a window: it has {', '.join(map(str, inputs[:_MANY]))}"
        )
    for each in filled:
        if each.shape and each.shape[0] > 1 and len(each.shape) > 1:
            raise ModelError(f"its input {each} takes {each.shape[0]} at a time: export it with a batch of 1")
    ends = [*([Entry("constants", _constants(fixed, known))] if fixed else [])]
    if state:
        alike = all(_is_next(given, output) for given, output in state.items())
        ends.append(
            Entry(
                "state", state, "" if alike else "guessed from shapes: input to the output that it gets next"
            )
        )
    one_signal = all(len(each.shape) < 3 or 1 in each.shape[1:] for each in filled)
    sound = (bool(state) and one_signal) or any(each.name.lower() in RATES for each in fixed)
    for open_length in (512, 576, 1600, 100, 1) if sound else (100, 1, 16, 256, 16_000):
        if len(filled) == 1:
            yield [Entry("kind", "window"), *_window(filled[0], open_length, sound=sound), *ends]
        else:
            yield [Entry("kind", "window"), *_parts(filled, open_length), *ends]
        if all(-1 not in each.shape[1:] for each in filled):
            return


def states(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    """Inputs that get the value of an output in the next run, by their names, types and shapes."""
    found: dict[str, str] = {}
    if len(inputs) < 2 or len(outputs) < 2:
        return found
    for each in inputs:
        for output in outputs:
            names = output.name not in found.values() and _is_next(each.name, output.name)
            if names and each.dtype == output.dtype and _alike(each.shape, output.shape):
                found[each.name] = output.name
                break
    return found or _hidden(inputs, outputs)


def _hidden(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, str]:
    """The same where only the inputs have the names of a state: torch calls its outputs getitem_1, ..."""
    hidden = [each for each in inputs if _HIDDEN.fullmatch(each.name.lower()) and len(each.shape) > 1]
    last = outputs[len(outputs) - len(hidden) :]
    fit = all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(hidden, last, strict=False))
    if not 0 < len(hidden) < min(len(inputs), len(outputs)) or not fit:
        return {}
    return {a.name: b.name for a, b in zip(hidden, last, strict=True)}


def _is_next(given: str, output: str) -> bool:
    a, b = given.lower(), output.lower()
    short, other = _STATE_WORDS.sub("", a), _STATE_WORDS.sub("", b)
    return a != b and ((bool(short) and short == other) or (len(a) > 2 and (a in b or b in a)))


def _alike(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return (len(a) == len(b) or not b) and all(x == y or -1 in (x, y) for x, y in zip(a, b, strict=False))


def _is_constant(each: Tensor) -> bool:
    """Whether an input is a setting, as a sample rate: one whole number, or one number without dimensions."""
    single = all(dim in (1, -1) for dim in each.shape) and len(each.shape) < 2
    return single and (each.dtype.startswith(("int", "uint", "bool")) or not each.shape)


def _constants(tensors: Sequence[Tensor], known: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in tensors:
        if each.name in known:
            found[each.name] = known[each.name]
        elif each.name.lower() in RATES:
            found[each.name] = 16_000
        else:
            found[each.name] = True if each.dtype == "bool" else 1
    return found


def _is_picture(each: Tensor) -> bool:
    if len(each.shape) != 4 or each.shape[0] > 1:
        return False
    _, a, b, c = each.shape
    high, wide = (b, c) if _channels(each) == a else (a, b)
    sides = all(dim == -1 or _SIDES[0] <= dim <= _SIDES[1] for dim in (high, wide))
    return _channels(each) in (1, 3, -1) and sides and (a, b, c) != (-1, -1, -1)


def _channels(each: Tensor) -> int:
    _, a, _, c = each.shape
    return a if a in (1, 3) or c not in (1, 3) else c


def _frames(
    each: Tensor, outputs: Sequence[Tensor], facts: Facts, constants: dict[str, Any]
) -> Iterator[Section]:
    _, a, b, c = each.shape
    nhwc = c in (1, 3) and a not in (1, 3)
    channels, high, wide = (c, a, b) if nhwc else (a, b, c)
    boxes = any(len(output.shape) > 2 for output in outputs)
    said = facts.numbers("imgsz", 2, _SIDES[1])
    sizes = [tuple(reversed(said))] if said else []
    sizes += [(640, 640), (416, 416), (320, 320), (224, 224)] if boxes else [(224, 224), (256, 256), (32, 32)]
    ultralytics = "task" in facts.notes
    for size in sizes:
        picked = [wide if wide > 0 else size[0], high if high > 0 else size[1]]
        is_open = -1 in (high, wide) and not said
        section = [
            Entry("kind", "frame"),
            Entry("name", each.name),
            Entry("size", picked, "any size works, use the size of the training" if is_open else ""),
            *_pixels(each, channels, ultralytics=ultralytics, boxes=boxes),
        ]
        if nhwc:
            section.append(Entry("layout", "nhwc"))
        if constants:
            section.append(Entry("constants", constants, "inputs that are always the same"))
        yield section
        if -1 not in (high, wide):
            return


def _pixels(each: Tensor, channels: int, *, ultralytics: bool, boxes: bool) -> Section:
    """How pixels become numbers: as Ultralytics, as ImageNet's classifiers, or unknown."""
    grey = channels == 1
    if ultralytics:
        fit = "letterbox" if boxes else "crop"
        return [Entry("colour", "grey" if grey else "rgb"), Entry("scale", 255), Entry("fit", fit)]
    colour = Entry("colour", "grey" if grey else "rgb", "" if grey else "rgb or bgr")
    scale = Entry("scale", 255, "x = (pixel / scale - mean) / std; YOLOX uses scale 1")
    if not each.dtype.startswith("float"):
        scale = Entry("scale", 1)
    if boxes or grey or not each.dtype.startswith("float"):
        return [colour, scale, Entry("fit", "letterbox" if boxes else "stretch", "as in the training")]
    numbers = [Entry(key, value, "those of ImageNet") for key, value in _IMAGENET.items()]
    return [colour, Entry("scale", 255), *numbers, Entry("fit", "crop", "as in the training")]


def _window(each: Tensor, open_length: int, *, sound: bool) -> Section:
    rows, signals, layout = _arranged(each, open_length, sound=sound)
    names = ["sound"] if sound and signals == 1 else [f"signal_{at + 1}" for at in range(signals)]
    section = [
        Entry("name", each.name),
        Entry("signals", names, "fields of the stream, in the model's order"),
        Entry("rate_hz", 16_000 if sound else 1, "rows per second"),
        Entry("length", rows, "rows in a window"),
        Entry("hop", rows, "rows from one window to the next"),
    ]
    return section + layout


def _arranged(each: Tensor, open_length: int, *, sound: bool) -> tuple[int, int, Section]:
    """Rows, signals, and the layout or shape that puts them into the tensor."""
    dims = each.shape[1:] if len(each.shape) > 1 else each.shape
    if len(each.shape) == 3:
        a, b = dims
        todo = "or time-signal: [1, rows, signals]" if b > a > 0 else ""
        one_row = a == 1 and 0 < b <= _ROW
        if not one_row and 0 < a <= _SIGNALS and (a < b or b == -1 or b > _SIGNALS):
            return _known(b, open_length), a, [Entry("layout", "signal-time", todo)]
        return _known(a, open_length), min(_known(b, 1), _SIGNALS), [Entry("layout", "time-signal")]
    if not each.shape:
        return 1, 1, [Entry("layout", "scalar")]
    if len(each.shape) <= 2:
        count = _known(dims[0], open_length if sound else 4)
        layout = [Entry("layout", "flat")] if len(each.shape) == 2 else [Entry("shape", [count])]
        if sound or count > _SIGNALS:
            return count, 1, layout
        return 1, count, layout
    shape = [1, *(_known(dim, open_length) for dim in dims)]
    return math.prod(shape), 1, [Entry("shape", shape, "rows in the order of the tensor's numbers")]


def _parts(filled: Sequence[Tensor], open_length: int) -> Section:
    """Several inputs, each with signals of its own that are named after it."""
    signals: list[str] = []
    parts, most = [], 1
    for at, each in enumerate(filled):
        rows, count, layout = _arranged(each, open_length, sound=False)
        stem = re.sub(r"[^a-z0-9]+", "_", each.name.lower()).strip("_")[:32]
        stem = stem if re.match("[a-z]", stem) else f"input_{at + 1}"
        own = [stem] if count == 1 else [f"{stem}_{number + 1}" for number in range(count)]
        if set(own) & set(signals):
            own = [f"input_{at + 1}_{number + 1}" for number in range(count)]
        signals += own
        most = max(most, rows)
        parts.append(
            {"name": each.name, "signals": own, "rows": rows, **{one.key: one.value for one in layout}}
        )
    if len(signals) > _SIGNALS:
        raise ModelError(f"its inputs take {len(signals)} signals; {_SIGNALS} are allowed")
    return [
        Entry("signals", signals, "fields of the stream"),
        Entry("rate_hz", 1, "rows per second"),
        Entry("length", most, "rows in a window"),
        Entry("hop", most, "rows from one window to the next"),
        Entry("inputs", parts, "what each input sees of the window"),
    ]


def _known(dim: int, fallback: int) -> int:
    return dim if dim > 0 else fallback
