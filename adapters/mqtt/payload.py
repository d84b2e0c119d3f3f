"""Turns the bytes of a message into values: JSON of unknown devices, paths into it, times, text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from adapters.base import Value
from adapters.number_text import NotANumber, NoValue, not_finite, plain_number
from wire.clock import NS_PER_MS, NS_PER_S
from wire.messages import Quality

TimeFormat = Literal["iso", "s", "ms", "us", "ns"]

UNITS_NS = {"s": NS_PER_S, "ms": NS_PER_MS, "us": 1_000, "ns": 1}
_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,18}))?(?:([Zz])|([+-])(\d\d):?(\d\d))?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}", re.ASCII)
TRUTH = {
    "true": True,
    "1": True,
    "on": True,
    "yes": True,
    "false": False,
    "0": False,
    "off": False,
    "no": False,
}
_BOMS_16 = (b"\xff\xfe", b"\xfe\xff")
_FAR_NS = 2**80  # more than ISO 8601 can write; a float has no room for a time of thousands of digits
_MAX_DIGITS = 400  # a number with more is infinite as a double
KINDS = {
    "f32": "a number",
    "f64": "a number",
    "i64": "a whole number",
    "str": "a text",
    "bool": "true or false",
}
_KEYS = 5  # of an object in a sentence
_SHOWN = 40  # characters of a value in a sentence
_BOM = b"\xef\xbb\xbf"


class Missing:
    """The result of `find` for a path that is not in the document; null in JSON is None."""


MISSING: Final = Missing()


class Unusable(Exception):
    """A message that gives no reading. `counter` names the reason; the text describes it for people.

    `expected` is for a message that a healthy device may send: it is not shown as a problem.
    """

    def __init__(self, counter: str, why: str, *, expected: bool = False) -> None:
        super().__init__(why)
        self.counter = counter
        self.expected = expected


# --- JSON


def any_json(body: bytes) -> Any:
    """Parse one JSON document.

    The tokens NaN and Infinity, which JSON does not have but many devices send, and numbers too large for a
    double become NaN and infinity: the agent flags their rows. The text is UTF-8, with or without a byte
    order mark, or UTF-16 with one.

    Raises:
        Unusable: not JSON, or nested too deep.
    """
    body = _utf8(body)
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            if b"NaN" not in body and b"Infinity" not in body and "out of range" not in str(error):
                raise
        return json.loads(body, parse_int=_whole)
    except ValueError as error:
        raise Unusable("not_json", f"the message is not JSON: {error}") from error
    except RecursionError as error:
        raise Unusable("not_json", "the JSON of the message is nested too deep") from error


def json_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        Unusable: not JSON, nested too deep, or not an object.
    """
    document = any_json(body)
    if not isinstance(document, dict):
        raise Unusable("unexpected_json", "the message is not as expected: JSON, but not an object")
    return document


def _utf8(body: bytes) -> bytes:
    """The text as UTF-8 without a byte order mark; UTF-16 is recognised by its mark."""
    if not body.startswith(_BOMS_16):
        return body.removeprefix(_BOM)
    try:
        return body.decode("utf-16").encode()
    except UnicodeError as error:
        raise Unusable("not_utf8", "the message is not UTF-16 in spite of its byte order mark") from error


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_DIGITS else float(digits)


def path_steps(text: str) -> tuple[str, ...]:
    """The steps of a path: a JSON pointer (RFC 6901) if it begins with `/`, else words with dots between.

    Raises:
        ValueError: the path or a step is empty.
    """
    if text.startswith("/"):
        return tuple(step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/"))
    steps = tuple(text.split("."))
    if not all(steps):
        raise ValueError(f"path {text!r} is neither a JSON pointer like /air/0/temp nor a path like air.temp")
    return steps


def find(document: object, steps: Sequence[str]) -> object:
    """The value in `document` at the end of `steps`, or MISSING; arrays count from 0."""
    for step in steps:
        if isinstance(document, dict):
            document = document.get(step, MISSING)
        elif isinstance(document, list) and step.isascii() and step.isdigit() and len(step) < 8:
            document = document[int(step)] if int(step) < len(document) else MISSING
        else:
            return MISSING
    return document


# --- values


def as_declared(raw: object, declared: str) -> tuple[Value, Quality]:
    """A JSON value as the declared type of its field; a value of another type is None and WRONG_TYPE.

    5.0 is a valid i64: JSON does not distinguish 5.0 and 5.
    """
    if raw is None or raw is MISSING:
        return None, Quality.GOOD if raw is None else Quality.UNCERTAIN
    kind = type(raw)
    if declared in ("f32", "f64") and kind in (int, float):
        return raw, Quality.GOOD  # type: ignore[return-value]  # a number
    if declared == "i64" and (kind is int or (isinstance(raw, float) and raw.is_integer())):
        return int(raw), Quality.GOOD  # type: ignore[call-overload]  # a whole number
    if (declared == "str" and kind is str) or (declared == "bool" and kind is bool):
        return raw, Quality.GOOD  # type: ignore[return-value]  # as it is
    return None, Quality.WRONG_TYPE


def from_text(text: str, declared: str) -> tuple[Value, Quality]:
    """A text as the declared type; empty is None and UNCERTAIN.

    A number may have a decimal comma. A truth value is true/false, 1/0, on/off or yes/no, in any case.
    """
    text = text.strip()
    if declared == "str" or not text:
        return (text, Quality.GOOD) if declared == "str" else (None, Quality.UNCERTAIN)
    if declared == "bool":
        truth = TRUTH.get(text.lower())
        return truth, Quality.WRONG_TYPE if truth is None else Quality.GOOD
    if declared == "i64" and _WHOLE.fullmatch(text):
        return int(text), Quality.GOOD  # a float would lose digits
    if _NUMBER.fullmatch(text) or not_finite(text) is not None:
        return as_declared(float(text), declared)
    try:
        return as_declared(float(plain_number(text)), declared)
    except (NoValue, NotANumber):
        return None, Quality.WRONG_TYPE


def converted(raw: object, declared: str) -> tuple[Value, Quality]:
    """A JSON value as the declared type, also from a text; 1 and 0 are truth values, a number is a text."""
    if isinstance(raw, str):
        return from_text(raw, declared)
    if declared == "bool" and type(raw) in (int, float) and raw in (0, 1):
        return bool(raw), Quality.GOOD
    if declared == "str" and type(raw) in (int, float) and abs(raw) < 2**63:  # type: ignore[arg-type]
        return str(raw), Quality.GOOD
    return as_declared(raw, declared)


def shown(raw: object) -> str:
    """A JSON value in a sentence, cut off."""
    if isinstance(raw, str):
        return f"the text {raw[:_SHOWN]!r}"
    if isinstance(raw, list | dict):
        return "an array" if isinstance(raw, list) else "an object"
    if type(raw) is int and abs(raw) >= 2**63:
        return "a number of many digits"  # which Python may refuse to write
    return str(raw).lower()[:_SHOWN]


def only_keys(document: object) -> str:
    """The first keys of a JSON object, to end a sentence about those that it lacks; empty without any."""
    keys = list(document)[:_KEYS] if isinstance(document, dict) else []
    more = ", ..." if isinstance(document, dict) and len(document) > _KEYS else ""
    return f", only {', '.join(str(key)[:_SHOWN] for key in keys)}{more}" if keys else ""


def wrong_type(raw: object, declared: str) -> str:
    """Why a JSON value is not of the declared type, and the option that would take it."""
    quality = converted(raw, declared)[1]
    cure = "; set convert: true" if quality is not Quality.WRONG_TYPE else ""
    return f"is {shown(raw)}, not {KINDS[declared]}{cure}"


def text_of(body: bytes) -> str:
    """The message as text, from UTF-8 or from UTF-16 with a byte order mark.

    Raises:
        Unusable: it is neither.
    """
    try:
        return _utf8(body).decode()
    except UnicodeDecodeError as error:
        raise Unusable("not_utf8", "the message is not UTF-8") from error


# --- times


def instant_ns(raw: object, form: TimeFormat, zone: tzinfo = UTC) -> int | None:
    """A device's time as Unix nanoseconds; None if it is not one. `zone` is that of ISO 8601 without one."""
    if form == "iso":
        return iso_ns(raw, zone) if isinstance(raw, str) else None
    if type(raw) is float:
        raw = repr(raw)  # the shortest decimals, as the device wrote them
    at: Decimal | int | None = None
    if isinstance(raw, str) and _NUMBER.fullmatch(raw):
        at = Decimal(raw) * UNITS_NS[form]
    elif type(raw) is int:
        at = raw * UNITS_NS[form]
    return int(at) if at is not None and -_FAR_NS < at < _FAR_NS else None


def iso_ns(text: str, zone: tzinfo = UTC) -> int | None:
    """Unix nanoseconds of an ISO 8601 date and time, in `zone` if it names none; None if it is not one."""
    found = _ISO.fullmatch(text) if len(text) < 64 else None
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, utc, sign, off_h, off_m = found.groups()
    try:
        local = UTC if utc or sign else zone
        at = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=local)
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    offset_s = (int(off_h) * 3600 + int(off_m) * 60) * (-1 if sign == "-" else 1) if sign else 0
    whole_s = (at - _EPOCH) // timedelta(seconds=1) - offset_s
    return whole_s * NS_PER_S + int(f"{fraction or '0':0<9}"[:9])
