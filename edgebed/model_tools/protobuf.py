"""Reads protobuf messages without their classes: the few fields of ONNX files that the tools need."""

from __future__ import annotations

from collections.abc import Iterator

from agent.inference.decoders import ModelError
from agent.inference.onnx_scan import read_varint, varint

_MOST = 2_000_000  # fields of a message
_SIZES = {1: 8, 5: 4}  # bytes of the wire types that have a fixed size
Value = int | memoryview


def fields(body: memoryview) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message, in its order: a whole number, or bytes.

    Raises:
        ModelError: it is not a protobuf message, or has too many fields.
    """
    return ((number, value) for number, value, _ in records(body))


def records(body: memoryview) -> Iterator[tuple[int, Value, memoryview]]:
    """As `fields`, with the bytes of the whole record.

    Raises:
        ModelError: as `fields`.
    """
    start, end, count = 0, len(body), 0
    while start < end:
        count += 1
        if count > _MOST:
            raise ModelError(f"it has more than {_MOST} parts")
        key, at = read_varint(body, start, end)
        wire = key & 7
        value: Value
        if wire == 0:
            value, at = read_varint(body, at, end)
        else:
            size = _SIZES.get(wire, -1)
            if wire == 2:
                size, at = read_varint(body, at, end)
            if size < 0 or at + size > end:
                raise ModelError("it is not a protobuf message")
            value = body[at : at + size]
            at += size
        yield key >> 3, value, body[start:at]
        start = at


def record(number: int, value: int | bytes) -> bytes:
    """A field as a message has it."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def whole(value: Value) -> list[int]:
    """The whole numbers of a repeated field, which has one of them, or many packed into bytes."""
    if isinstance(value, int):
        return [signed(value)]
    found: list[int] = []
    at = 0
    if len(value) > _MOST:
        raise ModelError(f"it has more than {_MOST} numbers that are not raw bytes")
    while at < len(value):
        one, at = read_varint(value, at, len(value))
        found.append(signed(one))
    return found


def signed(value: int) -> int:
    """The number of 64 bits with its sign."""
    return value - (1 << 64) if value >> 63 else value


def text(value: Value) -> str:
    """The text of a field; what is not UTF-8 is replaced."""
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")
