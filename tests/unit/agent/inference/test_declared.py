"""What a decoder of another package gives is checked wherever the model runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agent.inference.declared import MAX_FIELDS, checked, require_fields
from agent.inference.decoders import ModelError, Result
from agent.inference.package import load_package
from agent.inference.session import Model
from wire.messages import Field

FIELDS = {"x": Field(), "name": Field(t="str")}


def test_a_result_with_numbers_of_numpy_becomes_one_of_python() -> None:
    given = Result({"x": np.float32(2)}, alarm=np.bool_(True), score=np.float64(0.5))  # type: ignore[dict-item, arg-type]
    found = checked(given, FIELDS)
    assert (found.values, found.alarm, found.score) == ({"x": 2.0}, True, 0.5)
    assert [type(each) for each in (found.values["x"], found.alarm, found.score)] == [float, bool, float]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (None, "gave NoneType, not a Result"),
        ({"x": 1.0}, "gave dict, not a Result"),
        (Result({"y": 1.0}), "not declared"),
        (Result({"x": "text"}), "not declared"),
        (Result({"name": "x" * 10_000}), "not declared"),
        (Result({"x": np.ones((1, 1))}), "ndarray cannot be sent"),  # type: ignore[dict-item]
        (Result({"x": object()}), "object cannot be sent"),  # type: ignore[dict-item]
        (Result({"x": 1j}), "complex cannot be sent"),  # type: ignore[dict-item]
        (Result({"x": 10**400}), "cannot be used"),
        (Result({}, score=math.nan), "main finding"),
        (Result({}, top=None), "cannot be used"),  # type: ignore[arg-type]
        (Result({}, boxes=["box"]), "cannot be used"),  # type: ignore[list-item]
        (Result({}, top="\x1b" * 200_000), "cannot be used"),
    ],
)
def test_another_result_is_one_sentence(result: Any, why: str) -> None:
    with pytest.raises(ModelError, match=why) as caught:
        checked(result, FIELDS)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (None, "not a dict"),
        ({"x": 1}, "not a dict"),
        ({1: Field()}, "declares the field"),
        ({"\u00c4rger": Field()}, "declares the field"),
        ({"infer_ms": Field()}, "agent itself adds"),
        ({"frame": Field()}, "agent itself adds"),
        ({f"x{at}": Field() for at in range(MAX_FIELDS + 1)}, "2001 fields; 2000 are allowed"),
    ],
)
def test_fields_that_cannot_be_sent_are_refused(fields: Any, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        require_fields(fields, of_pictures=True)


def test_a_row_of_a_window_may_have_a_frame_and_no_time_of_its_own(packages: Any) -> None:
    body = packages.constant(np.ones((1, 1)))
    named = {name: {"decoder": "regression", "fields": {name: {}}} for name in ("frame", "infer_ms")}
    assert Model(load_package(packages.write(body, output=named["frame"]))).fields().keys() == {"frame"}
    with pytest.raises(ModelError, match="'infer_ms', which the agent itself adds"):
        Model(load_package(packages.write(body, output=named["infer_ms"])))
