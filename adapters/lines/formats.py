"""Reads text lines of devices without a protocol: CSV, JSON, key and value, or a regular expression."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation

from adapters.base import OptionsError, Value
from adapters.mqtt.payload import KINDS, MISSING, TRUTH, UNITS_NS, Unusable, any_json, find
from adapters.number_text import DecimalMark, NotANumber, NoValue, not_finite, plain_number
from wire.messages import Quality

Found = Mapping[str, object]  # field name -> its raw value in a line: text, or a JSON value
LineReader = Callable[[str], Found | None]  # returns None if the line does not match

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = 2**53  # the largest whole number to which a float is exact
_PATH_SEPARATOR = "."
_NUMBERS = ("f32", "f64", "i64")
# a blank may follow a sign; a comma between digits belongs to the number, unless a key follows it
_PAIR = re.compile(
    r"(?<![^\s,;=:])([^\s,;=:]++)\s*+[=:]\s*+"
    r"((?:[+-]\s++(?=[0-9.]))?[^\s,;]*+(?:(?<=[0-9]),[0-9]++(?![^\s,;=:]*+\s*+[=:]))*+)"
)


def csv_reader(places: Mapping[str, str], separator: str) -> LineReader:
    """A reader of CSV lines; places are column numbers from 1. A line with too few columns does not match.

    Raises:
        OptionsError: a place is not a column number, or the separator has more than one character.
    """
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        raise OptionsError(f"separator {separator!r}: give one character, which separates the CSV columns")
    for name, place in places.items():
        if not place.isdecimal() or not 1 <= int(place) <= 1_000:
            raise OptionsError(
                f"field {name!r}: {place!r} is not a column number of a CSV line; the first column is 1"
            )
    columns = {name: int(place) - 1 for name, place in places.items()}
    last = max(columns.values())

    def read(line: str) -> Found | None:
        try:
            (cells,) = csv.reader([line], delimiter=separator or ",", skipinitialspace=True)
        except (csv.Error, ValueError):
            return None
        if len(cells) <= last:
            return None
        return {name: cells[column].strip() for name, column in columns.items()}

    return read


def json_reader(places: Mapping[str, str], _separator: str) -> LineReader:
    """A reader of JSON lines; places are keys and list positions (from 0) with dots: `air.temp`, `list.0`."""
    paths = {name: place.split(_PATH_SEPARATOR) for name, place in places.items()}

    def read(line: str) -> Found | None:
        try:
            root = any_json(line.encode())
        except Unusable:
            return None
        if not isinstance(root, dict | list):
            return None
        values = {name: find(root, path) for name, path in paths.items()}
        return {name: value for name, value in values.items() if value is not None and value is not MISSING}

    return read


def pair_reader(places: Mapping[str, str], separator: str) -> LineReader:
    """A reader of `T=23.5 H:40`; places are keys. `separator`, or comma, semicolon or blank, splits pairs."""

    def read(line: str) -> Found | None:
        pairs = dict(_PAIR.findall(line))
        if separator:
            pairs = {k.strip(): v.strip() for k, v in map(_key_and_value, line.split(separator)) if k}
        return {name: pairs[place] for name, place in places.items() if place in pairs}

    return read


def _key_and_value(pair: str) -> tuple[str, str]:
    key, mark, value = pair.partition("=" if "=" in pair else ":")
    return (key, value) if mark else ("", "")


def pattern_reader(places: Mapping[str, str], pattern: str) -> LineReader:
    """A reader by a regular expression; places are names of its groups. The whole line must match.

    Raises:
        OptionsError: the pattern is wrong, or it has no group of a place's name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionsError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    for name, place in places.items():
        if place not in compiled.groupindex:
            raise OptionsError(f"field {name!r}: pattern {pattern!r} has no group (?P<{place}>...)")

    def read(line: str) -> Found | None:
        found = compiled.fullmatch(line)
        if found is None:
            return None
        return {name: found[place] for name, place in places.items() if found[place] is not None}

    return read


def as_declared(
    raw: object, declared: str, decimal: DecimalMark = "auto", unit: str = ""
) -> tuple[Value, Quality]:
    """A raw value as the declared type of its field, and its quality; None for an empty value.

    A word by which a device reports that it has no value, such as OL, gives None and BAD.
    """
    if raw is None or raw == "":
        return None, Quality.UNCERTAIN
    if isinstance(raw, str) and declared in _NUMBERS:
        try:
            value = _from_text(raw, declared, decimal, unit)
        except NoValue:
            return None, Quality.BAD
        except NotANumber:
            return None, Quality.WRONG_TYPE
    else:
        value = _TYPES[declared](raw)
    return value, Quality.GOOD if value is not None else Quality.WRONG_TYPE


def why_not(raw: object, declared: str, decimal: DecimalMark = "auto", unit: str = "") -> str:
    """Why a raw value is not of the declared type."""
    if isinstance(raw, str) and declared in _NUMBERS:
        try:
            plain_number(raw, decimal, unit)
        except (NoValue, NotANumber) as error:
            return str(error)
    return f"it is not {KINDS[declared]}"


def unix_ns(raw: object, unit: str, zone: tzinfo = UTC) -> int | None:
    """Unix nanoseconds of an ISO 8601 text (in `zone` if it names none) or of a number since 1970."""
    return _from_iso(raw, zone) if unit == "iso" else _from_number(raw, UNITS_NS[unit])


def _from_iso(raw: object, zone: tzinfo) -> int | None:
    if not isinstance(raw, str):
        return None
    try:
        at = datetime.fromisoformat(raw)
        since = (at if at.tzinfo else at.replace(tzinfo=zone)) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return since // timedelta(microseconds=1) * 1_000


def _from_number(raw: object, ns: int) -> int | None:
    if not isinstance(raw, str | int | float) or isinstance(raw, bool):
        return None
    try:
        number = Decimal(str(raw))  # as a float, a time would be wrong by hundreds of nanoseconds
    except (InvalidOperation, ValueError):
        return None
    return int((number * ns).to_integral_value()) if number.is_finite() and number.adjusted() < 30 else None


# --- values


def _from_text(raw: str, declared: str, decimal: DecimalMark, unit: str) -> Value:
    if declared != "i64" and (odd := not_finite(raw)) is not None:
        return odd
    text = plain_number(raw, decimal, unit)
    whole, _, fraction = text.partition(".")
    try:
        return (int(whole) if not fraction.strip("0") else None) if declared == "i64" else float(text)
    except ValueError:
        return None


def _number(raw: object) -> Value:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        try:
            return float(raw)
        except OverflowError:
            return None
    return None


def _integer(raw: object) -> Value:
    if isinstance(raw, float) and raw.is_integer() and abs(raw) <= _EXACT:
        return int(raw)
    return raw if isinstance(raw, int) and not isinstance(raw, bool) else None


def _boolean(raw: object) -> Value:
    if isinstance(raw, bool):
        return raw
    return TRUTH.get(str(raw).lower()) if isinstance(raw, str | int) else None


def _text(raw: object) -> Value:
    return raw if isinstance(raw, str) else None


_TYPES: dict[str, Callable[[object], Value]] = {
    "f32": _number,
    "f64": _number,
    "i64": _integer,
    "bool": _boolean,
    "str": _text,
}
