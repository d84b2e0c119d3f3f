"""Reads ONNX files without the `onnx` package: refuses unsafe files, and lets onnxruntime fold constants.

An ONNX file is a protobuf, and reading nine of its messages is enough. The `onnx` package is a tool of
developers and not in the daemon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from agent.inference.decoders import ModelError
from wire.printable import printable

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})  # built into onnxruntime
_MAX_DEPTH = 8  # of graphs inside graphs: loops in branches in loops
_MAX_NODES = 200_000
_MAX_RECORDS = 2_000_000  # that are looked at one by one, two seconds of CPU time
_SHORT = 24  # bytes; records up to this length are passed over in one step with their neighbours

# operators that multiply whole numbers of 8 bits
INT8 = frozenset(
    {b"QLinearMatMul", b"QLinearConv", b"MatMulInteger", b"ConvInteger", b"QGemm", b"QAttention"}
    | {b"QuantizeLinear", b"DynamicQuantizeLinear", b"DynamicQuantizeMatMul", b"MatMulIntegerToFloat"}
)

Edit = tuple[int, int, bytes]  # body[start:end] is replaced by these bytes


@dataclass(slots=True)
class Scan:
    """The result of reading a file."""

    nodes: int = 0
    int8: bool = False  # whether it has operators on whole numbers of 8 bits
    initializers: set[bytes] = field(default_factory=set)  # of the outermost graph
    inputs: set[bytes] = field(default_factory=set)
    edits: list[Edit] = field(default_factory=list)  # see `edited`


def scan(body: bytes) -> Scan:
    """Read the file once, from beginning to end, and check it; the time grows with its size, up to a limit.

    Raises:
        ModelError: it is not an ONNX file, has weights outside the file, or needs unknown operators.
    """
    walk = _Walk(body)
    walk.run()
    if walk.graph is None:
        raise ModelError("is not an ONNX file: it has no graph")
    for domain in sorted(walk.domains - walk.own_domains):
        name = domain.decode("utf-8", "replace")
        if name not in DOMAINS:
            raise ModelError(f"needs operators of '{printable(name)}', which this agent does not load")
    found = walk.found
    found.inputs = {name for name, _, _ in walk.inputs}
    found.edits = _edits(walk)
    return found


def edited(body: bytes, edits: Sequence[Edit]) -> bytes:
    """Return the same model without the graph inputs that are initializers; `edits` come from its scan.

    onnxruntime folds no constants that are inputs. Exporters of the first ONNX versions listed every weight
    as an input; one such model ran three times as fast after this.
    """
    if not edits:
        return body
    parts, at = [], 0
    for start, end, new in edits:
        parts += [body[at:start], new]
        at = end
    return b"".join([*parts, body[at:]])


class _Kind(IntEnum):
    """The protobuf messages of an ONNX file that are read."""

    MODEL = 0
    GRAPH = 1
    NODE = 2
    ATTRIBUTE = 3
    TENSOR = 4
    SPARSE_TENSOR = 5
    FUNCTION = 6
    TRAINING = 7
    VALUE_INFO = 8


# message -> number of a field -> the message that it holds
_INNER: dict[_Kind, dict[int, _Kind]] = {
    _Kind.MODEL: {7: _Kind.GRAPH, 20: _Kind.TRAINING, 25: _Kind.FUNCTION},
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR, 11: _Kind.VALUE_INFO, 15: _Kind.SPARSE_TENSOR},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {5: _Kind.TENSOR, 10: _Kind.TENSOR, 6: _Kind.GRAPH, 11: _Kind.GRAPH}
    | {22: _Kind.SPARSE_TENSOR, 23: _Kind.SPARSE_TENSOR},
    _Kind.TENSOR: {},
    _Kind.SPARSE_TENSOR: {1: _Kind.TENSOR, 2: _Kind.TENSOR},
    _Kind.FUNCTION: {7: _Kind.NODE, 11: _Kind.ATTRIBUTE},
    _Kind.TRAINING: {1: _Kind.GRAPH, 2: _Kind.GRAPH},
    _Kind.VALUE_INFO: {},
}
# message -> numbers of the fields whose own value is read
_READ: dict[_Kind, set[int]] = {
    _Kind.MODEL: {1},  # ir_version
    _Kind.NODE: {4, 7},  # op_type, domain
    _Kind.TENSOR: {8, 13, 14},  # name, external_data, data_location
    _Kind.FUNCTION: {10},  # domain
    _Kind.VALUE_INFO: {1},  # name
}


def _passed_over(kind: _Kind) -> re.Pattern[bytes]:
    """Matches a run of short records of `kind` that are not read, far faster than a loop over them.

    A possessive repeat keeps nothing to go back to, so that a long run needs no memory.
    """
    numbers = {*range(1, 16)} - {*_INNER[kind]} - _READ.get(kind, set())

    def keys(wire: int) -> bytes:
        return b"[" + b"".join(b"\\x%02x" % (number << 3 | wire) for number in sorted(numbers)) + b"]"

    texts = b"|".join(b"\\x%02x.{%d}" % (size, size) for size in range(_SHORT + 1))
    return re.compile(
        b"(?:%b[\\x80-\\xff]{0,9}+[\\x00-\\x7f]|%b.{4}|%b.{8}|%b(?:%b))++"
        % (keys(0), keys(5), keys(1), keys(2), texts),
        re.DOTALL,
    )


_PASSED_OVER = {kind: _passed_over(kind) for kind in _Kind}


class _Walk:
    """Goes through the records of a file once; messages that are read are entered, all others passed over."""

    def __init__(self, body: bytes) -> None:
        self.found = Scan()
        self.domains: set[bytes] = set()  # of the operators that are used
        self.own_domains: set[bytes] = set()  # of the functions that the file defines
        self.inputs: list[tuple[bytes, int, int]] = []  # of the outermost graph: name, start and end
        self.graph: tuple[int, int, int] | None = None  # start of the record, of its content, and end
        self.ir_version: tuple[int, int, int] | None = None  # start, end, value
        self._body = body
        self._outer: list[tuple[_Kind, int, int]] = []  # messages around the current one: kind, start, end
        self._kind, self._start, self._end = _Kind.MODEL, 0, len(body)
        self._depth = 0  # of graphs

    def run(self) -> None:
        body, at, records = self._body, 0, 0
        while True:
            if at == self._end:
                if not self._outer:
                    return
                if self._kind == _Kind.GRAPH:
                    self._depth -= 1
                self._kind, self._start, self._end = self._outer.pop()
                continue
            if run := _PASSED_OVER[self._kind].match(body, at, self._end):
                at = run.end()
                continue
            records += 1
            if records > _MAX_RECORDS:
                raise ModelError(f"has more than {_MAX_RECORDS} parts")
            at = self._record(at)

    def _record(self, start: int) -> int:
        """Read one record, or enter its message; returns where to continue."""
        key, at = read_varint(self._body, start, self._end)
        if key >= 1 << 32:  # other readers drop the upper bits, and would see another field
            raise ModelError("is not an ONNX file: it is not a protobuf message")
        number, wire = key >> 3, key & 7
        value = size = 0
        if wire == 0:
            value, at = read_varint(self._body, at, self._end)
        elif wire == 2:
            size, at = read_varint(self._body, at, self._end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ModelError("is not an ONNX file: it is not a protobuf message")
        if at + size > self._end:
            raise ModelError("is not a whole ONNX file: it is cut off")
        inner = _INNER[self._kind].get(number) if wire == 2 else None
        if inner is not None:
            self._enter(inner, start, at, at + size)
            return at
        if number in _READ.get(self._kind, ()):
            self._read(number, start, at, at + size, value)
        return at + size

    def _enter(self, kind: _Kind, start: int, at: int, end: int) -> None:
        if kind == _Kind.GRAPH:
            if self._kind == _Kind.MODEL:
                if self.graph is not None:
                    raise ModelError("is not an ONNX file: it has two graphs")
                self.graph = start, at, end
            self._depth += 1
            if self._depth > _MAX_DEPTH + 1:
                raise ModelError(f"has graphs inside graphs, deeper than {_MAX_DEPTH}")
        elif kind == _Kind.NODE:
            self.found.nodes += 1
            if self.found.nodes > _MAX_NODES:
                raise ModelError(f"has more than {_MAX_NODES} operators")
        self._outer.append((self._kind, self._start, self._end))
        self._kind, self._start, self._end = kind, start, end

    def _read(self, number: int, start: int, at: int, end: int, value: int) -> None:
        body, outermost = self._body, len(self._outer) == 2 and self._outer[1][0] == _Kind.GRAPH
        match self._kind, number:
            case _Kind.TENSOR, 13:
                raise _outside()
            case _Kind.TENSOR, 14:
                if value or any(body[at:end]):
                    raise _outside()
            case _Kind.TENSOR, 8 if outermost:
                self.found.initializers.add(body[at:end])
            case _Kind.VALUE_INFO, 1 if outermost:
                self.inputs.append((body[at:end], self._start, self._end))
            case _Kind.NODE, 4:
                if body[at:end] == b"EPContext":  # its content may be a file anywhere
                    raise ModelError("has parts compiled for one machine (EPContext): save it as plain ONNX")
                self.found.int8 |= body[at:end] in INT8
            case _Kind.NODE, 7:
                self.domains.add(body[at:end])
            case _Kind.FUNCTION, 10:
                self.own_domains.add(body[at:end])
            case _Kind.MODEL, 1:
                self.ir_version = start, at, value


def _outside() -> ModelError:
    return ModelError(
        "has weights outside the file (external data): save it as one file, as "
        "`edgebed model doctor FILE --fix NEW` does"
    )


def _edits(walk: _Walk) -> list[Edit]:
    listed = [each for each in walk.inputs if each[0] in walk.found.initializers]
    if not listed or walk.graph is None:
        return []
    start, content, end = walk.graph
    left = end - content - sum(until - since for _, since, until in listed)
    edits = [(start, content, b"\x3a" + varint(left))]
    for _, since, until in sorted(listed, key=lambda each: each[1]):
        if len(edits) > 1 and edits[-1][1] == since:
            edits[-1] = (edits[-1][0], until, b"")
        else:
            edits.append((since, until, b""))
    if walk.ir_version is not None:  # below 4 every initializer had to be an input
        since, until, value = walk.ir_version
        edits.append((since, until, b"\x08" + varint(max(4, value))))
    return sorted(edits)


def read_varint(body: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    """A whole number of variable length at `at`, and where the next record begins.

    Raises:
        ModelError: there is none before `end`.
    """
    value = shift = 0
    while at < end and shift < 64:
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise ModelError("is not an ONNX file: it is not a protobuf message")


def varint(value: int) -> bytes:
    """A whole number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
