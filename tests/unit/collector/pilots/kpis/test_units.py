"""Units convert within one dimension, and are refused otherwise."""

from __future__ import annotations

from fractions import Fraction

import pytest

from collector.pilots.kpis.units import factor
from wire.errors import WireError


@pytest.mark.parametrize(
    ("unit", "wanted", "times"),
    [
        ("kW.h", "MJ", Fraction(18, 5)),
        ("s", "min", Fraction(1, 60)),
        ("1", "%", Fraction(100)),
        ("{part}/h", "/h", Fraction(1)),
        ("kW.h/{part}", "J/{piece}", Fraction(3_600_000)),
        ("kW.h/km", "W.h/m", Fraction(1)),
        ("km/h", "m/s", Fraction(5, 18)),
        ("Cel", "Cel", Fraction(1)),
        ("N.m", "N.mm", Fraction(1000)),
    ],
)
def test_a_factor_is_exact(unit: str, wanted: str, times: Fraction) -> None:
    assert factor(unit, wanted) == times


@pytest.mark.parametrize(
    ("unit", "wanted"), [("kW.h", "kW"), ("Cel", "K"), ("/h", "h"), ("bar", "Pa"), ("km", "km/h")]
)
def test_another_dimension_is_refused(unit: str, wanted: str) -> None:
    with pytest.raises(WireError, match="cannot be given in"):
        factor(unit, wanted)
