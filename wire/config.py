"""Read YAML files into msgspec structs; report every mistake in one pass as `file:line:col: sentence`."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, UnsetType

from wire import shipped
from wire.errors import ConfigError
from wire.yaml12 import MAX_BYTES, Node, Place, YamlMistake, compose

MAX_MISTAKES = 100  # a longer list does not help the reader

T = TypeVar("T", bound=Struct)
V = TypeVar("V")
KeyPath = tuple[str | int, ...]
Mistake = tuple[KeyPath, str]
Check = Callable[[T, "Marks"], Iterable[Mistake]]


def load(path: Path, kind: type[T], check: Check[T] | None = None, *, folder: Path | None = None) -> T:
    """Read one YAML file as a `kind`. A relative `Path` in it starts at `folder`, by default the file's own.

    `check` adds the mistakes that types cannot express, each with the keys that lead to it. It also runs
    when types were wrong: values that could not be read are then replaced by harmless placeholders, and
    mistakes that `check` finds in a placeholder are dropped.

    Raises:
        ConfigError: the file cannot be read or contains mistakes; the error lists all of them.
    """
    return parse(read(path), kind, name=str(path), folder=folder or path.parent, check=check)


def keys(path: Path) -> frozenset[str]:
    """The keys at the top of a YAML file, to find out what it is; none where it cannot be read."""
    try:
        return frozenset(compose(read(path))[0].keys)
    except (ConfigError, YamlMistake):
        return frozenset()


def plain(text: str) -> dict[str, Any]:
    """The values of a config's text that `parse` accepted."""
    found: dict[str, Any] = compose(text)[0].plain()
    return found


def value_at(path: Path, kind: type[V], *keys: str) -> V | None:
    """The value at `keys` of a YAML file, whatever is wrong elsewhere in it; None where it cannot be read."""
    try:
        root, _ = compose(read(path))
    except (ConfigError, YamlMistake):
        return None
    marks = Marks(str(path), path.parent, root)
    return marks.convert(kind, *keys) if marks.has(*keys) else None


def parse(text: str, kind: type[T], *, name: str, folder: Path, check: Check[T] | None = None) -> T:
    """Like `load`, for text instead of a file; `name` is printed in front of each mistake.

    Raises:
        ConfigError: the text contains mistakes; the error lists all of them.
    """
    try:
        root, found = compose(text)
    except YamlMistake as mistake:
        raise ConfigError(_line(name, mistake.place, mistake.sentence)) from mistake
    marks = Marks(name, folder, root)
    value = marks.convert(kind, placeholders=True)
    if check is not None and value is not None:
        blamed = [mistake.path for mistake in marks.found if mistake.spoils]
        for path, sentence in check(value, marks):
            if not any(path[: len(bad)] == bad for bad in blamed):
                marks.found.append(_Found(path, marks.place(*path), sentence))
    mistakes = [(each.place, each.sentence) for each in found] + [each.with_keys() for each in marks.found]
    if mistakes or value is None:
        raise ConfigError(*_lines(name, mistakes))
    return value


def schema(kind: type[Struct]) -> dict[str, Any]:
    """JSON Schema of a config file, for editors."""
    found = msgspec.json.schema(kind, schema_hook=lambda _: {"type": "string", "format": "path"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `words`; a list of `words` where none is near."""
    known = sorted(words)
    if near := _nearest(word, known):
        return f"; did you mean {near!r}?"
    return f"; there is {', '.join(known)}" if 0 < len(known) <= 20 else ""


def _nearest(word: str, words: list[str]) -> str:
    import difflib  # only a wrong config needs it

    return next(iter(difflib.get_close_matches(word, words, n=1)), "")


class Marks:
    """Line and column of each value of a loaded file; also reads parts whose type is known only later."""

    def __init__(self, name: str, folder: Path, root: Node) -> None:
        self.name = name
        self.folder = folder
        self.found: list[_Found] = []
        self._root = root

    def at(self, *path: str | int) -> str:
        """`file:line:col` of the value at `path`, or of its nearest parent that exists."""
        place = self.place(*path)
        return f"{self.name}:{place.line}:{place.col}"

    def place(self, *path: str | int) -> Place:
        """Like `at`, as numbers: the place of a scalar itself, or of the key of a list or map."""
        node, place = self._root, self._root.place
        for step in path:
            inner = _step(node, step)
            if inner is None:
                break
            place = _place(node, step, inner)
            node = inner
        return place

    def has(self, *path: str | int) -> bool:
        """Whether the file sets `path`."""
        return self._find(path) is not None

    def convert(self, kind: type[V], *path: str | int, placeholders: bool = False) -> V | None:
        """The value at `path` as a `kind` (an absent value reads as an empty map); mistakes go to `found`.

        Returns None if there are mistakes; with `placeholders`, only if no placeholder could be made.
        """
        node = self._find(path) or Node(self.place(*path), "map")
        walk = _Walk(self.folder)
        value = walk.build(node, kind, path, self.place(*path))
        self.found += walk.found
        if value is _FAILED or (walk.found and not placeholders):
            return None
        return value  # type: ignore[no-any-return]  # built by walking kind

    def _find(self, path: Sequence[str | int]) -> Node | None:
        node: Node | None = self._root
        for step in path:
            node = None if node is None else _step(node, step)
        return node


@dataclass(frozen=True, slots=True)
class _Found:
    path: KeyPath
    place: Place
    sentence: str
    spoils: bool = True  # a placeholder is at `path` now: further mistakes there are not the user's

    def with_keys(self) -> tuple[Place, str]:
        dotted = ".".join(str(step) for step in self.path)
        return self.place, f"{dotted}: {self.sentence}" if dotted else self.sentence


_FAILED: Any = object()


class _Walk:
    """Builds values of a type from nodes; records mistakes and replaces them by placeholders of that type."""

    def __init__(self, folder: Path) -> None:
        self.found: list[_Found] = []
        self._folder = folder

    def build(self, node: Node, kind: Any, path: KeyPath, place: Place | None = None) -> Any:
        """The value, or `_FAILED` where no placeholder could be made; mistakes go to `found`."""
        place = place or node.place
        bare, metas = _strip(kind)
        if bare is Any:
            return node.plain()
        if get_origin(bare) in (Union, UnionType):
            return self._union(node, kind, bare, path, place)
        if isinstance(bare, type) and issubclass(bare, Struct):
            return self._struct(node, bare, path, place)
        container = get_origin(bare) or bare
        if container not in (dict, list, tuple):
            return self._leaf(node, kind, path, place)
        before = len(self.found)
        value = (self._dict if container is dict else self._list)(node, bare, path, place)
        return value if len(self.found) > before else self._bounded(value, metas, path, place)

    def _struct(self, node: Node, kind: type[Struct], path: KeyPath, place: Place) -> Any:
        if node.kind == "scalar" and node.value is None:
            node = Node(place, "map")  # `broker:` without a value: the loop below reports the missing keys
        if node.kind != "map":
            return self._wrong(path, place, f"expected keys and values, got {_show(node)}", kind)
        fields = {info.encode_name: info for info in msgspec.structs.fields(kind)}
        for key in node.keys.keys() - fields.keys():
            sentence = f"unknown key{did_you_mean(key, fields)}"
            self.found.append(_Found((*path, key), node.key_places[key], sentence, spoils=False))
        values: dict[str, Any] = {}
        for key, info in fields.items():
            if key in node.keys:
                inner = node.keys[key]
                before = len(self.found)
                value = self.build(inner, info.type, (*path, key), _place(node, key, inner))
                if len(self.found) > before and not info.required and not isinstance(value, (Struct, dict)):
                    continue  # the default is the better placeholder
            elif info.required:
                self.found.append(_Found((*path, key), place, "is missing"))
                value = _placeholder(info.type)
            else:
                continue
            if value is _FAILED:
                if info.required:
                    return _FAILED
                continue
            values[info.name] = value
        try:
            return kind(**values)
        except (ValueError, TypeError) as error:  # raised by the struct's own __post_init__
            return self._wrong(path, place, str(error), kind)

    def _dict(self, node: Node, kind: Any, path: KeyPath, place: Place) -> Any:
        if node.kind != "map":
            if node.kind == "scalar" and node.value is None:
                return {}
            return self._wrong(path, place, f"expected keys and values, got {_show(node)}", dict)
        key_type, value_type = get_args(kind) or (str, Any)
        built = {}
        for key, inner in node.keys.items():
            where = (*path, key)
            self._leaf(Node(node.key_places[key], "scalar", key, key), key_type, where, node.key_places[key])
            value = self.build(inner, value_type, where, _place(node, key, inner))
            if value is not _FAILED:
                built[key] = value
        return built

    def _list(self, node: Node, kind: Any, path: KeyPath, place: Place) -> Any:
        if node.kind != "list":
            return self._wrong(path, place, f"expected a list, got {_show(node)}", kind)
        args = get_args(kind) or (Any,)
        is_tuple = (get_origin(kind) or kind) is tuple
        fixed = is_tuple and Ellipsis not in args
        if fixed and len(args) != len(node.items):
            return self._wrong(path, place, f"expected {len(args)} values, got {len(node.items)}", kind)
        built = [
            self.build(item, args[at] if fixed else args[0], (*path, at), _place(node, at, item))
            for at, item in enumerate(node.items)
        ]
        built = [value for value in built if value is not _FAILED]
        return tuple(built) if is_tuple else built

    def _union(self, node: Node, kind: Any, bare: Any, path: KeyPath, place: Place) -> Any:
        members = [member for member in get_args(bare) if member is not UnsetType]
        if node.kind == "scalar" and node.value is None and NoneType in members:
            return None
        for member in members:
            inner, _ = _strip(member)
            shape = get_origin(inner) or inner
            is_struct = isinstance(shape, type) and issubclass(shape, Struct)
            if (node.kind == "map" and (is_struct or shape is dict)) or (
                node.kind == "list" and shape in (list, tuple)
            ):
                return self.build(node, member, path, place)
        rest = [member for member in members if member is not NoneType]
        if len(rest) == 1:
            return self.build(node, rest[0], path, place)
        return self._leaf(node, kind, path, place)

    def _leaf(self, node: Node, kind: Any, path: KeyPath, place: Place) -> Any:
        bare, metas = _strip(kind)
        if isinstance(node.value, float) and not math.isfinite(node.value):
            return self._wrong(path, place, f"{node.text} is not a finite number", kind)
        if get_origin(bare) is Literal and node.value not in get_args(bare):
            words = [str(word) for word in get_args(bare)]
            sentence = f"{_show(node)} is not one of {', '.join(words)}"
            near = _nearest(node.text, words)
            return self._wrong(path, place, sentence + (f"; did you mean {near!r}?" if near else ""), kind)
        try:
            return msgspec.convert(node.plain(), kind, dec_hook=self._hook)
        except msgspec.ValidationError as error:
            form = next((each.description for each in metas if each.pattern and each.description), None)
            if form is not None and "matching regex" in str(error):
                return self._wrong(path, place, f"expected {form}, got {_show(node)}", kind)
            return self._wrong(path, place, _sentence(str(error), node), kind)

    def _bounded(self, value: Any, metas: list[Meta], path: KeyPath, place: Place) -> Any:
        for meta in metas:
            if meta.max_length is not None and len(value) > meta.max_length:
                return self._wrong(
                    path, place, f"{len(value)} entries; {meta.max_length} are allowed", type(value)
                )
            if meta.min_length is not None and len(value) < meta.min_length:
                return self._wrong(
                    path, place, f"{len(value)} entries; {meta.min_length} are needed", type(value)
                )
        return value

    def _hook(self, kind: type, value: Any) -> Any:
        if not issubclass(kind, Path):
            raise TypeError(f"a config cannot hold a {kind.__name__}")
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("Expected `path`")
        if value.startswith(shipped.PREFIX):
            name, known = value.removeprefix(shipped.PREFIX), shipped.names()
            if name not in known:
                raise ValueError(f"edgebed comes without a {name!r}{did_you_mean(name, known)}")
            return known[name]
        return self._folder / value

    def _wrong(self, path: KeyPath, place: Place, sentence: str, kind: Any) -> Any:
        self.found.append(_Found(path, place, sentence))
        return _placeholder(kind)


def _strip(kind: Any) -> tuple[Any, list[Meta]]:
    if get_origin(kind) is Annotated:
        bare, *metas = get_args(kind)
        return bare, [meta for meta in metas if isinstance(meta, Meta)]
    return kind, []


def _placeholder(kind: Any) -> Any:
    """A harmless value of the type of a value that could not be read."""
    bare, _ = _strip(kind)
    shape = get_origin(bare) or bare
    if shape in (Union, UnionType):
        members = get_args(bare)
        return None if NoneType in members else _placeholder(members[0])
    if shape is Literal:
        return get_args(bare)[0]
    if isinstance(shape, type) and issubclass(shape, Struct):
        fields = msgspec.structs.fields(shape)
        values = {info.name: _placeholder(info.type) for info in fields if info.required}
        try:
            return _FAILED if _FAILED in values.values() else shape(**values)
        except (ValueError, TypeError):
            return _FAILED
    plain = {str: "", int: 0, float: 0.0, bool: False, dict: {}, list: [], tuple: (), Path: Path()}
    return plain.get(shape, _FAILED)


def _step(node: Node, step: str | int) -> Node | None:
    if isinstance(step, int):
        return node.items[step] if node.kind == "list" and 0 <= step < len(node.items) else None
    return node.keys.get(step)


def _place(parent: Node, step: str | int, inner: Node) -> Place:
    if isinstance(step, str) and (
        (inner.kind != "scalar" and not inner.flow) or (inner.kind == "scalar" and inner.value is None)
    ):
        return parent.key_places[step]
    return inner.place


_TYPES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "object": "keys and values",
    "array": "a list",
    "path": "a path",
}


def _sentence(reason: str, node: Node) -> str:
    """The reason of msgspec in plain words, with the value that the file has."""
    reason = re.sub(r" - at `.*`$", "", reason)
    reason = re.sub(r", got `[^`]*`$", "", reason)
    reason = re.sub(r"`([^`]*)`", lambda found: _alternatives(found[1]), reason)
    reason = reason[:1].lower() + reason[1:]
    hint = ""
    if reason.startswith("expected text") and node.kind == "scalar" and not isinstance(node.value, str):
        hint = ": put it in quotes" if node.text else ""
    if reason == "expected true or false" and node.text.lower() in ("yes", "no", "on", "off"):
        hint = ": this is YAML 1.2"
    if reason == "expected a number" and re.fullmatch(r"[0-9.]+ ?%", node.text):
        hint = ": write a share without %, such as 0.05 for 5%"
    return f"{reason}, got {_show(node)}{hint}"


def _alternatives(names: str) -> str:
    return " or ".join(_TYPES.get(name.strip(), name.strip()) for name in names.split("|"))


def _show(node: Node) -> str:
    if node.kind != "scalar":
        return "a list" if node.kind == "list" else "keys and values"
    if node.value is None:
        return "nothing"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
    return repr(text) if isinstance(node.value, str) else text


def _line(name: str, place: Place, sentence: str) -> str:
    return f"{name}:{place.line}:{place.col}: {sentence}"


def _lines(name: str, mistakes: list[tuple[Place, str]]) -> Iterator[str]:
    ordered = sorted(mistakes, key=lambda mistake: (mistake[0].line, mistake[0].col))
    for place, sentence in ordered[:MAX_MISTAKES]:
        yield _line(name, place, sentence)
    if len(ordered) > MAX_MISTAKES:
        yield f"{name}: and {len(ordered) - MAX_MISTAKES} more mistakes"


def read(path: Path) -> str:
    """The text of a config file.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: is not a regular file")
        if found.st_size > MAX_BYTES:
            raise ConfigError(f"{path}: has {found.st_size} bytes; {MAX_BYTES} are allowed")
        body = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    return decoded(body, str(path))


def decoded(body: bytes, name: str) -> str:
    """The text of a config file; `name` is printed in front of the mistake.

    Raises:
        ConfigError: it is not UTF-8; the text states where.
    """
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = body[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise ConfigError(
            _line(name, place, "this byte is not valid UTF-8: save the file as UTF-8")
        ) from error
