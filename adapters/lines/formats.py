"""Text lines of devices without a protocol: CSV, JSON, key and value, or what a pattern finds."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation

from adapters.base import OptionsError, Value
from adapters.mqtt.payload import Unusable, any_json
from wire.messages import Quality

Found = Mapping[str, object]  # what a line says of each place: text, or a value of JSON
LineReader = Callable[[str], Found | None]  # None: the line does not match

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_BOOLS = {
    "1": True,
    "true": True,
    "on": True,
    "yes": True,
    "0": False,
    "false": False,
    "off": False,
    "no": False,
}
_PATH = "."
_PAIR = re.compile(r"([^\s,;=:]+)\s*[=:]\s*([^\s,;]*)")


def csv_reader(places: Mapping[str, str], separator: str) -> LineReader:
    """Places are column numbers from 1; a line with fewer columns than are asked for does not match.

    Raises:
        OptionsError: a place that is no column number, a separator of more than one character.
    """
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        raise OptionsError(f"separator {separator!r}: the columns of CSV are separated by one character")
    for name, place in places.items():
        if not place.isdecimal() or not 1 <= int(place) <= 1_000:
            raise OptionsError(
                f"field {name!r}: {place!r} is no column number of a CSV line; they count from 1"
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
    """Places are paths of keys and list positions (from 0) with dots between: `air.temp`, `values.0`."""
    paths = {name: place.split(_PATH) for name, place in places.items()}

    def read(line: str) -> Found | None:
        try:
            said = any_json(line.encode())
        except Unusable:
            return None
        if not isinstance(said, dict | list):
            return None
        return {name: found for name, path in paths.items() if (found := _at(said, path)) is not None}

    return read


def pair_reader(places: Mapping[str, str], separator: str) -> LineReader:
    """`T=23.5 H:40`: places are keys; pairs stand apart by `separator`, or by , ; and blanks."""

    def read(line: str) -> Found | None:
        said = dict(_PAIR.findall(line))
        if separator:
            said = {k.strip(): v.strip() for k, v in map(_halves, line.split(separator)) if k}
        return {name: said[place] for name, place in places.items() if place in said}

    return read


def _halves(pair: str) -> tuple[str, str]:
    key, mark, value = pair.partition("=" if "=" in pair else ":")
    return (key, value) if mark else ("", "")


def pattern_reader(places: Mapping[str, str], pattern: str) -> LineReader:
    """Places are names of the pattern's groups; the whole line has to match.

    Raises:
        OptionsError: no pattern, a wrong one, or one without such a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionsError(f"pattern {pattern!r} is no regular expression: {error}") from error
    for name, place in places.items():
        if place not in compiled.groupindex:
            raise OptionsError(f"field {name!r}: pattern {pattern!r} has no group (?P<{place}>...)")

    def read(line: str) -> Found | None:
        found = compiled.fullmatch(line)
        if found is None:
            return None
        return {name: found[place] for name, place in places.items() if found[place] is not None}

    return read


def as_declared(said: object, declared: str) -> tuple[Value, Quality]:
    """What a line says as the type its field declares; nothing said is None."""
    if said is None or said == "":
        return None, Quality.UNCERTAIN
    value = _TYPES[declared](said)
    return value, Quality.GOOD if value is not None else Quality.WRONG_TYPE


def moment(said: object, unit: str) -> int | None:
    """Unix nanoseconds of an ISO 8601 text (UTC where it names no zone) or of a number since 1970."""
    return _calendar(said) if unit == "iso" else _count(said, 1_000_000_000 // _PER_S[unit])


def _calendar(said: object) -> int | None:
    if not isinstance(said, str):
        return None
    try:
        at = datetime.fromisoformat(said)
        since = (at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return since // timedelta(microseconds=1) * 1_000


def _count(said: object, ns: int) -> int | None:
    if not isinstance(said, str | int | float) or isinstance(said, bool):
        return None
    try:
        number = Decimal(str(said))  # binary fractions would move a time by hundreds of nanoseconds
    except (InvalidOperation, ValueError):
        return None
    return int((number * ns).to_integral_value()) if number.is_finite() and number.adjusted() < 30 else None


# --- values


def _at(said: object, path: list[str]) -> object:
    for step in path:
        if isinstance(said, dict):
            said = said.get(step)
        elif isinstance(said, list) and step.isdecimal() and len(step) < 6 and int(step) < len(said):
            said = said[int(step)]
        else:
            return None
    return said


def _number(said: object) -> Value:
    if isinstance(said, str) and "_" not in said:  # Python reads 1_000, no device writes it
        try:
            return float(said)
        except ValueError:
            return None
    if isinstance(said, int | float) and not isinstance(said, bool):
        try:
            return float(said)
        except OverflowError:
            return None
    return None


def _whole(said: object) -> Value:
    if isinstance(said, str) and "_" not in said and len(said) < 40:
        try:
            return int(said)
        except ValueError:
            return None
    return said if isinstance(said, int) and not isinstance(said, bool) else None


def _truth(said: object) -> Value:
    if isinstance(said, bool):
        return said
    return _BOOLS.get(str(said).lower()) if isinstance(said, str | int) else None


def _text(said: object) -> Value:
    return said if isinstance(said, str) else None


_TYPES: dict[str, Callable[[object], Value]] = {
    "f32": _number,
    "f64": _number,
    "i64": _whole,
    "bool": _truth,
    "str": _text,
}
