"""The windows of a draft: on the grid of the local clock, from the first stored row on."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from edgebed.pilot_start.windows import Grid, choose, midnight_ms, seconds
from wire.errors import EdgebedError

SEOUL = ZoneInfo("Asia/Seoul")
BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def grid(unit: str, now: str, zone: ZoneInfo = SEOUL, shifts: tuple[str, ...] = ()) -> Grid:
    return Grid(unit, zone, midnight_ms(ms(now), zone), shifts)


@pytest.mark.parametrize(
    ("unit", "begins"),
    [
        ("10s", "2027-03-01 04:05:10"),
        ("30min", "2027-03-01 04:00"),
        ("8h", "2027-03-01 00:00"),
        ("day", "2027-03-01 00:00"),
    ],
)
def test_a_period_begins_at_a_whole_multiple_from_the_local_midnight(unit: str, begins: str) -> None:
    now = "2027-02-28T19:05:17Z"  # 04:05:17 in Seoul
    found = grid(unit, now)
    assert found.text(found.number(ms(now))) == begins
    assert found.start_ms(found.number(ms(now)) + 1) > ms(now)


@pytest.mark.parametrize(
    ("now", "begins"),
    [("2027-03-01 05:59", "2027-02-28 22:00"), ("2027-03-01 06:00", "2027-03-01 06:00")],
)
def test_shifts_begin_by_the_local_clock(now: str, begins: str) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=SEOUL).isoformat()
    found = grid("shift", at, shifts=("06:00", "14:00", "22:00"))
    assert found.text(found.number(ms(at))) == begins


def test_days_follow_the_change_of_the_clocks() -> None:
    found = grid("day", "2027-03-27T12:00:00Z", BERLIN)
    number = found.number(ms("2027-03-28T12:00:00Z"))
    assert found.text(number) == "2027-03-28 00:00"
    assert found.start_ms(number + 1) - found.start_ms(number) == 23 * 3_600_000


def test_the_baseline_is_the_newest_stored_periods() -> None:
    found = Grid("10s", UTC, 0)
    made = choose(found, range(100, 200), 2_003_000, baseline=24, periods=20, lead_s=120)
    assert made.baseline == (176, 200)
    assert made.stored == 24
    assert made.trial == (213, 233), "the first start that is two minutes away"


def test_a_baseline_that_is_too_short_goes_on() -> None:
    made = choose(Grid("10s", UTC, 0), [195, 196, 198, 199], 2_003_000, baseline=24, periods=20, lead_s=120)
    assert made.baseline == (195, 219)
    assert made.stored == 4
    assert made.trial == (231, 251)


def test_without_rows_there_is_no_baseline() -> None:
    with pytest.raises(EdgebedError, match="is its device read"):
        choose(Grid("10s", UTC, 0), [], 2_003_000, baseline=24, periods=20, lead_s=120)


@pytest.mark.parametrize(
    ("text", "found"),
    [("20s", 20), ("2min", 120), ("8h", 28_800), ("3d", 259_200), ("day", None), ("0s", None)],
)
def test_a_length_is_read(text: str, found: int | None) -> None:
    assert seconds(text) == found
