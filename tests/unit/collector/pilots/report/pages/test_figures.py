"""Numbers, units and times as a reader expects them."""

from __future__ import annotations

import pytest

from collector.pilots.report.pages import figures
from collector.pilots.report.pages.figures import Times


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "shown"),
    [
        (1234567.8, 0, False, "1,234,568"),
        (-0.1234, 3, True, "−0.123"),
        (0.25, 2, True, "+0.25"),
        (-0.0001, 2, True, "0.00"),
        (0.0, 0, True, "0"),
        (1.5e300, 2, False, "1.5e+300"),
        (0.00000123, 6, False, "1.23e−06"),
    ],
)
def test_numbers(value: float, decimals: int, signed: bool, shown: str) -> None:
    assert figures.number(value, decimals, signed=signed) == shown


def test_digits_follow_the_largest_value() -> None:
    assert [figures.decimals_of(each) for each in (1234.0, 12.3, 1.23, 0.0123, 0.0, None)] == [
        0,
        1,
        2,
        4,
        0,
        0,
    ]


def test_digits_of_an_effect_follow_its_interval() -> None:
    assert figures.decimals_of_interval(-24.31, -32.9, -15.1) == 1
    assert figures.decimals_of_interval(-0.024, -0.031, -0.017) == 4
    assert figures.decimals_of_interval(-24.31, -80.0, None) == 1


@pytest.mark.parametrize(
    ("unit", "en", "ko"),
    [
        ("kW.h/{part}", "kWh/part", "kWh/개"),
        ("{part}/h", "part/h", "개/시간"),
        ("km/h", "km/h", "km/h"),
        ("kW.h/km", "kWh/km", "kWh/km"),
        ("kW.h/d", "kWh/day", "kWh/일"),
        ("1/h", "/h", "/시간"),
        ("1", "", ""),
        ("Cel", "°C", "°C"),
        ("min", "min", "분"),
        ("%", "%", "%"),
    ],
)
def test_units(unit: str, en: str, ko: str) -> None:
    assert (figures.unit_text(unit, "en"), figures.unit_text(unit, "ko")) == (en, ko)


def test_a_share_is_shown_in_percent() -> None:
    assert figures.is_share("1", "defect-rate")
    assert not figures.is_share("1", "stops")
    assert not figures.is_share("%", "defect-rate")  # it is in percent already
    assert figures.percent(0.1234, "en") == "12.3\u00a0%"
    assert figures.percent(0.1234, "ko") == "12.3%"
    assert figures.percent(None, "ko") == "–"


def test_almost_all_is_not_shown_as_all() -> None:
    shown = [figures.share_of_time(share, "en") for share in (0.0, 0.00001, 0.99999, 1.0)]
    assert shown == ["0\u00a0%", "0.1\u00a0%", "99.9\u00a0%", "100\u00a0%"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 s"),
        (0.4, "400 ms"),
        (12.0, "12 s"),
        (1800.0, "30 min"),
        (5400.0, "90 min"),
        (9000.0, "2.5 h"),
    ],
)
def test_lengths_of_time(seconds: float, shown: str) -> None:
    assert figures.span_text(seconds, "en").replace("\u00a0", " ") == shown


def test_korean_units_of_time_stand_beside_their_number() -> None:
    assert [figures.span_text(each, "ko") for each in (12.0, 1800.0, 0.4)] == ["12초", "30분", "400\u00a0ms"]


def test_times_are_in_the_zone_of_the_plan() -> None:
    ms = 1_803_848_400_000
    assert Times("Asia/Seoul").at(ms) == "2027-03-01 06:00"
    assert Times("America/New_York").at(ms + 1_000) == "2027-02-28 16:00:01"


def test_an_unknown_zone_is_utc_and_says_so() -> None:
    times = Times("Mars/Olympus")
    assert (times.name, times.at(1_803_848_400_000)) == ("UTC", "2027-02-28 21:00")


def test_a_moment_beyond_the_calendar() -> None:
    assert Times("Asia/Seoul").at(10**18) == "–"
