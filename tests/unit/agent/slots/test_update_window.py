"""The time window for versions: days, times over midnight, time zones, summer time, and mistakes by line."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from agent.config import load
from agent.slots.update_window import Day, UpdateWindow
from tests.running_agent import replay, write_rows
from wire.clock import Clock
from wire.errors import ConfigError

WEEKEND: tuple[Day, ...] = ("sat", "sun")
CASES = [
    # days, times, zone, now in that zone, when it opens; "" while it is open
    ((), (), "UTC", "2026-11-30 12:00", ""),
    ((), ("22:00-05:00",), "Asia/Seoul", "2026-11-30 21:59", "2026-11-30 22:00"),
    ((), ("22:00-05:00",), "Asia/Seoul", "2026-11-30 22:00", ""),
    ((), ("22:00-05:00",), "Asia/Seoul", "2026-12-01 04:59", ""),
    ((), ("22:00-05:00",), "Asia/Seoul", "2026-12-01 05:00", "2026-12-01 22:00"),
    ((), ("12:00-13:00", "22:00-24:00"), "UTC", "2026-11-30 13:00", "2026-11-30 22:00"),
    ((), ("12:00-13:00", "22:00-24:00"), "UTC", "2026-11-30 23:59", ""),
    (WEEKEND, (), "UTC", "2026-11-30 12:00", "2026-12-05 00:00"),
    (WEEKEND, (), "UTC", "2026-12-06 23:59", ""),
    (("sun",), ("22:00-05:00",), "UTC", "2026-11-30 04:59", ""),
    (("sun",), ("22:00-05:00",), "UTC", "2026-11-29 04:59", "2026-11-29 22:00"),
    (("mon",), ("10:00-11:00",), "UTC", "2026-11-30 11:00", "2026-12-07 10:00"),
    # the clock goes from 02:00 to 03:00, and back from 03:00 to 02:00
    ((), ("02:30-04:00",), "Europe/Berlin", "2026-03-29 01:29", "2026-03-29 03:30"),
    ((), ("02:30-04:00",), "Europe/Berlin", "2026-03-29 03:45", ""),
    ((), ("01:00-02:30",), "Europe/Berlin", "2026-10-25 02:29", ""),
]  # fmt: skip


@pytest.mark.parametrize(("days", "times", "zone", "now", "opens"), CASES)
def test_when_a_window_opens(
    days: tuple[Day, ...], times: tuple[str, ...], zone: str, now: str, opens: str
) -> None:
    window = UpdateWindow(days=days, times=times, timezone=zone)
    at = datetime.strptime(now, "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone))
    found = window.opens(int(at.timestamp() * 1_000))
    assert (f"{found:%Y-%m-%d %H:%M}" if found else "") == opens


def test_a_window_that_a_step_of_the_clock_moves_out_of_is_closed() -> None:
    window = UpdateWindow(times=("10:00-11:00",))
    now_ms = 1_796_034_600_000  # 10:30
    assert window.opens(now_ms) is None
    for hours in (-3, 3):
        assert window.opens(now_ms + hours * 3_600_000) is not None


BAD = {
    "days: [monday]": "monday",
    "times: ['9:00-10:00']": "9:00-10:00",
    "times: ['22:00-25:00']": "22:00-25:00",
    "times: ['10:00-10:00']": "begins and ends at the same time",
    "timezone: Asia/Nowhere": "is not known on this machine",
    "timezone: ../../etc/passwd": "is not known on this machine",
    "zone: UTC": "zone",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_window_is_named_by_its_line(line: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", 10)
    document = {"node": "t/p/s/n", "broker": {"url": "mqtt://127.0.0.1:9"}, "devices": {"arm": replay()}}
    text = yaml.safe_dump(document) + f"versions:\n  window:\n    {line}\n"
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, Clock())
    number = text.splitlines().index(f"    {line}") + 1
    assert f"agent.yaml:{number}" in str(caught.value)
    assert BAD[line] in str(caught.value)
