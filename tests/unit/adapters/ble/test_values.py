"""Heart Rate Measurements byte by byte, compared with Bumble's own writer, and the times of beats."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from bumble.profiles.heart_rate_service import HeartRateService
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import OptionsError
from adapters.ble.options import Characteristic, LayoutPart
from adapters.ble.values import BeatTimes, Layout, Measurement, heart_rate
from wire.clock import NS_PER_MS, NS_PER_S
from wire.messages import Quality

MINUTE = 60 * NS_PER_S


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("00 3c", Measurement(60, None, None, ())),
        ("06 48", Measurement(72, True, None, ())),
        ("04 00", Measurement(0, False, None, ())),
        ("02 48", Measurement(72, None, None, ())),  # detected, but detecting is not supported
        ("01 2c 01", Measurement(300, None, None, ())),
        ("08 50 e8 03", Measurement(80, None, 1000, ())),
        ("10 3c 00 04", Measurement(60, None, None, (1000.0,))),
        ("16 78 00 02 00 02", Measurement(120, True, None, (500.0, 500.0))),
        ("1f 2c 01 ff ff 01 00", Measurement(300, True, 65_535, (1000 / 1024,))),
        ("10 3c", Measurement(60, None, None, ())),
        ("e0 3c aa bb", Measurement(60, None, None, ())),  # bits and bytes of a later version
    ],
)
def test_the_layout_of_the_service(data: str, expected: Measurement) -> None:
    assert heart_rate(bytes.fromhex(data)) == expected


@pytest.mark.parametrize("data", ["", "00", "01 2c", "08 50 e8", "10 3c 00", "18 3c 01 02 03"])
def test_data_that_is_too_short_is_an_error(data: str) -> None:
    with pytest.raises(ValueError, match="not a Heart Rate Measurement"):
        heart_rate(bytes.fromhex(data))


@given(
    st.integers(0, 65_535),
    st.none() | st.booleans(),
    st.none() | st.integers(0, 65_535),
    st.lists(st.integers(1, 65_535), min_size=1, max_size=9),
)
def test_measurements_that_bumble_writes_are_read(
    rate: int, contact: bool | None, energy: int | None, rr: list[int]
) -> None:
    written = bytes(
        HeartRateService.HeartRateMeasurement(
            heart_rate=rate,
            sensor_contact_detected=contact,
            energy_expended=energy,
            rr_intervals=[ticks / 1024 for ticks in rr],
        )
    )
    assert heart_rate(written) == Measurement(rate, contact, energy, tuple(t * 1000 / 1024 for t in rr))


@given(st.binary(max_size=40))
def test_no_bytes_raise_another_error(data: bytes) -> None:
    try:
        expected = heart_rate(data)
    except ValueError:
        return
    assert 0 <= expected.rate <= 65_535


# --- the times of beats


def test_beats_have_the_intervals_that_the_device_sends() -> None:
    times, beats = BeatTimes(), []
    sent = [[800.0], [810.0, 790.0], [], [805.0], [795.0, 800.0]]
    for second, intervals in enumerate(sent):
        if intervals:
            beats += times.stamp(intervals, MINUTE + second * NS_PER_S)
    steps = [b - a for a, b in pairwise(beats)]
    assert steps[-2:] == [795 * NS_PER_MS, 800 * NS_PER_MS]
    assert all(step > 0 for step in steps)


@given(
    st.lists(
        st.tuples(st.lists(st.floats(0.97, 64_000), min_size=0, max_size=9), st.floats(-10, 10)), max_size=30
    )
)
def test_beats_never_go_back_and_are_never_later_than_received(sent: list[tuple[list[float], float]]) -> None:
    times, receipt_ns, last_ns = BeatTimes(), 1_000 * NS_PER_S, 0
    for intervals, after_s in sent:
        receipt_ns += max(1, round(after_s * 1e9))
        for at_ns in times.stamp(intervals, receipt_ns) if intervals else [times.now(receipt_ns)]:
            assert at_ns > last_ns
            assert at_ns <= max(receipt_ns, last_ns + 1)
            last_ns = at_ns


def test_lost_beats_are_a_gap() -> None:
    times = BeatTimes()
    times.stamp([800.0], MINUTE)
    assert times.gaps == 0
    assert times.stamp([800.0], MINUTE + 60 * NS_PER_S) == [MINUTE + 60 * NS_PER_S]
    assert times.gaps == 1


def test_beats_follow_the_agents_clock_when_it_is_set_back() -> None:
    times = BeatTimes()
    times.stamp([800.0], MINUTE)
    assert times.stamp([800.0], MINUTE - 30 * NS_PER_S) == [MINUTE - 30 * NS_PER_S]
    assert times.now(MINUTE - 45 * NS_PER_S) == MINUTE - 45 * NS_PER_S


# --- declared layouts


def layout(text: str, **fields: LayoutPart) -> Layout:
    return Layout("more", Characteristic(uuid="2A1C", layout=text, fields=fields))


def test_values_of_a_declared_layout() -> None:
    read = layout(
        "<hB?xi",
        a=LayoutPart(scale=0.01),
        b=LayoutPart(t="i64"),
        c=LayoutPart(t="bool"),
        d=LayoutPart(t="i64", scale=0.5),
    )
    data = struct.pack("<hB?xi", -1234, 200, True, 6)
    assert read.read(data + b"and more") == ({"a": -12.34, "b": 200, "c": True, "d": 3}, Quality.GOOD)
    values, quality = read.read(struct.pack("<hB?xi", 1, 2, False, 7))
    assert (values["d"], quality) == (None, Quality.WRONG_TYPE)
    with pytest.raises(ValueError, match="buffer"):
        read.read(data[:-1])


@pytest.mark.parametrize(
    "expected", ["", "<", "P", "4s", ">h", "9999999999999B", "999999999999999999999999B", "hh"]
)
def test_a_wrong_layout_is_refused(expected: str) -> None:
    with pytest.raises(OptionsError, match="layout"):
        layout(expected, a=LayoutPart())


@given(st.binary(max_size=16))
def test_no_value_raises_another_error(data: bytes) -> None:
    read = layout("<fdh", a=LayoutPart(t="i64"), b=LayoutPart(t="i64", scale=2.0), c=LayoutPart(t="str"))
    try:
        values, _ = read.read(data)
    except ValueError:
        return
    assert set(values) == {"a", "b", "c"}
