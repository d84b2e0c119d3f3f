"""Rewrites an ONNX file without what costs time or breaks: its protobuf, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.inference import package_files
from agent.inference.decoders import ModelError
from agent.inference.package import MAX_MODEL
from edgebed.model_tools.protobuf import Value, fields, record, records, text
from wire.printable import printable

# numbers of fields in onnx.proto
_IR, _GRAPH, _OPSET = 1, 7, 8  # of a model
_NODE, _INITIALIZER, _INPUT, _OUTPUT, _INFO = 1, 5, 11, 12, 13  # of a graph
_NAME_OF_TENSOR, _RAW, _EXTERNAL, _PLACE = 8, 9, 13, 14
_SMALLEST_IR = 4  # below it, every initializer had to be an input
_DOUBLE = 11
_DEEPEST = 8  # graphs inside graphs


@dataclass(slots=True)
class Rewritten:
    """What a file has, and the file without it."""

    body: bytes = b""
    opset: int = 0
    listed: list[str] = field(default_factory=list)  # initializers that are inputs too
    external: list[str] = field(default_factory=list)  # initializers outside of the file
    domains: list[str] = field(default_factory=list)  # imported, and not used
    dropped: list[str] = field(default_factory=list)  # outputs that are not read
    fixed: dict[str, int] = field(default_factory=dict)  # open axes that have a length now
    open: list[str] = field(default_factory=list)  # axes of inputs that stay open
    unknown: list[str] = field(default_factory=list)  # outputs without a shape
    doubles: int = 0  # casts to float64, and weights of that type
    operators: set[str] = field(default_factory=set)


def rewritten(body: bytes, folder: Path, dims: Mapping[str, int], keep: set[str] | None) -> Rewritten:
    """The file `body` from `folder` with every repair; `dims` has lengths of axes, `keep` outputs that stay.

    Raises:
        ModelError: it is not an ONNX file, or its weights outside of the file cannot be read.
    """
    return _Rewriting(folder, dims, keep).run(body)


class _Rewriting:
    def __init__(self, folder: Path, dims: Mapping[str, int], keep: set[str] | None) -> None:
        self._folder, self._dims, self._keep = folder, dict(dims), keep
        self._found = Rewritten()
        self._used: set[str] = set()  # domains of operators
        self._size = 0

    def run(self, body: bytes) -> Rewritten:
        found = self._found
        parts: list[bytes | memoryview] = []
        model = list(records(memoryview(body)))
        for number, value, _ in model:
            if number == _GRAPH and not isinstance(value, int):
                self._look(value)
        has_ir = False
        for number, value, whole in model:
            if number == _GRAPH and not isinstance(value, int):
                parts.append(record(_GRAPH, b"".join(self._graph(value))))
            elif number == _IR and isinstance(value, int):
                has_ir = True
                parts.append(record(_IR, max(value, _SMALLEST_IR) if found.listed else value))
            elif number == _OPSET and not isinstance(value, int):
                if self._is_needed(value):
                    parts.append(whole)
            else:
                parts.append(whole)
        if not has_ir:
            raise ModelError("is not an ONNX file: it has no version")
        found.body = b"".join(parts)
        if len(found.body) > MAX_MODEL:
            raise ModelError(f"has {len(found.body)} bytes in one file; {MAX_MODEL} are allowed")
        return found

    def _look(self, graph: memoryview) -> None:
        """Learn what the pieces of a graph depend on: weights, domains, and the names of first axes."""
        inputs, weights = [], set()
        for number, value in fields(graph):
            if isinstance(value, int):
                continue
            if number == _NODE:
                self._look_at_node(value)
            elif number == _INITIALIZER:
                weights.add(_text_of(value, _NAME_OF_TENSOR))
                self._found.doubles += any(n == 2 and v == _DOUBLE for n, v in fields(value))
            elif number == _INPUT:
                inputs.append(value)
        self._found.listed = [name for each in inputs if (name := _text_of(each, 1)) in weights]
        for each in inputs:
            axes = list(_axes(each))
            if _text_of(each, 1) not in weights and len(axes) > 1 and isinstance(axes[0], str) and axes[0]:
                self._dims.setdefault(axes[0], 1)

    def _look_at_node(self, node: memoryview, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise ModelError(f"has graphs inside graphs, deeper than {_DEEPEST}")
        domain, operator, attributes = "", "", []
        for number, value in fields(node):
            if number == 7:
                domain = text(value)
            elif number == 4:
                operator = text(value)
            elif number == 5 and not isinstance(value, int):
                attributes.append(value)
        self._used.add("" if domain == "ai.onnx" else domain)
        self._found.operators.add(operator)
        for each in attributes:
            parts = list(fields(each))
            cast = operator == "Cast" and (3, _DOUBLE) in [(n, v) for n, v in parts if isinstance(v, int)]
            self._found.doubles += cast
            for number, value in parts:
                if number in (6, 11) and not isinstance(value, int):  # a branch or the body of a loop
                    for inner, below in fields(value):
                        if inner == _NODE and not isinstance(below, int):
                            self._look_at_node(below, depth + 1)

    def _graph(self, graph: memoryview) -> Iterator[bytes | memoryview]:
        found = self._found
        outputs = [_text_of(v, 1) for n, v in fields(graph) if n == _OUTPUT and not isinstance(v, int)]
        for number, value, whole in records(graph):
            if isinstance(value, int) or number not in (_INPUT, _OUTPUT, _INFO, _INITIALIZER):
                yield whole
                continue
            name = _text_of(value, 1) if number != _INITIALIZER else ""
            if number == _INITIALIZER:
                yield record(number, self._weights(value)) if _is_outside(value) else whole
            elif number == _INPUT and name in found.listed:
                continue
            elif number == _OUTPUT and self._keep and name not in self._keep and self._keep & {*outputs}:
                found.dropped.append(name)
            else:
                yield record(number, self._value_info(value, number))

    def _value_info(self, value: memoryview, kind: int) -> bytes:
        """An input or output with the lengths of its axes that are known now."""
        shaped = False
        name = _text_of(value, 1)

        def shape(body: memoryview) -> bytes:
            nonlocal shaped
            shaped = True
            dims = []
            for at, (number, axis, whole) in enumerate(records(body)):
                if number != 1 or isinstance(axis, int):
                    dims.append(bytes(whole))
                else:
                    dims.append(record(1, self._axis(axis, name, at, kind, rank=_count(body))))
            return b"".join(dims)

        made = _replaced(value, [2, 1, 2], shape)
        is_tensor = any(n == 1 for n, _ in fields(memoryview(_bytes_of(value, 2))))
        if kind == _OUTPUT and is_tensor and not shaped:
            self._found.unknown.append(name)
        return made

    def _axis(self, axis: memoryview, name: str, at: int, kind: int, *, rank: int) -> bytes:
        known: dict[int, Value] = dict(fields(axis))
        if isinstance(known.get(1), int) and known.get(1):
            return bytes(axis)
        called = text(known[2]) if 2 in known else ""
        length = self._dims.get(called) if called else 1 if kind == _INPUT and at == 0 and rank > 1 else None
        if length is None:
            if kind == _INPUT:
                self._found.open.append(called or f"axis {at} of {name}")
            return bytes(axis)
        self._found.fixed[called or f"axis {at} of {name}"] = length
        return record(1, length) + b"".join(bytes(w) for n, _, w in records(axis) if n not in (1, 2))

    def _is_needed(self, opset: memoryview) -> bool:
        domain = _text_of(opset, 1)
        if domain in ("", "ai.onnx"):
            self._found.opset = max((v for n, v in fields(opset) if n == 2 and isinstance(v, int)), default=0)
            return True
        if domain in self._used:
            return True
        self._found.domains.append(domain)
        return False

    def _weights(self, tensor: memoryview) -> bytes:
        """A tensor whose numbers are in another file, with its numbers."""
        about = {}
        for number, value in fields(tensor):
            if number == _EXTERNAL and not isinstance(value, int):
                about[_text_of(value, 1)] = _text_of(value, 2)
        name = printable(_text_of(tensor, _NAME_OF_TENSOR), 64)
        try:
            offset, length = int(about.get("offset") or 0), int(about.get("length") or -1)
        except ValueError as error:
            raise ModelError(f"the weights {name} outside of the file have no number as place") from error
        whole = package_files.read(self._folder, about.get("location", ""), MAX_MODEL)
        end = len(whole) if length < 0 else offset + length
        if not 0 <= offset <= end <= len(whole):
            raise ModelError(f"the weights {name} are beyond the end of {printable(about['location'], 64)}")
        self._size += end - offset
        if self._size > MAX_MODEL:
            raise ModelError(f"its weights have more than {MAX_MODEL} bytes")
        self._found.external.append(name)
        rest = [bytes(w) for n, _, w in records(tensor) if n not in (_RAW, _EXTERNAL, _PLACE)]
        return b"".join([*rest, record(_RAW, whole[offset:end])])


def _is_outside(tensor: memoryview) -> bool:
    return any((n == _PLACE and v == 1) or n == _EXTERNAL for n, v in fields(tensor))


def _replaced(body: memoryview, path: list[int], change: object) -> bytes:
    """A message with the message at `path` changed."""
    if not path:
        return change(body)  # type: ignore[operator, no-any-return]
    parts = []
    for number, value, whole in records(body):
        if number == path[0] and not isinstance(value, int):
            parts.append(record(number, _replaced(value, path[1:], change)))
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def _axes(value: memoryview) -> Iterator[int | str]:
    """The axes of an input: a length, a name, or "" where they have neither."""
    found: list[memoryview] = [value]
    for step in (2, 1, 2, 1):
        found = [v for each in found for n, v in fields(each) if n == step and not isinstance(v, int)]
    for each in found:
        known: dict[int, Value] = dict(fields(each))
        length = known.get(1, 0)
        yield length if isinstance(length, int) and length else text(known[2]) if 2 in known else ""


def _bytes_of(message: memoryview, number: int) -> bytes:
    return next((bytes(v) for at, v in fields(message) if at == number and not isinstance(v, int)), b"")


def _count(body: memoryview) -> int:
    return sum(1 for _ in fields(body))


def _text_of(message: memoryview, number: int) -> str:
    return next((text(value) for at, value in fields(message) if at == number), "")
