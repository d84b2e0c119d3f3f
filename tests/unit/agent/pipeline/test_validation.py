"""Readings with faults are flagged and counted, and values are never repaired silently."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Reading
from agent.pipeline.validation import Validator
from wire.clock import Clock
from wire.messages import Field, Quality, Stream

STREAMS = {
    "s": Stream(
        fields={
            "x": Field(t="f64", min=-1, max=1),
            "n": Field(t="i64"),
            "on": Field(t="bool"),
            "word": Field(t="str"),
        }
    ),
    "frames": Stream(kind="frame"),
}
T0 = 1_760_000_000 * 10**9


def validator() -> tuple[Validator, Counter[str]]:
    counters: Counter[str] = Counter()
    return Validator(STREAMS, Clock(), counters), counters


def test_a_good_row_passes_as_it_is() -> None:
    inspect, counters = validator()
    reading = Reading("s", T0, {"x": 0.5, "n": 3, "on": True, "word": None})
    assert inspect.check(reading) is reading
    assert not counters


@pytest.mark.parametrize(
    ("values", "quality", "kept"),
    [
        ({"x": 1.5}, Quality.OUT_OF_RANGE, {"x": 1.5}),
        ({"x": math.nan}, Quality.NOT_FINITE, {"x": None}),
        ({"x": -math.inf}, Quality.NOT_FINITE, {"x": None}),
        ({"x": 10**400}, Quality.NOT_FINITE, {"x": None}),
        ({"x": "0.5"}, Quality.WRONG_TYPE, {"x": None}),
        ({"x": True}, Quality.WRONG_TYPE, {"x": None}),
        ({"x": np.float32(0.5)}, Quality.WRONG_TYPE, {"x": None}),
        ({"n": 2.0}, Quality.WRONG_TYPE, {"n": None}),
        ({"n": 2**63}, Quality.WRONG_TYPE, {"n": None}),
        ({"on": 1}, Quality.WRONG_TYPE, {"on": None}),
        ({"word": "x" * 2_001}, Quality.WRONG_TYPE, {"word": None}),
        ({"word": "대구 중구"}, Quality.GOOD, {"word": "대구 중구"}),
        ({"word": "\ud800"}, Quality.WRONG_TYPE, {"word": None}),  # half of a pair: no UTF-8 is made of it
        ({"x": 1}, Quality.GOOD, {"x": 1.0}),
        ({"x": math.nan, "n": "a"}, Quality.WRONG_TYPE, {"x": None, "n": None}),
    ],
)
def test_a_bad_value_is_flagged_and_counted(values: Any, quality: Quality, kept: Any) -> None:
    inspect, counters = validator()
    found = inspect.check(Reading("s", T0, values))
    assert found is not None
    assert (found.quality, dict(found.values)) == (quality, kept)
    assert quality is Quality.GOOD or counters[quality.name.lower()] == 1


def test_times_that_repeat_or_go_back_are_flagged_per_stream() -> None:
    inspect, counters = validator()
    picture = np.zeros((2, 2, 3), np.uint8)
    qualities = []
    for at_ns in (T0, T0, T0 - 5, T0 - 4):
        found = inspect.check(Reading("s", at_ns, {"x": 0.0}))
        assert found is not None
        assert found.at_ns == at_ns
        qualities.append(found.quality)
    assert qualities == [Quality.GOOD, Quality.TIME_REPEATED, Quality.TIME_BACKWARD, Quality.GOOD]
    other = inspect.check(Reading("frames", T0 - 9, picture=picture))
    assert other is not None
    assert other.quality is Quality.GOOD
    assert counters == {"time_repeated": 1, "time_backward": 1}
    inspect.reopened()
    again = inspect.check(Reading("s", 5, {"x": 0.0}))
    assert again is not None
    assert again.quality is Quality.GOOD


@pytest.mark.parametrize("at_ns", [-1, 10**30])
def test_an_impossible_time_is_replaced_and_flagged(at_ns: int) -> None:
    inspect, counters = validator()
    found = inspect.check(Reading("s", at_ns, {"x": 0.0}))
    assert found is not None
    assert found.quality is Quality.UNCERTAIN
    assert abs(found.at_ns - Clock().now_ns()) < 60 * 10**9
    assert counters["impossible_time"] == 1


def test_the_devices_own_quality_is_kept_if_it_is_the_worst() -> None:
    inspect, counters = validator()
    found = inspect.check(Reading("s", T0, {"x": 7.0}, quality=Quality.BAD))
    assert found is not None
    assert found.quality is Quality.BAD
    assert counters == {"bad": 1, "out_of_range": 1}


def test_undeclared_streams_and_fields_are_dropped_and_counted() -> None:
    inspect, counters = validator()
    assert inspect.check(Reading("other", T0, {"x": 0.0})) is None
    assert inspect.check(Reading("frames", T0, {"x": 0.0})) is None
    assert inspect.check(Reading("s", T0, picture=np.zeros((2, 2, 3), np.uint8))) is None
    found = inspect.check(Reading("s", T0, {"x": 0.0, "spy": 1}))
    assert found is not None
    assert dict(found.values) == {"x": 0.0}
    assert counters == {"undeclared_stream": 3, "undeclared_field": 1}


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((2, 2), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 2, 3), np.float32),
        np.zeros((0, 2, 3), np.uint8),
        np.zeros((1, 20_000, 3), np.uint8),
    ],
)
def test_an_invalid_picture_is_dropped(picture: Any) -> None:
    inspect, counters = validator()
    assert inspect.check(Reading("frames", T0, picture=picture)) is None
    assert counters == {"bad_picture": 1}


@given(
    st.dictionaries(
        st.sampled_from(["x", "n", "on", "word", "spy"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    ),
    st.integers(-(2**70), 2**70),
)
def test_every_checked_reading_can_be_sent(values: dict[str, Any], at_ns: int) -> None:
    inspect, _ = validator()
    found = inspect.check(Reading("s", at_ns, values))
    assert found is not None
    for name, value in found.values.items():
        assert name in STREAMS["s"].fields
        assert not isinstance(value, float) or math.isfinite(value)
