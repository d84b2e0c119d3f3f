"""A plausible device clock is used; an implausible one is shifted, counted and marked UNCERTAIN."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime, timedelta

import pytest

from adapters.base import OptionsError
from adapters.device_time import DeviceClock, believed, checked_time, time_zone
from wire.clock import NS_PER_S
from wire.messages import Quality

NOW = 1_795_356_000 * NS_PER_S
DAY, YEARS = 86_400 * NS_PER_S, 40 * 365 * 86_400 * NS_PER_S
GOOD, DOUBT = Quality.GOOD, Quality.UNCERTAIN


def clock(counters: Counter[str], ahead_s: float = 86_400) -> DeviceClock:
    log = logging.getLogger("edgebed.adapters.test")
    return DeviceClock("cobot", log, counters, max_past_s=86_400, max_ahead_s=ahead_s)


def test_a_clock_that_is_right_is_not_changed() -> None:
    counters: Counter[str] = Counter()
    found = clock(counters)
    for off_ns in (0, -DAY, 5 * 60 * NS_PER_S, -3, 7):
        assert found.stamp(NOW + off_ns, NOW) == (NOW + off_ns, GOOD)
    assert counters == {}


def test_a_clock_that_is_set_while_it_is_read_is_believed_from_then_on() -> None:
    """A controller boots in 1970 and gets the time later: its rows must not end up in 2082."""
    counters: Counter[str] = Counter()
    found = clock(counters)
    for second in range(5):
        at_ns = second * NS_PER_S
        assert found.stamp(at_ns + 17, NOW + at_ns) == (NOW + at_ns, DOUBT)  # its steps stay
    for second in range(5, 10):
        at_ns = NOW + second * NS_PER_S
        assert found.stamp(at_ns, at_ns) == (at_ns, GOOD)
    assert counters == {"clock_not_believed": 1}


def test_one_time_from_the_future_affects_only_its_own_row() -> None:
    counters: Counter[str] = Counter()
    found = clock(counters, ahead_s=120)
    assert found.stamp(NOW, NOW) == (NOW, GOOD)
    assert found.stamp(NOW + YEARS, NOW) == (NOW, DOUBT)
    assert found.stamp(NOW + 1, NOW) == (NOW + 1, GOOD)
    assert found.stamp(NOW + 121 * NS_PER_S, NOW)[1] is DOUBT
    assert counters == {"clock_not_believed": 2}


def test_one_plausible_time_of_a_message_is_enough() -> None:
    counters: Counter[str] = Counter()
    found = clock(counters)
    found.judge(
        [NOW - YEARS, NOW, NOW + YEARS], NOW
    )  # the first has not changed for years, the last is wrong
    assert (found.shift_ns, found.quality) == (0, GOOD)
    found.judge([], NOW)
    found.judge([NOW - YEARS, NOW - YEARS - 5], NOW)
    assert (found.shift_ns, found.quality) == (YEARS, DOUBT)
    found.judge([], NOW)
    assert found.limits(NOW) == (NOW - YEARS - DAY, NOW - YEARS + DAY)
    assert counters == {"clock_not_believed": 1}


def test_a_message_without_a_time_gets_the_time_of_receipt(caplog: pytest.LogCaptureFixture) -> None:
    counters: Counter[str] = Counter()
    found = clock(counters)
    assert found.stamp(None, NOW) == (NOW, DOUBT)
    assert counters == {"no_time": 1}
    for number in range(1, 100):  # a clock that jumps with every row does not fill the log
        found.stamp(NOW - number * YEARS, NOW)
    assert counters["clock_not_believed"] == 99
    assert len(caplog.records) == 10


def test_an_adapter_of_another_package_may_count_in_a_plain_dict() -> None:
    """`counters` was a dict and `checked_time` was called `believed` in 0.1.0."""
    counters: dict[str, int] = {}
    found = DeviceClock("x", logging.getLogger("x"), counters, max_past_s=1, max_ahead_s=1)
    assert found.stamp(None, NOW) == (NOW, DOUBT)
    assert found.stamp(NOW - DAY, NOW) == (NOW, DOUBT)
    assert believed(None, NOW, 1.0, counters) == (NOW, DOUBT)
    assert believed(NOW - DAY, NOW, 1.0, counters) == (NOW, DOUBT)
    assert counters == {"no_time": 2, "clock_not_believed": 2}


def test_a_time_of_another_zone_is_used_and_flagged() -> None:
    """Local time that is sent as UTC: the rows are hours in the future."""
    hours, counters = 9 * 3600 * NS_PER_S, Counter[str]()
    assert checked_time(NOW + hours, NOW, 86_400, counters) == (NOW + hours, DOUBT)
    assert checked_time(NOW - hours, NOW, 86_400, counters) == (NOW - hours, GOOD), "it may have waited"
    assert counters == {"time_ahead": 1}
    found = clock(counters)
    for _ in range(3):
        assert found.stamp(NOW + hours, NOW) == (NOW + hours, DOUBT)
    assert counters == {"time_ahead": 2}, "once, not for each reading"
    assert found.stamp(NOW, NOW) == (NOW, GOOD)


def test_time_zones_have_names() -> None:
    assert time_zone("Asia/Seoul").utcoffset(datetime(2026, 1, 1)) == timedelta(hours=9)
    for name in ("Seoul", "../etc", ""):
        with pytest.raises(OptionsError, match="is not known on this machine"):
            time_zone(name)
