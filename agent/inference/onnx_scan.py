"""Reads ONNX files without the `onnx` package: refuses unsafe files, and lets onnxruntime fold constants.

An ONNX file is a protobuf, and reading four of its messages is enough. The `onnx` package is a tool of
developers and not in the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.inference.decoders import ModelError

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})  # built into onnxruntime
_MAX_DEPTH = 8  # of graphs inside graphs: loops in branches in loops
_MAX_NODES = 200_000


@dataclass(slots=True)
class Scan:
    """The result of reading a file."""

    domains: frozenset[str]
    nodes: int = 0
    initializers: set[bytes] = field(default_factory=set)  # of the outermost graph
    inputs: set[bytes] = field(default_factory=set)


def scan(body: bytes) -> Scan:
    """Read the whole file and check it.

    Raises:
        ModelError: it is not an ONNX file, has weights outside the file, or needs unknown operators.
    """
    view, seen_graph = memoryview(body), False
    own = {_text(value, 10) for number, value in _fields(view) if number == 25}  # functions the file defines
    found = Scan(DOMAINS | {domain.decode("utf-8", "replace") for domain in own})
    for number, value in _fields(view):
        if number == 7:  # ModelProto.graph
            _graph(value, found, 0)
            seen_graph = True
        elif number == 8:  # ModelProto.opset_import
            _allow(_text(value, 1), found)
        elif number == 25:  # ModelProto.functions
            for inner, node in _fields(value):
                if inner == 7:
                    _node(node, found, 1)
    if not seen_graph:
        raise ModelError("is not an ONNX file: it has no graph")
    return found


def drop_initializer_inputs(body: bytes, found: Scan) -> bytes:
    """Return the same model without the graph inputs that are initializers.

    onnxruntime folds no constants that are inputs. Exporters of the first ONNX versions listed every weight
    as an input; one such model ran three times as fast after this.
    """
    if not found.inputs & found.initializers:
        return body
    parts: list[bytes] = []
    for number, value, raw in _records(memoryview(body)):
        if number == 1:  # ModelProto.ir_version: below 4 every initializer had to be an input
            parts.append(b"\x08" + _varint(max(4, int.from_bytes(value, "little"))))
        elif number == 7:
            kept = [
                bytes(inner_raw)
                for inner, inner_value, inner_raw in _records(value)
                if not (inner == 11 and _text(inner_value, 1) in found.initializers)
            ]
            graph = b"".join(kept)
            parts.append(b"\x3a" + _varint(len(graph)) + graph)
        else:
            parts.append(bytes(raw))
    return b"".join(parts)


def _graph(view: memoryview, found: Scan, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ModelError(f"has graphs inside graphs, deeper than {_MAX_DEPTH}")
    for number, value in _fields(view):
        if number == 1:
            _node(value, found, depth)
        elif number == 5:
            _tensor(value)
            if depth == 0:
                found.initializers.add(_text(value, 8))
        elif number == 11 and depth == 0:
            found.inputs.add(_text(value, 1))
        elif number == 15:  # sparse_initializer
            _sparse_tensor(value)


def _node(view: memoryview, found: Scan, depth: int) -> None:
    found.nodes += 1
    if found.nodes > _MAX_NODES:
        raise ModelError(f"has more than {_MAX_NODES} operators")
    for number, value in _fields(view):
        if number == 7:
            _allow(bytes(value), found)
        elif number == 5:  # attribute: t, tensors, sparse_tensor(s), g, graphs
            for inner, part in _fields(value):
                if inner in (5, 10):
                    _tensor(part)
                elif inner in (22, 23):
                    _sparse_tensor(part)
                elif inner in (6, 11):
                    _graph(part, found, depth + 1)


def _tensor(view: memoryview) -> None:
    for number, value in _fields(view):
        if number == 13 or (number == 14 and any(value)):
            raise ModelError("has weights outside the file (external data): save it as one file")


def _sparse_tensor(view: memoryview) -> None:
    for number, value in _fields(view):
        if number in (1, 2):  # values, indices
            _tensor(value)


def _allow(domain: bytes, found: Scan) -> None:
    name = domain.decode("utf-8", "replace")
    if name not in found.domains:
        raise ModelError(f"needs operators of {name!r}, which this agent does not load")


def _text(view: memoryview, wanted: int) -> bytes:
    for number, value in _fields(view):
        if number == wanted:
            return bytes(value)
    return b""


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, value, _ in _records(view):
        yield number, value


def _records(view: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """(field number, value, whole record) of a message; a varint's value is 8 little-endian bytes."""
    at, end = 0, len(view)
    while at < end:
        start = at
        key, at = _read_varint(view, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            number_value, at = _read_varint(view, at)
            yield number, memoryview(number_value.to_bytes(8, "little")), view[start:at]
            continue
        if wire == 2:
            size, at = _read_varint(view, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ModelError("is not an ONNX file: it is not a protobuf message")
        if at + size > end:
            raise ModelError("is not a whole ONNX file: it is cut off")
        yield number, view[at : at + size], view[start : at + size]
        at += size


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 64:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise ModelError("is not an ONNX file: it is not a protobuf message")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
