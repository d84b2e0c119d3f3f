"""Anomaly: a score, the worst part and the alarm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agent.inference.decoders import ModelError


@pytest.mark.parametrize(
    ("shapes", "outputs", "score", "part"),
    [
        ([(1, 1), (1, 3)], [[[2.5]], [[0.1, 4.0, math.nan]]], 2.5, "j2"),
        ([(1, 3), (1, 1)], [[[0.1, 4.0, 0.2]], [[2.5]]], 2.5, "j2"),
        ([(1, 3)], [[[0.1, 1.5, 4.0]]], 4.0, "j3"),
        ([(1, 3)], [[[math.nan] * 3]], None, None),
        ([(1, -1)], [[[0.1, 1.5, 4.0]]], 4.0, "j3"),
    ],
)
def test_anomaly_gives_score_and_part(
    make, shapes: list[tuple[int, ...]], outputs: list[Any], score: float | None, part: str | None
) -> None:
    decoder = make("anomaly", shapes, threshold=2.0, parts=["j1", "j2", "j3"])
    result = decoder.decode([np.array(output, np.float32) for output in outputs], None)
    assert result.values == {
        "score": score if score is None else pytest.approx(score),
        "alarm": score is not None,
        "part": part,
    }
    assert (result.top, result.alarm) == (part or "", score is not None)


def test_an_anomaly_without_parts_needs_one_number(make) -> None:
    decoder = make("anomaly", [(1,)], threshold=2.0)
    assert decoder.decode([np.array([1.0])], None).alarm is False
    assert set(decoder.fields()) == {"score", "alarm"}
    with pytest.raises(ModelError, match="an output of one number"):
        make("anomaly", [(1, 6)], threshold=2.0)
    with pytest.raises(ModelError, match="names 2 parts"):
        make("anomaly", [(1, 6)], threshold=2.0, parts=["a", "b"])


@pytest.mark.parametrize(
    ("parts", "alarm", "part", "part_score"),
    [
        ([0.0, 2.0, 1.0], False, "j2", 2.0),
        ([3.0, 0.0, 0.0], True, "j1", 3.0),
        ([1.0, math.nan, 0.0], False, "j1", 1.0),
        ([math.nan] * 3, False, None, None),
    ],
)
def test_one_part_alone_can_raise_an_alarm(
    make, parts: list[float], alarm: bool, part: str | None, part_score: float | None
) -> None:
    decoder = make("anomaly", [(1,), (3,)], threshold=5.0, part_threshold=3.0, parts=["j1", "j2", "j3"])
    result = decoder.decode([np.array([3.0]), np.array(parts)], None)
    assert result.values == {"score": 3.0, "alarm": alarm, "part": part, "part_score": part_score}
    assert result.alarm is alarm
    assert set(decoder.fields()) == set(result.values)
    assert decoder.decode([np.array([5.0]), np.array(parts)], None).alarm is True
    with pytest.raises(ModelError, match="no part scores"):
        make("anomaly", [(1,)], threshold=5.0, part_threshold=3.0)


@pytest.mark.parametrize(("number", "alarm"), [(-0.5, True), (0.0, True), (0.25, False), (math.nan, False)])
def test_lower_can_be_worse(make, number: float, alarm: bool) -> None:
    """As a one-class SVM: below 0 is an outlier."""
    decoder = make("anomaly", [(-1, 1)], threshold=0.0, sign=-1)
    result = decoder.decode([np.array([[number]], np.float32)], None)
    assert result.values == {"score": None if math.isnan(number) else -number, "alarm": alarm}


def test_the_sign_is_that_of_the_parts_too(make) -> None:
    decoder = make("anomaly", [(1, 2)], threshold=2.0, sign=-1, parts=["left", "right"])
    result = decoder.decode([np.array([[1.0, -3.0]])], None)
    assert result.values == {"score": 3.0, "alarm": True, "part": "right"}
