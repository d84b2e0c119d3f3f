"""Checks what decoders give: the fields of a row when a model is opened, and each result."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from agent.inference.decoders import ModelError, Result
from wire.messages import Field, Scalar
from wire.printable import printable
from wire.topics import FIELD

MAX_FIELDS, MAX_BYTES = 2_000, 160 << 10  # of a row, of a result
_MAX_BOXES, _MAX_TEXT = 1_000, 512
_MAX_MS = 1e6  # of one run
_MAX_JSON = 16_384  # characters of a value that is JSON, as a vector
_RESERVED = ("infer_ms", "frame")  # values that the agent adds to a row, the latter to that of a picture

_result = msgspec.msgpack.Decoder(Result)


def require_fields(fields: Any, *, of_pictures: bool) -> None:
    """Raise ModelError unless rows with these fields can be sent."""
    if not isinstance(fields, dict) or not all(isinstance(each, Field) for each in fields.values()):
        raise ModelError("the fields of its decoder are not a dict of name to Field")
    for name in fields:
        if not isinstance(name, str) or not FIELD.fullmatch(name):
            raise ModelError(
                f"its decoder declares the field {printable(name, 64)!r}: [a-z][a-z0-9_]* is needed"
            )
        if name in _RESERVED[: 1 + of_pictures]:
            raise ModelError(f"its row has a field {name!r}, which the agent itself adds: rename it")
    if len(fields) > MAX_FIELDS:
        raise ModelError(f"its row has {len(fields)} fields; {MAX_FIELDS} are allowed")


def checked(result: Any, fields: dict[str, Field]) -> Result:
    """A result of a decoder of another package as one of the built-in decoders would give it.

    Raises:
        ModelError: it is not a result, or not one with these fields.
    """
    if not isinstance(result, Result):
        raise ModelError(f"its decoder gave {type(result).__name__}, not a Result")
    try:
        body = msgspec.msgpack.encode(result, enc_hook=plain)
        found = _result.decode(body)
        require_declared(found, fields)
    except (ValueError, TypeError, NotImplementedError, OverflowError, RecursionError) as error:
        raise ModelError(f"its decoder gave a result that cannot be used: {printable(error, 200)}") from error
    if len(body) > MAX_BYTES:
        raise ModelError(f"its decoder gave a result of {len(body)} bytes; {MAX_BYTES} are allowed")
    return found


def require_declared(result: Result, fields: dict[str, Field]) -> None:
    """Raise ValueError unless the result is one that a decoder with these fields can give."""
    for name, value in result.values.items():
        if name not in fields or not _fits(value, fields[name].t):
            raise ValueError("it gives a value that it has not declared")
    if len(result.boxes) > _MAX_BOXES:
        raise ValueError(f"it gives more than {_MAX_BOXES} boxes")
    for box in result.boxes:
        outline = chain.from_iterable((*box.points, *box.polygon))
        area = 0.0 if box.area is UNSET else box.area
        if not all(map(math.isfinite, (box.score, *box.box, area, *outline))) or abs(box.cls) > 2**31:
            raise ValueError("it gives a box that is not finite")
    if len(result.top) > _MAX_TEXT or not math.isfinite(result.score or 0.0):
        raise ValueError("its main finding is not one")
    if not (0 <= result.infer_ms <= _MAX_MS and 0 <= result.cpu_ms <= _MAX_MS):
        raise ValueError("it states a time that cannot be")


def plain(value: Any) -> Any:
    """A number of numpy as one of Python: decoders of other packages may give them."""
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} cannot be sent")


def _fits(value: Scalar, kind: str) -> bool:
    if value is None:
        return True
    if kind == "bool":
        return isinstance(value, bool)
    if kind in ("str", "json"):
        return isinstance(value, str) and len(value) <= (_MAX_JSON if kind == "json" else _MAX_TEXT)
    return isinstance(value, int | float) and not isinstance(value, bool)
