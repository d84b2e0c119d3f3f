"""Writes a first manifest for an ONNX file: what it shows, and TODO for what only its maker knows."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agent.inference import decoders, gate_process, golden, manifest, package_files
from agent.inference.decoders import ModelError, Tensor
from agent.inference.feeds import Feeds
from agent.inference.inputs import FrameInput, Input, WindowInput
from agent.inference.outputs import Outputs, is_label
from agent.inference.package import MAX_MODEL
from agent.inference.session import open_file, run
from agent.inference.tensors import NUMBERS, tensor
from edgebed.model_tools import draft_inputs, draft_outputs, facts, test_data
from edgebed.model_tools.child import ask
from edgebed.model_tools.draft_outputs import Seen
from edgebed.model_tools.manifest_text import Entry, lines, plain
from wire.errors import ConfigError, unwritable
from wire.printable import printable
from wire.reasons import Reason

_LONGEST = 256  # characters of a name in a manifest
_LONGEST_LINE = 40_000  # characters of a line of a draft: a thousand names
_MOST_NUMBERS = 64  # of an input whose value in the test data becomes a constant
_WALL_S = 90.0


class Draft(Struct):
    """A draft, or why there is none; and how test data become golden vectors of its package."""

    text: str = ""
    why: str = ""
    takes: int = -1  # the number of the one input that a picture or a window fills; -1: there are several
    shape: list[int] = []  # of its tensor
    window: list[int] = []  # rows and signals, if a vector holds the window instead of the tensor
    fixed: dict[int, Any] = {}  # what the other inputs get, by their numbers
    reads: list[int] = []  # the numbers of the outputs that the decoder reads


def draft_in_child(file: Path, known: Mapping[int, Any] | None = None) -> Draft:
    """`draft` in a child process with the limits of the gate: onnxruntime loads a file that may be hostile.

    Raises:
        ModelError: as `draft`; or the child crashed, or needed too much time or memory.
    """
    arguments = [str(file), msgspec.json.encode(known or {}).decode()]
    found = ask(__name__, arguments, _WALL_S, Draft, f"{file}: ", "no draft could be made of it")
    found.text = "\n".join(printable(line, _LONGEST_LINE) for line in found.text.split("\n"))
    return found


def main(arguments: Sequence[str]) -> None:
    """`python -m edgebed.model_tools.draft ... FILE KNOWN`, as `gate_process.run` starts it."""

    def work(rest: Sequence[str]) -> bytes:
        try:
            return msgspec.json.encode(
                draft(Path(rest[0]), msgspec.json.decode(rest[1], type=dict[int, Any]))
            )
        except ModelError as error:
            raise ModelError(str(error).removeprefix(f"{rest[0]}: ")) from error

    def refused(reason: Reason) -> bytes:
        return msgspec.json.encode(Draft(why=reason.why))

    gate_process.answer(arguments, work, refused)


def draft(file: Path, known: Mapping[int, Any] | None = None) -> Draft:
    """A draft for the folder of `file`; `known` has the values of small inputs in test data, by number.

    Raises:
        ModelError: the file cannot be loaded, or has inputs or outputs that no manifest describes.
    """
    try:
        body = package_files.read_file(file, MAX_MODEL)
        if not file.name.isprintable() or len(file.name) > _LONGEST:
            raise ModelError(
                "a manifest can name files, without control characters and invisible ones, and inputs of "
                f"up to {_LONGEST} characters: rename it"
            )
        session = open_file(body)
        return _Drafting(file, body, session, known or {}).run()
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from error


class _Drafting:
    """The steps from a session to a draft."""

    def __init__(self, file: Path, body: bytes, session: Any, known: Mapping[int, Any]) -> None:
        self._name, self._sha256, self._session = file.name, hashlib.sha256(body).hexdigest(), session
        # every package has a model.onnx: its folder has the name
        self._id = file.stem if file.name != "model.onnx" else file.resolve().parent.name
        self._facts = facts.read(body)
        self._nodes = session.get_outputs()
        self._inputs = [tensor(each) for each in session.get_inputs()]
        self._known = {each.name: known[at] for at, each in enumerate(self._inputs) if at in known}

    def run(self) -> Draft:
        """The draft with the first input that runs, and the first output that reads what it gives."""
        why: ModelError | None = None
        outputs = [tensor(each) for each in self._nodes]
        for section in draft_inputs.candidates(self._inputs, outputs, self._facts, self._known):
            spec = _spec(section)
            try:
                feeds = Feeds(spec, self._session.get_inputs())
                buffers = feeds.buffers()
                buffers.fill(_noise(spec, whole=feeds.whole))
                names = [each.name for each in self._nodes]
                given = dict(zip(names, run(self._session, names, buffers.feed), strict=True))
            except ModelError as error:
                why = why or error
                continue
            output, reads = self._output(spec, given, feeds)
            return self._draft(section, output, spec, feeds, reads)
        raise why or ModelError("it has no input")

    def _output(self, spec: Input, given: Mapping[str, Any], feeds: Feeds) -> tuple[list[Entry], list[int]]:
        state = list(spec.state.values()) if isinstance(spec, WindowInput) else []
        why = ""
        seen, named = self._seen(spec, given, state)
        for section in draft_outputs.candidates(seen):
            own = named or ([each.name for each in seen.tensors] if seen.label_first else [])
            tensors = [Entry("tensors", own)] if named or (own and section[0].value == "regression") else []
            whole = [section[0], *tensors, *section[1:]]
            try:
                outputs = self._checked(whole, spec, given, feeds, state)
            except ModelError as error:
                why = why or str(error)
                continue
            names = [each.name for each in self._nodes]
            return whole, [names.index(each.name) for each in outputs]
        shown = ", ".join(str(tensor(each)) for each in self._nodes[:8])
        raise ModelError(f"no decoder reads its outputs ({shown}){f': {why}' if why else ''}")

    def _seen(self, spec: Input, given: Mapping[str, Any], state: Sequence[str]) -> tuple[Seen, list[str]]:
        """What the decoders may read, and the names of those outputs if they are not all."""
        nodes = [each for each in self._nodes if each.name not in state]
        label_first = len(nodes) > 1 and is_label(nodes[0])
        rest = nodes[1:] if label_first else nodes
        usable = [each for each in rest if each.type in NUMBERS and given[each.name].size]
        maps = [each for each in rest if each.type.startswith("seq(map(") and given[each.name]]
        classes = [str(key) for key in sorted(given[maps[0].name][0])] if maps else []
        arrays = [np.asarray(given[each.name], np.float64) for each in usable]
        tensors = [
            Tensor(each.name, tensor(each).dtype, array.shape)
            for each, array in zip(usable, arrays, strict=True)
        ]
        named = [each.name for each in (usable or maps[:1])] if len(usable) + len(maps) < len(rest) else []
        size = spec.size if isinstance(spec, FrameInput) else None
        voice, window = False, list[int]()
        if isinstance(spec, WindowInput):
            voice = bool(state) and len(spec.signals) == 1
            window = list(spec.parts[0].dims) if len(spec.parts) == 1 else []
        return Seen(self._facts, size, tensors, arrays, classes, label_first, voice, tuple(window)), named

    def _checked(
        self,
        section: Sequence[Entry],
        spec: Input,
        given: Mapping[str, Any],
        feeds: Feeds,
        state: Sequence[str],
    ) -> list[Tensor]:
        """The outputs that the decoder of a section reads.

        Raises:
            ModelError: it cannot have been made for what the model gave.
        """
        asked = plain(section)
        word, names = asked.pop("decoder"), asked.pop("tensors", [])
        kind = decoders.load(word)
        try:
            options = msgspec.convert(asked, kind.Options)
        except msgspec.ValidationError as error:
            raise ModelError(str(error)) from error
        outputs = Outputs(self._nodes, names, word, list(state))
        listed = [given[name] for name in outputs.names]
        outputs.learn(listed, getattr(options, "labels", ()))
        tensors = [*feeds.filled, *outputs.tensors] if kind.reads_input else outputs.tensors
        decoder = kind(options, tensors, spec.size if isinstance(spec, FrameInput) else None)
        decoder.attach(spec)
        if why := decoder.doubt(outputs.arrays(listed)[0]):
            raise ModelError(why)
        return outputs.tensors

    def _draft(
        self, section: Sequence[Entry], output: Sequence[Entry], spec: Input, feeds: Feeds, reads: list[int]
    ) -> Draft:
        notes = self._facts.notes
        stem = re.sub(r"[^a-z0-9]+", "-", self._id.lower()).strip("-")[:32].strip("-")
        version = notes.get("model_version", "1.0.0")
        shown = [", ".join(map(str, each[:8])) for each in (self._inputs, [tensor(n) for n in self._nodes])]
        top = [
            Entry("name", stem or "model"),
            Entry(
                "version", version if re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}", version) else "1.0.0"
            ),
            Entry("licence", printable(notes.get("license") or "unknown", 200), "the model's licence"),
            Entry("description", printable(notes.get("description", ""), 400), "one line"),
            Entry("file", self._name),
            Entry("sha256", self._sha256),
        ]
        text = [
            f"# input {shown[0]}; output {shown[1]}",
            *([f"# written by {self._facts.producer}"] if self._facts.producer else []),
            *lines(top, ""),
            "input:",
            *lines(section),
            "output:",
            *lines(output),
            "",
        ]
        found = Draft(text="\n".join(text), reads=reads)
        if len(feeds.filled) == 1:
            names = [each.name for each in self._inputs]
            found.takes, found.shape = names.index(feeds.filled[0].name), list(feeds.filled[0].shape)
            if isinstance(spec, WindowInput) and len(found.shape) < 3:
                found.window = [spec.length, len(spec.signals)]
            fixed = {**spec.constants, **dict.fromkeys(feeds.initial, 0)}
            found.fixed = {names.index(name): value for name, value in fixed.items()}
        return found


def _spec(section: Sequence[Entry]) -> Input:
    asked = plain(section)
    try:
        if asked["kind"] == "frame":
            return msgspec.convert({"fit": "stretch", **asked}, FrameInput)
        return msgspec.convert(asked, WindowInput)
    except msgspec.ValidationError as error:
        raise ModelError(f"no manifest describes its inputs: {printable(error)}") from error


def _noise(spec: Input, *, whole: bool) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    if isinstance(spec, FrameInput):
        return rng.integers(0, 256, (spec.size[1], spec.size[0], 3), dtype=np.uint8)
    if spec.length * len(spec.signals) > manifest.MAX_WINDOW:
        raise ModelError(f"it takes more than {manifest.MAX_WINDOW} numbers at a time")
    window = rng.normal(size=(spec.length, len(spec.signals))).astype(np.float32)
    return np.abs(window) if whole else window


# -- a folder ------------------------------------------------------------------------------------------------


def draft_folder(folder: Path, *, force: bool) -> list[str]:
    """Write the draft of the ONNX file in `folder`, and its test data as golden vectors; return the names.

    Raises:
        ModelError: as `draft`, or there is not one ONNX file.
        ConfigError: a file is there already.
    """
    found = package_files.entries(folder, ".", ".onnx")
    if len(found) != 1:
        raise ModelError(f"{folder} has {len(found)} files that end in .onnx: name the one to draft")
    sets = test_data.sets(folder)
    inputs = {name: test_data.tensors(folder, name, "input") for name in sets}
    known = {
        at: array.tolist()
        for at, array in (inputs[sets[0]].items() if sets else ())
        if array.size <= _MOST_NUMBERS and array.ndim < 2
    }
    made = draft_in_child(folder / found[0], known)
    files: dict[str, bytes] = {}
    skipped = []
    for name in sets:
        vector = _vector(made, inputs[name], test_data.tensors(folder, name, "output"))
        if isinstance(vector, str):
            skipped.append(f"# {name} gave no golden vector: {vector}")
        else:
            files[f"{golden.FOLDER}/{name}.npz"] = vector
    files[manifest.FILE] = "\n".join([*skipped, made.text]).encode()
    _write(folder, files, force=force)
    return sorted(files)


def _vector(
    made: Draft, inputs: Mapping[int, NDArray[Any]], outputs: Mapping[int, NDArray[Any]]
) -> bytes | str:
    """A golden vector of a data set, or why there is none."""
    given = inputs.get(made.takes)
    if given is None:
        return "a vector holds one input, and the model has several" if made.takes < 0 else "it has no input"
    if list(given.shape) != made.shape:
        return f"its input is {list(given.shape)}, not {made.shape}"
    for at, wanted in made.fixed.items():
        if at in inputs and not np.array_equal(inputs[at], np.broadcast_to(wanted, inputs[at].shape)):
            return f"its input {at} is not what the manifest gives it"
    if missing := [at for at in made.reads if at not in outputs]:
        return f"its output {missing[0]} is missing, or not a tensor of numbers"
    arrays: dict[str, Any] = {f"output_{at}": outputs[number] for at, number in enumerate(made.reads)}
    file = io.BytesIO()
    np.savez_compressed(file, input=given.reshape(made.window) if made.window else given, **arrays)
    return file.getvalue()


def _write(folder: Path, files: Mapping[str, bytes], *, force: bool) -> None:
    if (folder / golden.FOLDER).is_symlink():
        raise ConfigError(f"{folder / golden.FOLDER} is a link, and nothing is written through it: remove it")
    there = [name for name in files if (folder / name).is_symlink() or (folder / name).exists()]
    if there and not force:
        raise ConfigError(f"{folder / there[0]} is there already: --force replaces it")
    for name, body in files.items():
        try:
            (folder / name).parent.mkdir(exist_ok=True)
            if name in there:
                (folder / name).unlink()
            with (folder / name).open("xb") as file:
                file.write(body)
        except OSError as error:
            raise unwritable(str(folder / name), error) from error


if __name__ == "__main__":
    main(sys.argv[1:])
