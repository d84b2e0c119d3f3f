"""The manifest of a model package: the model's input, its output and its budgets."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from unicodedata import category

import msgspec
from msgspec import UNSET, Meta, Struct
from msgspec.structs import replace

from agent.inference import decoders, package_files, reference
from agent.inference.decoders import ModelError
from agent.inference.decoders.base import Quantity
from agent.inference.inputs import FrameInput, Input, Key, WindowInput, WindowPart
from agent.inference.model_card import CardMetric, ModelCard
from agent.inference.scene_options import LineConfig, TrackConfig, ZoneConfig
from wire import config
from wire.config import Marks, Mistake
from wire.errors import ConfigError
from wire.messages import is_id
from wire.printable import printable
from wire.topics import FIELD
from wire.yaml12 import MAX_BYTES

FILE = "manifest.yaml"
_FILES = "files"  # in `parts`: the files beside the manifest that were read
MAX_LABELS = 1_000_000  # bytes of a labels file

MAX_COUNT = 10_000  # labels
MAX_LABEL = 128  # characters of a label in a file
MAX_WINDOW = 16_000_000  # numbers of a window; the agent holds several of them
_HIDDEN = ("Cc", "Cf", "Zl", "Zp")  # Unicode's controls, invisible characters and ends of lines
_JOINERS = "\u200c\u200d"  # invisible, and needed in some languages and emoji


_Tensors = Annotated[
    list[Key],
    Meta(
        max_length=16,
        description="Names of the model's outputs that the decoder reads, in its order; if empty, all.",
    ),
]


class Budgets(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Limits that the gate checks on the machine where the model will run; 0 means no limit."""

    p99_ms: Annotated[float, Meta(ge=0, description="99 of 100 runs take at most this.")] = 0.0
    rss_mb: Annotated[float, Meta(ge=0, description="Memory that loading and running it may add.")] = 0.0


class Manifest(Struct, kw_only=True, frozen=True):
    """A checked manifest; `output` has the options of `decoder`, with the labels read from their file."""

    name: str
    version: str
    licence: str
    description: str
    file: str
    sha256: str
    input: Input
    decoder: str
    tensors: list[str] = []  # the outputs that the decoder reads, in its order; if empty, all
    output: Any
    fit_is_default: bool = False  # of a detector, where 0.1 had another default
    budgets: Budgets
    data: dict[str, Any]
    quality: dict[str, Any]
    card: ModelCard | None
    reference: reference.Reference | None = None  # of reference.json, where the package has one
    files: dict[str, str]  # name and sha256 of each file that this was read from

    @property
    def hash(self) -> str:
        """The sha256 of what this was read from."""
        return hashlib.sha256(msgspec.json.encode(sorted(self.files.items()))).hexdigest()

    @property
    def ref(self) -> str:
        """`name@version`, as in events."""
        return f"{self.name}@{self.version}"


class _Page(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The file as it is written; a word in `input` and in `output` decides which keys they may have."""

    name: Annotated[str, Meta(description="Id of the model: a-z, 0-9 and '-', 1 to 32 characters.")]
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,31}\Z", description="Its version.")]
    licence: Annotated[Key, Meta(description="SPDX identifier, or a description.")]
    description: Annotated[str, Meta(max_length=2000, description="One line that describes the model.")] = ""
    file: Annotated[Key, Meta(description="The ONNX file in this folder.")] = "model.onnx"
    sha256: Annotated[
        str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="Hash of the ONNX file: `sha256sum model.onnx`.")
    ]
    input: Annotated[dict[str, Any], Meta(description="What the model sees: kind frame or window.")]
    output: Annotated[dict[str, Any], Meta(description="How to read its outputs: decoder and its options.")]
    budgets: Annotated[Budgets, Meta(description="Limits on run time and memory.")] = Budgets()
    data: Annotated[dict[str, Any], Meta(description="What it was trained on; free form.")] = {}
    quality: Annotated[
        dict[str, Any], Meta(description="Its scores and the data they were measured on; free form.")
    ] = {}
    card: Annotated[
        ModelCard | None,
        Meta(description="What people should know; `edgebed model card` writes README.md from it."),
    ] = None


def load(folder: Path) -> Manifest:
    """Read and check `folder`/manifest.yaml.

    Raises:
        ModelError: every mistake as `file:line:col: sentence`, one per line.
    """
    name = str(folder / FILE)
    parts: dict[str, Any] = {}
    try:
        body = package_files.read(folder, FILE, MAX_BYTES)
        page = config.parse(
            config.decoded(body, name),
            _Page,
            name=name,
            folder=folder,
            check=lambda page, marks: _check(page, marks, folder, parts),
        )
    except ConfigError as error:
        raise ModelError("\n".join(printable(line, 400) for line in error.mistakes)) from error
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    spec = parts["input"]
    if isinstance(spec, FrameInput) and spec.fit is UNSET:
        fit: Literal["letterbox", "stretch"] = "letterbox" if parts["decoder"] == "detection" else "stretch"
        parts["input"] = replace(spec, fit=fit)
        parts["fit_is_default"] = fit == "letterbox"
    rest = {key: getattr(page, key) for key in page.__struct_fields__ if key not in ("input", "output")}
    files = {FILE: hashlib.sha256(body).hexdigest(), **parts.pop(_FILES, {})}
    return Manifest(**rest, **parts, files=files)


def _check(page: _Page, marks: Marks, folder: Path, parts: dict[str, Any]) -> Iterator[Mistake]:
    if not is_id(page.name):
        yield ("name",), f"{page.name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"
    kinds: dict[Any, type[FrameInput] | type[WindowInput]] = {"frame": FrameInput, "window": WindowInput}
    kind = kinds.get(page.input.get("kind")) if isinstance(page.input.get("kind"), str) else None
    if kind is None:
        yield ("input", "kind"), "must be frame or window"
    else:
        found = marks.convert(kind, "input")
        if found is not None:
            parts["input"] = found
            yield from _check_frame(found) if isinstance(found, FrameInput) else _check_window(found)
            yield from _check_reference(found, folder, parts)
    yield from _check_output(page, marks, folder, parts)


def _check_reference(found: Input, folder: Path, parts: dict[str, Any]) -> Iterator[Mistake]:
    try:
        loaded = reference.load(folder, found)
    except ModelError as error:
        yield ("input",), str(error)
        return
    if loaded is not None:
        parts["reference"], body = loaded
        parts.setdefault(_FILES, {})[reference.FILE] = hashlib.sha256(body).hexdigest()


def _check_frame(found: FrameInput) -> Iterator[Mistake]:
    for key, numbers in (("mean", found.mean), ("std", found.std)):
        if numbers and len(numbers) != found.channels:
            yield ("input", key), f"{len(numbers)} numbers for {found.channels} channels"
    if 0.0 in found.std:
        yield ("input", "std"), "0 is not allowed: the input is divided by it"
    if found.resize and found.fit != "crop":
        yield ("input", "resize"), "it belongs to fit: crop"
    elif len(found.resize) == 2 and (found.resize[0] < found.size[0] or found.resize[1] < found.size[1]):
        yield ("input", "resize"), "it must be at least as large as size, which is cut out of it"


def _check_window(found: WindowInput) -> Iterator[Mistake]:
    for at, name in enumerate(found.signals):
        if not FIELD.fullmatch(name):
            yield ("input", "signals", at), f"{name!r} is not a field name ([a-z][a-z0-9_]*)"
        elif name in found.signals[:at]:
            yield ("input", "signals", at), f"{name!r} is listed twice"
    for key, given in (("mean", found.mean), ("std", found.std)):
        if given and len(given) != len(found.signals):
            yield ("input", key), f"{len(given)} numbers for {len(found.signals)} signals"
    if found.std and min(found.std) <= 0:
        yield ("input", "std"), "must be above 0: the input is divided by it"
    numbers = found.length * len(found.signals)
    if numbers > MAX_WINDOW:
        yield ("input", "length"), f"a window of {numbers} numbers; {MAX_WINDOW} are allowed"
    yield from _check_parts(found)
    if found.hop > found.length:
        yield ("input", "hop"), f"{found.hop} rows would skip some: windows have {found.length}"


def _check_parts(found: WindowInput) -> Iterator[Mistake]:
    if bool(found.name) == bool(found.inputs):
        key = "inputs" if found.inputs else "name"
        yield ("input", key), "either name, or inputs with the name of each, must be there"
    for at, part in enumerate(found.inputs):
        for name in part.signals:
            if name not in found.signals:
                yield ("input", "inputs", at, "signals"), f"{name!r} is not one of input.signals"
        if part.rows > found.length:
            yield ("input", "inputs", at, "rows"), f"{part.rows} rows of a window of {found.length}"
    if sum(math.prod(part.dims) for part in found.parts) > MAX_WINDOW:
        yield ("input", "inputs"), f"the inputs have more than {MAX_WINDOW} numbers"
    for at, part in enumerate(found.parts):
        numbers = part.rows * len(part.signals)
        where = ("input", "inputs", at) if found.inputs else ("input",)
        if math.prod(part.dims) != numbers:
            key = "shape" if part.shape else "layout"
            yield (
                (*where, key),
                f"a tensor {list(part.dims)} does not have {numbers} numbers",
            )


def _check_output(page: _Page, marks: Marks, folder: Path, parts: dict[str, Any]) -> Iterator[Mistake]:
    word = page.output.get("decoder")
    if not isinstance(word, str) or word not in decoders.names():
        hint = config.did_you_mean(str(word), decoders.names()) if word is not None else ""
        yield ("output", "decoder"), f"{word!r} is not a decoder{hint}" if word is not None else "is missing"
        return
    try:
        decoder = decoders.load(word)
    except ModelError as error:
        yield ("output", "decoder"), str(error)
        return
    options = marks.convert(_with_word(decoder.Options, word), "output")
    if options is None:
        return
    parts["tensors"] = getattr(options, "tensors")  # noqa: B009 - of `_with_word`
    try:
        parts["output"] = found = _read_labels(options, folder, parts.setdefault(_FILES, {}))
    except ModelError as error:
        yield ("output", "labels_file"), str(error)
    else:
        yield from _check_names(found)
        yield from ((("output", *path), why) for path, why in decoder.mistakes(found))
    parts["decoder"] = word


def _check_names(options: Any) -> Iterator[Mistake]:
    """Refuse hidden characters in names: rows and events carry them to terminals, pages and files."""
    key = "labels_file" if getattr(options, "labels_file", "") else "labels"
    names = [(key, name) for name in getattr(options, "labels", ())]
    names += [("parts", name) for name in getattr(options, "parts", ())]
    for where, name in names:
        if any(category(one) in _HIDDEN and one not in _JOINERS for one in name):
            yield ("output", where), f"{name!r} has a control character or an invisible one"
            return


def _with_word(options: type[Struct], word: str) -> type[Struct]:
    """The decoder's options plus the keys of every output, which are beside them in the file."""
    return msgspec.defstruct(
        options.__name__,
        [("decoder", Literal[word], word), ("tensors", _Tensors, [])],
        bases=(options,),
        kw_only=True,
        frozen=True,
    )


def _read_labels(options: Any, folder: Path, files: dict[str, str]) -> Any:
    name = getattr(options, "labels_file", "")
    if not name:
        return options
    if options.labels:
        raise ModelError("the manifest has labels too: keep one of the two")
    body = package_files.read(folder, name, MAX_LABELS)
    files[str(PurePosixPath(name))] = hashlib.sha256(body).hexdigest()
    try:
        lines = body.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ModelError(f"{printable(name)} is not UTF-8 text: {error}") from error
    labels = [line.strip() for line in lines if line.strip()]
    if not labels or max(map(len, labels)) > MAX_LABEL:
        raise ModelError(f"{printable(name)} must have one label of 1 to {MAX_LABEL} characters per line")
    if len(labels) > MAX_COUNT:
        raise ModelError(f"{printable(name)} has {len(labels)} labels; {MAX_COUNT} are allowed")
    return replace(options, labels=labels)


@dataclass(frozen=True, slots=True)
class ManifestKey:
    """One key of a manifest, for the documentation."""

    path: str
    required: bool
    default: str
    meaning: str


def documented() -> list[ManifestKey]:
    """Every key that a manifest can have, with those of the built-in decoders."""
    found = list(_keys(_Page, ""))
    found += [
        key
        for kind in (FrameInput, WindowInput)
        for key in _keys(kind, f"input ({kind.__name__[:-5].lower()}).")
    ]
    found += list(_keys(WindowPart, "input (window).inputs.*."))
    found += list(_keys(Budgets, "budgets."))
    found += list(_keys(ModelCard, "card."))
    found += list(_keys(CardMetric, "card.metrics.*."))
    common = msgspec.defstruct("Common", [("tensors", _Tensors, [])])
    found += list(_keys(common, "output."))
    for word in decoders.BUILT_IN:
        found += _keys(decoders.load(word).Options, f"output ({word}).")
    found += _keys(Quantity, "output (regression).fields.*.")
    scene: dict[str, type[Struct]] = {"track": TrackConfig, "zones.*": ZoneConfig, "lines.*": LineConfig}
    for key, part in scene.items():
        found += _keys(part, f"output (detection).{key}.")
    return found


def _keys(kind: type[Struct], prefix: str) -> Iterator[ManifestKey]:
    info = msgspec.json.schema_components([kind])[1][kind.__name__]
    for name, rule in info["properties"].items():
        default = "" if "default" not in rule else re.sub(r"\s+", " ", str(rule["default"]))
        yield ManifestKey(
            prefix + name, name in info.get("required", []), default, rule.get("description", "")
        )
