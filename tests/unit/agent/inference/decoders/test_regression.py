"""Regression: numbers with names and units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agent.inference.decoders import ModelError
from agent.inference.decoders.regression import Quantity


def test_regression_scales_and_names_numbers_of_all_outputs(make) -> None:
    fields = {"power": Quantity(unit="W", scale=2, offset=1), "eta": Quantity()}
    decoder = make("regression", [(1, 1), (1,)], fields=fields)
    result = decoder.decode([np.array([[3.0]]), np.array([math.inf])], None)
    assert result.values == {"power": 7.0, "eta": None}
    with pytest.raises(ModelError, match="gives 5"):
        make("regression", [(1, 5)], fields=fields)
    with pytest.raises(ModelError, match="3 numbers for 2 fields"):
        make("regression", [(1, -1)], fields=fields).decode([np.zeros((1, 3))], None)
