"""Forecast: later values, each with its time."""

from __future__ import annotations

import numpy as np
import pytest

from agent.inference.decoders.base import Quantity
from agent.inference.decoders.forecast import span


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("time-field", ["load_in_1_h", "heat_in_1_h", "load_in_2_h", "heat_in_2_h"]),
        ("field-time", ["load_in_1_h", "load_in_2_h", "heat_in_1_h", "heat_in_2_h"]),
    ],
)
def test_each_number_has_its_quantity_and_its_time(make, layout: str, names: list[str]) -> None:
    fields = {"load": Quantity(unit="W", scale=2.0), "heat": Quantity(unit="Cel", offset=1.0)}
    decoder = make("forecast", [(1, 2), (1, 2)], fields=fields, steps=2, step_s=3600.0, layout=layout)
    result = decoder.decode([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])], None)
    assert list(result.values) == names
    numbers = dict(zip(names, (1.0, 2.0, 3.0, 4.0), strict=True))
    assert result.values == {
        name: value * 2 if name.startswith("load") else value + 1 for name, value in numbers.items()
    }
    field = decoder.fields()["heat_in_2_h"]
    assert (field.unit, field.desc) == ("Cel", "7200 s after the row's time")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(300, "5_min"), (3600, "1_h"), (90, "90_s"), (0.02, "20_ms"), (172_800, "2_d"), (1.5, "1500_ms")],
)
def test_a_time_is_short_and_has_a_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text
