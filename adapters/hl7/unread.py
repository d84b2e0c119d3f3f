"""Describes observations that give no value, in words that cannot contain the name of a person.

The state of a device leaves the node. So it repeats nothing of a message but what a closed vocabulary has:
numeric codes, names of IEEE 11073, and known spellings of units.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from adapters.hl7.message import Separators
from adapters.hl7.units import shown_unit

_MAX_SHOWN = 4  # observations that a text names
_CODE = re.compile(r"\d{1,7}(-\d)?")  # MDC, LOINC, or a number of the maker
_REFERENCE = re.compile(r"MDC_[A-Z][A-Z0-9_]{1,60}")
_SYSTEMS = frozenset({"MDC", "LN", "SCT", "L"})
_TYPES = frozenset(
    ("CE", "CWE", "DT", "DTM", "ED", "FT", "ID", "IS", "MA", "NA", "NM", "NR", "SN", "ST", "TM", "TS", "TX")
)
# codes of vital signs in LOINC -> their name for people, and the built-in field of the same meaning
LOINC: dict[str, tuple[str, str]] = {
    "8867-4": ("heart rate", "heart_rate"),
    "8889-8": ("heart rate by pulse oximetry", "heart_rate"),
    "9279-1": ("respiratory rate", "resp_rate"),
    "2708-6": ("oxygen saturation", "spo2"),
    "59408-5": ("oxygen saturation by pulse oximetry", "spo2"),
    "8480-6": ("systolic blood pressure", "sys_bp"),
    "8462-4": ("diastolic blood pressure", "dia_bp"),
    "8478-0": ("mean blood pressure", ""),
    "8310-5": ("body temperature", "temperature"),
}


class Unknown(NamedTuple):
    """An observation whose code is not configured, and the field that it may be meant for."""

    text: str
    field: str = ""


class UnreadNotes(NamedTuple):
    """How a bedside records what it cannot read: `Adapter.not_read` and `Adapter.was_read`."""

    not_read: Callable[[str, str], None] = lambda _what, _part: None
    was_read: Callable[[str], None] = lambda _part: None


NO_NOTES = UnreadNotes()


def observation(code: bytes, unit: bytes, separators: Separators) -> str:
    """An OBX by its code and unit, e.g. `OBX 8867-4^LN (heart rate) in /min`."""
    number, name, system = _words(code, separators)
    if not _CODE.fullmatch(number):
        number = name if _REFERENCE.fullmatch(name) else ""
    if not number:
        text = "an OBX with a code of its maker"
    else:
        text = f"OBX {number}" + (f"^{system}" if system in _SYSTEMS else "")
        meaning = LOINC.get(number, ("",))[0] or (
            name if name != number and _REFERENCE.fullmatch(name) else ""
        )
        text += f" ({meaning})" if meaning else ""
    return text + in_unit(unit, separators)


def in_unit(unit: bytes, separators: Separators) -> str:
    """` in UNIT`; empty without a unit."""
    if not unit.translate(None, separators.all + b" "):
        return ""
    return f" in {shown_unit(unit, separators) or 'an unknown unit'}"


def of_type(raw: bytes) -> str:
    """An OBX-2 for a text."""
    word = raw.decode("latin-1").strip().upper()
    return word if word in _TYPES else "another type"


def meant_for(code: bytes, separators: Separators) -> str:
    """The built-in field with the meaning of an OBX-3 of LOINC; empty if it is not known."""
    number, _, system = _words(code, separators)
    return LOINC.get(number, ("", ""))[1] if system in ("LN", "") else ""


def none_configured(unknown: list[Unknown]) -> str:
    """The text for a message without any configured code."""
    texts = list(dict.fromkeys(each.text for each in unknown))
    more = f" and {len(texts) - _MAX_SHOWN} more" if len(texts) > _MAX_SHOWN else ""
    return f"{', '.join(texts[:_MAX_SHOWN])}{more}: not configured, see `fields` and `codes`"


def _words(code: bytes, separators: Separators) -> tuple[str, str, str]:
    words = [word.decode("latin-1").strip() for word in code.split(separators.component, 3)[:3]]
    return (*words, "", "", "")[:3]  # type: ignore[return-value]  # three words
