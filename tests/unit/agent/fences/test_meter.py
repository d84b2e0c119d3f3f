"""The meter counts per UTC day, goes on after a restart, and survives a damaged file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.fences.meter import KEPT_DAYS, USAGE_FILE, Meter, Usage
from wire.clock import Clock

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
