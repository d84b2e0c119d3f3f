"""Reads numbers as meters and scales write them: decimal comma, thousands, units, words for "no value"."""

from __future__ import annotations

import re
from typing import Literal

DecimalMark = Literal["auto", ".", ","]

_MAX_TEXT = 64
_GROUP_MARKS = " '’\u00a0\u2009\u202f"  # between thousands, besides point and comma
_MINUS = str.maketrans({"−": "-", "–": "-"})
_PARTS = re.compile(
    rf"([+-]?)\s*([0-9](?:[0-9.,{_GROUP_MARKS}]*[0-9.,])?|[.,][0-9]+)([eE][+-]?[0-9]{{1,3}})?\s*([^0-9\s].*)?"
)
# OL and the like: over or under the range; dashes, stars and question marks: nothing measured
_NO_VALUE = re.compile(
    r"[+-]?\s*(o\.?l\.?|0\.?l\.?|\.ol|ovld?|ofl|ovfl?|over(load|flow|range)?|u\.?l|udf|ufl|under(load|flow|range)?"
    r"|open|n/?a|nil|none|null|invalid|[hl]{2,8})|[-_*?#=.,:/\s]*[-_*?#=][-_*?#=.,:/\s]*",
    re.IGNORECASE,
)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_UNIT = re.compile(r"[A-Za-z°℃℉ΩΩµμ%/^\[\]{}*.²³·-]+\s*")
_SAME_UNITS = {
    **dict.fromkeys(("C", "°C", "℃", "degC", "deg C", "DegC"), "Cel"),
    **dict.fromkeys(("F", "°F", "℉", "degF", "deg F"), "[degF]"),
    **dict.fromkeys(("°", "DEG"), "deg"),
    **dict.fromkeys(("Ω", "Ω", "ohm", "OHM"), "Ohm"),
    **dict.fromkeys(("mmHg",), "mm[Hg]"),
    **dict.fromkeys(("l",), "L"),
    **dict.fromkeys(("rpm", "RPM", "bpm", "1/min"), "/min"),
    **dict.fromkeys(("pct", "percent"), "%"),
}


class NoValue(ValueError):
    """The device reports that it has no value, such as OL or ----."""


class NotANumber(ValueError):
    """The text is not a number, or not a clear one; the text of the error says why."""


def not_finite(text: str) -> float | None:
    """NaN or infinity, which the agent flags; None if the text is something else."""
    return float(text) if _NOT_FINITE.fullmatch(text.strip()) else None


def plain_number(text: str, decimal: DecimalMark = "auto", unit: str = "") -> str:
    """The digits of a number with a decimal point, as `float` and `int` read them.

    `decimal` is the decimal mark; with `auto` a mark that can only separate thousands does so. A unit behind
    the number must be `unit`, in one of its usual spellings.

    Raises:
        NoValue: the device reports that it has no value.
        NotANumber: the text is something else.
    """
    text = text.strip().translate(_MINUS)
    if len(text) > _MAX_TEXT:
        raise NotANumber("it is too long for a number")
    found = _PARTS.fullmatch(text)
    if found is None or (found[4] and not _is_unit(found[4], unit)):
        if _NO_VALUE.fullmatch(text):
            raise NoValue(text)
        if found is None or not _UNIT.fullmatch(found[4]):
            raise NotANumber("it is not a number")
        wanted = f"the unit is {unit}" if unit else "the field has no `unit`"
        raise NotANumber(f"it has the unit {found[4].strip()}, but {wanted}")
    return found[1] + _digits(found[2], decimal) + (found[3] or "")


def _digits(body: str, decimal: DecimalMark) -> str:
    mark = decimal if decimal != "auto" else _mark(body)
    whole, _, fraction = body.partition(mark)
    groups = re.split(rf"[.,{_GROUP_MARKS}]", whole)
    marks = set(re.sub("[0-9]", "", whole))
    grouped = len(marks) == 1 and 1 <= len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:])
    if not (grouped or not marks) or (fraction and not fraction.isdigit()):
        given = "" if decimal == "auto" else f" with `decimal: {decimal}`"
        raise NotANumber(f"its points and commas do not fit a number{given}")
    return "".join(groups) + ("." + fraction if fraction else "")


def _mark(body: str) -> str:
    """The decimal mark of a number, found from its digits."""
    points, commas = body.count("."), body.count(",")
    if points and commas:
        return "." if body.rindex(".") > body.rindex(",") else ","
    if commas != 1:
        return "." if points < 2 else ","
    whole, _, fraction = body.partition(",")
    if len(fraction) == 3 and 1 <= len(whole) <= 3 and whole[0] != "0":
        raise NotANumber("its comma can be a decimal comma or one of thousands: set `decimal`")
    return ","


def _is_unit(suffix: str, unit: str) -> bool:
    sent = suffix.strip()
    wanted = _SAME_UNITS.get(unit, unit)
    if not unit or _SAME_UNITS.get(sent, sent) == wanted:
        return bool(unit)
    # KG for kg, but not MV for mV
    return sent.lower() == unit.lower() and sent[0].lower() != "m" and sent.isascii()
