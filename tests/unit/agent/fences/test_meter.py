"""The meter counts per UTC day, goes on after a restart, and survives a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.fences.meter import KEEP_S, KEPT_DAYS, RECORD_S, USAGE_FILE, Meter
from wire.clock import Clock
from wire.usage import Usage

DAY_NS = 86_400 * 10**9
NOON_NS = 1_795_348_800 * 10**9  # 2026-11-22


class Time(Clock):
    """A clock that a test moves, and the CPU time of a process."""

    def __init__(self) -> None:
        super().__init__()
        self.at_ns = NOON_NS
        self.at_s = self.cpu_s = 7.0

    def now_ns(self) -> int:
        return self.at_ns

    def flowing_s(self) -> float:
        return self.at_s

    def used(self) -> float:
        return self.cpu_s


def sample(meter: Meter, sent: int = 0, runs: int = 0, skipped: int = 0, rss: float = 50.0) -> None:
    meter.sample(sent_bytes=sent, inferences=runs, skipped=skipped, rss_mb=rss, disk_mb=rss / 10)


def test_a_day_adds_up_and_the_next_begins_at_zero(tmp_path: Path) -> None:
    time = Time()
    meter = Meter(tmp_path, time, time.used)
    time.cpu_s += 2.5
    sample(meter, 1_000, 10, 1, rss=80.0)
    sample(meter, 1_500, 30, 1, rss=60.0)
    time.at_ns += DAY_NS
    time.cpu_s += 1.0
    sample(meter, 1_600, 31, 4)
    assert meter.days == {
        "2026-11-22": Usage(cpu_s=2.5, peak_mb=80.0, disk_mb=8.0, sent_bytes=1_500, inferences=30, skipped=1),
        "2026-11-23": Usage(cpu_s=1.0, peak_mb=50.0, disk_mb=5.0, sent_bytes=100, inferences=1, skipped=3),
    }
    assert meter.fields()["day"] == "2026-11-23"
    assert meter.fields()["day_sent_bytes"] == 100


def test_it_goes_on_after_a_restart_and_writes_once_a_minute(tmp_path: Path) -> None:
    time = Time()
    meter = Meter(tmp_path, time, time.used)
    assert meter.due() is None
    sample(meter, 500)
    assert meter.due() is None, "a minute has not passed"
    time.at_s += 61
    content = meter.due()
    assert content is not None
    meter.write(content)
    assert meter.due() is None
    again = Meter(tmp_path, time, time.used)
    sample(again, 300)
    assert again.days["2026-11-22"].sent_bytes == 800
    assert sorted(path.name for path in tmp_path.iterdir()) == [USAGE_FILE]


def test_only_the_newest_days_are_kept(tmp_path: Path) -> None:
    time = Time()
    meter = Meter(tmp_path, time, time.used)
    for _ in range(KEPT_DAYS + 9):
        sample(meter)
        time.at_ns += DAY_NS
    assert len(meter.days) == KEPT_DAYS
    assert min(meter.days) == "2026-12-01"
    meter.write(meter.content())
    assert len(Meter(tmp_path, time, time.used).days) == KEPT_DAYS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"days":{"../x":{}}}',
        b'{"days":{"2026-11-22":{"sent_bytes":-5}}}',
        b'{"days":{"2026-11-22":{"cpu_s":"much"}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / USAGE_FILE).write_bytes(content)
    time = Time()
    meter = Meter(tmp_path, time, time.used)
    sample(meter, 5)
    assert meter.days == {"2026-11-22": Usage(peak_mb=50.0, disk_mb=5.0, sent_bytes=5)}
    meter.write(meter.content())
    assert Meter(tmp_path, time, time.used).days == meter.days


def test_a_disk_that_takes_nothing_does_not_end_the_agent(tmp_path: Path) -> None:
    time = Time()
    meter = Meter(tmp_path / "gone", time, time.used)
    sample(meter)
    meter.write(meter.content())


def recorded(meter: Meter, *, closing: bool = False) -> list[tuple[str, float]]:
    return [(one.day, one.cpu_s) for one in meter.records(closing=closing)]


def test_a_day_is_recorded_soon_then_each_hour_at_its_end_and_at_the_stop(tmp_path: Path) -> None:
    time = Time()
    meter = Meter(tmp_path, time, time.used)
    time.cpu_s += 1
    sample(meter)
    assert recorded(meter) == []
    time.at_s += KEEP_S
    assert recorded(meter) == [("2026-11-22", 1.0)]
    assert recorded(meter) == []
    time.at_s += RECORD_S
    assert recorded(meter) == [], "nothing changed"
    time.cpu_s += 1
    sample(meter)
    time.at_ns += DAY_NS
    assert recorded(meter) == [("2026-11-22", 2.0)], "the day ended"
    time.cpu_s += 1
    sample(meter)
    assert recorded(meter, closing=True) == [("2026-11-23", 1.0)]
    time.at_ns -= DAY_NS  # the clock is set back
    time.cpu_s += 1
    sample(meter)
    assert recorded(meter, closing=True) == [("2026-11-22", 3.0)]


def test_a_day_that_ended_without_a_record_is_recorded_after_the_next_start(tmp_path: Path) -> None:
    time = Time()
    meter = Meter(tmp_path, time, time.used)
    sample(meter)
    meter.write(meter.content())  # then the process is killed
    time.at_ns += 3 * DAY_NS
    again = Meter(tmp_path, time, time.used)
    sample(again)
    (record,) = again.records()
    assert record.day == "2026-11-22"
    again.write(again.content())
    assert [one.meter for one in Meter(tmp_path, time, time.used).records(closing=True)] == [record.meter]


def test_a_lost_file_is_another_meter_and_an_old_one_gets_its_id(tmp_path: Path) -> None:
    time = Time()
    (tmp_path / USAGE_FILE).write_text('{"v":1,"days":{"2026-11-22":{"cpu_s":5.0}}}')
    meters = []
    for _ in range(2):
        meter = Meter(tmp_path, time, time.used)
        sample(meter)
        (record,) = meter.records(closing=True)
        meters.append(record.meter)
        (tmp_path / USAGE_FILE).unlink(missing_ok=True)
    assert record.cpu_s == 0.0, "the second one begins at 0"
    assert len(set(meters)) == 2
