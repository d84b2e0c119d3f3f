"""Classification: the best label, its score and its alarm."""

from __future__ import annotations

import math
from typing import Any

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


@pytest.mark.parametrize(
    ("options", "number", "scores"),
    [
        ({}, 0.75, (0.25, 0.75)),
        ({"sigmoid": True}, math.log(3), (0.25, 0.75)),
        ({"margins": True}, -2.0, (2.0, -2.0)),
    ],
)
def test_one_number_is_the_score_of_the_second_label(
    make, options: dict[str, Any], number: float, scores: tuple[float, float]
) -> None:
    decoder = make("classification", [(-1, 1)], labels=["no", "yes"], binary=True, scores=True, **options)
    found = decoder.decode([np.array([[number]], np.float32)], None).values
    assert (found["no"], found["yes"]) == pytest.approx(scores)
    assert found["label"] == ("yes" if scores[1] > scores[0] else "no")


@pytest.mark.parametrize(
    ("options", "numbers", "doubted"),
    [
        ({}, [0.0, 1.005], False),
        ({}, [0.5, 1.2], True),
        ({}, [-0.2, 0.9], True),
        ({"softmax": True}, [-7.0, 9.0], False),
        ({"sigmoid": True}, [-7.0, 9.0], False),
        ({"margins": True}, [-7.0, 9.0], False),
        ({}, [math.nan, 0.9], False),
    ],
)
def test_scores_beyond_0_and_1_are_doubted(make, options: Any, numbers: list[float], doubted: bool) -> None:
    decoder = make("classification", [(1, 2)], labels=["a", "b"], **options)
    why = decoder.doubt([np.array([numbers], np.float32)])
    assert ("a score is 0 to 1: the model gives logits" in why) == doubted


def test_a_long_list_of_labels_is_cut_between_two(make) -> None:
    labels = [f"label {at:03}" for at in range(300)]
    decoder = make("classification", [(1, 300)], labels=labels, multi=True)
    found = decoder.decode([np.ones((1, 300))], None).values["found"]
    assert len(found) <= 500
    assert found.split(", ") == labels[: found.count(",") + 1]
    assert found.count(",") > 40


def test_one_number_needs_two_labels_and_the_word_for_it(make) -> None:
    with pytest.raises(ModelError, match="2 labels do not fit"):
        make("classification", [(1, 1)], labels=["no", "yes"])
    with pytest.raises(ModelError, match="two labels and no softmax"):
        make("classification", [(1, 1)], labels=["no"], binary=True)
    with pytest.raises(ModelError, match=r"1 number \(binary\) do not fit"):
        make("classification", [(1, 2)], labels=["no", "yes"], binary=True)
