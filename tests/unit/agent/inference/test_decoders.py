"""The decoders without boxes, and the registry of decoders."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agent.inference import decoders
from agent.inference.decoders import Decoder, ModelError, Tensor


def make(word: str, shapes: list[tuple[int, ...]], **options: Any) -> Decoder:
    kind = decoders.load(word)
    return kind(kind.Options(**options), [Tensor(f"y{i}", "float32", s) for i, s in enumerate(shapes)], None)


def test_classification_names_the_best() -> None:
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


def test_classification_without_a_number_names_nothing() -> None:
    decoder = make("classification", [(1, 2)], labels=["a", "b"])
    result = decoder.decode([np.full((1, 2), math.nan, np.float32)], None)
    assert (result.values, result.top, result.score) == ({"label": None, "score": None}, "", None)


def test_regression_scales_and_names_numbers_of_all_outputs() -> None:
    fields = {"power": decoders.Quantity(unit="W", scale=2, offset=1), "eta": decoders.Quantity()}
    decoder = make("regression", [(1, 1), (1,)], fields=fields)
    result = decoder.decode([np.array([[3.0]]), np.array([math.inf])], None)
    assert result.values == {"power": 7.0, "eta": None}
    with pytest.raises(ModelError, match="gives 5"):
        make("regression", [(1, 5)], fields=fields)
    with pytest.raises(ModelError, match="3 numbers for 2 fields"):
        make("regression", [(1, -1)], fields=fields).decode([np.zeros((1, 3))], None)


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
    shapes: list[tuple[int, ...]], outputs: list[Any], score: float | None, part: str | None
) -> None:
    decoder = make("anomaly", shapes, threshold=2.0, parts=["j1", "j2", "j3"])
    result = decoder.decode([np.array(output, np.float32) for output in outputs], None)
    assert result.values == {
        "score": score if score is None else pytest.approx(score),
        "alarm": score is not None,
        "part": part,
    }
    assert (result.top, result.alarm) == (part or "", score is not None)


def test_an_anomaly_without_parts_needs_one_number() -> None:
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
    parts: list[float], alarm: bool, part: str | None, part_score: float | None
) -> None:
    decoder = make("anomaly", [(1,), (3,)], threshold=5.0, part_threshold=3.0, parts=["j1", "j2", "j3"])
    result = decoder.decode([np.array([3.0]), np.array(parts)], None)
    assert result.values == {"score": 3.0, "alarm": alarm, "part": part, "part_score": part_score}
    assert result.alarm is alarm
    assert set(decoder.fields()) == set(result.values)
    assert decoder.decode([np.array([5.0]), np.array(parts)], None).alarm is True
    with pytest.raises(ModelError, match="no part scores"):
        make("anomaly", [(1,)], threshold=5.0, part_threshold=3.0)


def test_an_unknown_decoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="known are anomaly, classification, detection, regression"):
        decoders.load("segmentation")
