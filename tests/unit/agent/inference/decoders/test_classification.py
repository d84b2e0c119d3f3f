"""Classification: the best label, its score and its alarm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agent.inference.decoders import ModelError


def test_classification_names_the_best(make) -> None:
    decoder = make(
        "classification", [(1, 3)], labels=["N", "AF", "PVC"], softmax=True, scores=True, alarm=["AF"]
    )
    result = decoder.decode([np.array([[1.0, 3.0, math.nan]], np.float32)], None)
    share = 1 / (1 + math.exp(-2))
    assert result.values == {
        "label": "AF",
        "score": pytest.approx(share),
        "alarm": True,
        "n": pytest.approx(1 - share),
        "af": pytest.approx(share),
        "pvc": None,
    }
    assert (result.top, result.alarm) == ("AF", True)
    assert list(decoder.fields()) == list(result.values)
    nothing = decoder.decode([np.full((1, 3), math.nan, np.float32)], None)
    assert set(nothing.values.values()) == {None}
    assert list(nothing.values) == list(result.values)
    with pytest.raises(ModelError, match="clashes with a field"):
        make("classification", [(1, 2)], labels=["Alarm", "b"], scores=True)


def test_classification_without_a_number_names_nothing(make) -> None:
    decoder = make("classification", [(1, 2)], labels=["a", "b"])
    result = decoder.decode([np.full((1, 2), math.nan, np.float32)], None)
    assert (result.values, result.top, result.score) == ({"label": None, "score": None}, "", None)
