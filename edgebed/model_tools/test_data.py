"""Golden vectors from ONNX's own test data: `test_data_set_0/input_0.pb`, ... beside a model file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference import package_files
from agent.inference.decoders import ModelError
from edgebed.model_tools.protobuf import Value, fields, whole
from wire.printable import printable

_SET = re.compile(r"test_data_set_(0|[1-9]\d{0,2})")
_MOST_SETS, _MOST_TENSORS = 32, 64
_MOST_BYTES = 64_000_000  # of one tensor, as of a golden vector
# TensorProto's numbers of types -> numpy's
_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_DIMS, _TYPE, _RAW, _PLACE = 1, 2, 9, 14
_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S = 4, 5, 7, 10, 11

Array = NDArray[Any]


def sets(folder: Path) -> list[str]:
    """The names of the data sets beside a model, in their order.

    Raises:
        ModelError: there are too many.
    """
    found = sorted(
        (each for each in package_files.entries(folder, ".", "") if _SET.fullmatch(each)),
        key=lambda name: int(name.rpartition("_")[2]),
    )
    if len(found) > _MOST_SETS:
        raise ModelError(f"{folder} has {len(found)} sets of test data; {_MOST_SETS} are allowed")
    return found


def tensors(folder: Path, name: str, kind: str) -> dict[int, Array]:
    """The `input`s or `output`s of a data set by their number; what are not numbers is left out.

    Raises:
        ModelError: a file is not one that ONNX writes, or too large.
    """
    found = {}
    for entry in package_files.entries(folder, name, ".pb"):
        match = re.fullmatch(rf"{kind}_(0|[1-9]\d?)\.pb", entry)
        if match is None or int(match[1]) >= _MOST_TENSORS:
            continue
        shown = f"{name}/{entry}"
        try:
            tensor = array(package_files.read(folder, shown, _MOST_BYTES))
        except ModelError as error:
            raise ModelError(f"{printable(shown)}: {error}") from error
        if tensor is not None:
            found[int(match[1])] = tensor
    return found


def array(body: bytes) -> Array | None:
    """The numbers of a TensorProto; None where it has texts, or is a sequence or a map.

    Raises:
        ModelError: it is not a TensorProto, or its numbers are not those of its shape.
    """
    dims: list[int] = []
    kind, raw = 0, None
    listed: dict[int, list[Value]] = {}
    for number, value in fields(memoryview(body)):
        if number == _DIMS:
            dims += whole(value)
        elif number == _TYPE and isinstance(value, int):
            kind = value
        elif number == _RAW and not isinstance(value, int):
            raw = value
        elif number == _PLACE and value == 1:
            raise ModelError("its numbers are in another file (external data)")
        elif number in (_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S):
            listed.setdefault(number, []).append(value)
    dtype = _TYPES.get(kind)
    if dtype is None or len(dims) > 8:
        return None
    numbers = _numbers(dtype, raw, listed)
    if any(dim < 0 for dim in dims) or math.prod(dims) != numbers.size:
        raise ModelError(f"it has {numbers.size} numbers for the shape {dims}")
    return numbers.reshape(dims)


def _numbers(dtype: str, raw: memoryview | None, listed: dict[int, list[Value]]) -> Array:
    little = np.dtype(dtype).newbyteorder("<")
    if raw is not None:
        if len(raw) % little.itemsize:
            raise ModelError(f"its {len(raw)} bytes are not numbers of the type {dtype}")
        return np.frombuffer(raw, little).astype(dtype)
    for number, kind in ((_FLOATS, "<f4"), (_DOUBLES, "<f8")):
        if number in listed:
            parts = [each for each in listed[number] if not isinstance(each, int)]
            if any(len(each) % np.dtype(kind).itemsize for each in parts):
                raise ModelError(f"its numbers are not of the type {dtype}")
            return np.concatenate([np.frombuffer(each, kind) for each in parts]).astype(dtype)
    values = [one for each in (_INT32S, _INT64S) for value in listed.get(each, []) for one in whole(value)]
    values += [one % (1 << 64) for value in listed.get(_UINT64S, []) for one in whole(value)]
    if dtype == "float16":  # as the bits of each number
        return np.array(values, np.uint16).view(np.float16)
    try:
        return np.array(values, dtype)
    except OverflowError as error:
        raise ModelError(f"it has a number beyond the type {dtype}") from error
