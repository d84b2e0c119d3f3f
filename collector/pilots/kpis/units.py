"""Converts between UCUM codes of one dimension, exactly."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from wire.errors import WireError

_ANNOTATION = re.compile(r"\{[^{}]*\}")
# code -> (dimension, size); a code that is not here stands for itself
_KNOWN: dict[str, tuple[str, Fraction]] = {
    "": ("", Fraction(1)),
    "1": ("", Fraction(1)),
    "%": ("", Fraction(1, 100)),
    "ms": ("time", Fraction(1, 1000)),
    "s": ("time", Fraction(1)),
    "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)),
    "d": ("time", Fraction(86_400)),
    "mm": ("length", Fraction(1, 1000)),
    "cm": ("length", Fraction(1, 100)),
    "m": ("length", Fraction(1)),
    "km": ("length", Fraction(1000)),
    "mg": ("mass", Fraction(1, 1000)),
    "g": ("mass", Fraction(1)),
    "kg": ("mass", Fraction(1000)),
    "t": ("mass", Fraction(1_000_000)),
    "mL": ("volume", Fraction(1, 1000)),
    "L": ("volume", Fraction(1)),
    "J": ("energy", Fraction(1)),
    "kJ": ("energy", Fraction(1000)),
    "MJ": ("energy", Fraction(1_000_000)),
    "GJ": ("energy", Fraction(1_000_000_000)),
    "W": ("power", Fraction(1)),
    "kW": ("power", Fraction(1000)),
    "MW": ("power", Fraction(1_000_000)),
    "W.h": ("energy", Fraction(3600)),
    "kW.h": ("energy", Fraction(3_600_000)),
    "MW.h": ("energy", Fraction(3_600_000_000)),
}


def factor(unit: str, wanted: str) -> Fraction:
    """By what a number in `unit` is multiplied to be in `wanted`.

    Raises:
        WireError: the two do not have the same dimension, or it is not known.
    """
    if unit == wanted:
        return Fraction(1)
    (mine, size), (other, wanted_size) = _read(unit), _read(wanted)
    if mine != other:
        raise WireError(f"a value in {unit or '1'} cannot be given in {wanted or '1'}: write a unit like it")
    return size / wanted_size


def _read(unit: str) -> tuple[Counter[str], Fraction]:
    """The dimensions with their powers, and the size; annotations such as `{part}` count as 1."""
    powers, size = Counter[str](), Fraction(1)
    for at, part in enumerate(_ANNOTATION.sub("", unit).split("/")):
        sign = 1 if at == 0 else -1
        for code in [part] if part in _KNOWN else part.split("."):
            dimension, each = _KNOWN.get(code, (f"={code}", Fraction(1)))
            if dimension:
                powers[dimension] += sign
            size *= each**sign
    return Counter({name: power for name, power in powers.items() if power}), size
