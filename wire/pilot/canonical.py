"""Canonical JSON by RFC 8785 (JCS): equal values have equal bytes, in every language."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

from wire.errors import WireError

_MAX_INT = 2**53 - 1  # a number of RFC 8785 is a double, which keeps no larger integer exactly


def canonical(value: Any) -> bytes:
    """The bytes of a value of JSON: sorted keys, no spaces, numbers as ECMAScript writes them.

    Raises:
        WireError: it has a number or a text that canonical JSON cannot write.
    """
    try:
        return _text(value).encode()
    except UnicodeEncodeError as error:
        raise WireError("a text has half a character (a surrogate): write it again") from error


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value) if abs(value) <= _MAX_INT else _number(_double(value))
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    # RFC 8785 sorts by UTF-16 code units, not by code points
    keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return f"{{{','.join(f'{_text(key)}:{_text(value[key])}' for key in keys)}}}"


def _double(value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise WireError("a whole number is too large for JSON") from error


def _number(value: float) -> str:
    """A number as `String(value)` of ECMAScript writes it; both use the shortest digits that read back."""
    if not math.isfinite(value):
        raise WireError(f"{value} is not a number of JSON")
    if value == 0:
        return "0"
    _, digits, exponent = Decimal(repr(abs(value))).as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    point = len(digits) + int(exponent)  # digits before the decimal point
    if 0 < point <= 21:
        text = text.ljust(point, "0")
        shown = text if len(text) == point else f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        shown = f"0.{'0' * -point}{text}"
    else:
        head = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
        shown = f"{head}e{point - 1:+d}"
    return f"-{shown}" if value < 0 else shown
