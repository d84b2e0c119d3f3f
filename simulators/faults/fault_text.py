"""How a fault is written in one word: `KIND[:PART][@START[-END]][xSIZE]`."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBER = r"(\d+(?:\.\d+)?)"
_TEXT = re.compile(rf"([a-z-]+)(?::([a-z0-9_]+))?(?:@{_NUMBER}(?:-{_NUMBER})?)?(?:x{_NUMBER})?")


class FaultText(NamedTuple):
    """The parts of one; what is not written is "", 0 s, for ever, size 1."""

    kind: str
    part: str
    start_s: float
    end_s: float
    size: float


def read(text: str, example: str) -> FaultText:
    """Take a fault's text apart; `example` is shown to who wrote it wrong.

    Raises:
        ValueError: it is not of this form.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        raise ValueError(f"fault {text!r} is not KIND[:PART][@START[-END]][xSIZE], e.g. {example}")
    kind, part, start, end, size = found.groups()
    return FaultText(kind, part or "", float(start or 0), float(end or "inf"), float(size or 1.0))


def check_times(start_s: float, end_s: float) -> None:
    """Raise ValueError unless a fault takes any time and begins at 0 or later."""
    if not 0 <= start_s < end_s:
        raise ValueError(f"a fault from {start_s} s to {end_s} s has no duration")
