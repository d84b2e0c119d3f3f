"""The replay adapter keeps the contract, with made recordings and with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from adapters.base import Adapter, DeviceUnreachable, ProtocolViolation, Reading
from adapters.replay.adapter import Replay
from adapters.replay.options import Column, ReplayOptions
from adapters.testing import AdapterContract, Rig
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.messages import Quality
from wire.simulation_clock import SimulationClock


class TestReplay(AdapterContract):
    adapter = Replay
    good_options: ClassVar = {"file": Path("walk.csv"), "fields": {"speed": "v"}, "time": "t"}
    bad_options: ClassVar = [
        ({"file": Path("walk.csv"), "fields": {}, "time": "t"}, "length"),
        ({"file": Path("walk.csv"), "fields": {"speed": "v"}}, "rate_hz"),
        ({"file": Path("walk.csv"), "fields": {"speed": "v"}, "time": "t", "rate": "asap"}, "recorded"),
        ({"file": Path("walk.bin"), "fields": {"speed": "v"}, "time": "t"}, "format"),
    ]

    @pytest.fixture
    async def rig(self, tmp_path: Path) -> Rig:  # type: ignore[override]  # there is nothing to clean up
        path = tmp_path / "walk.csv"
        path.write_text("t,v\n" + "".join(f"{1_700_000_000 + i / 100},{i}\n" for i in range(100)))
        return Rig(lambda: Replay(ReplayOptions(file=path, fields={"speed": "v"}, time="t"), Clock()))


def replay(path: Path, clock: Clock | None = None, **options: Any) -> Replay:
    chosen: dict[str, Any] = {"file": path, "fields": {"v": "v"}, "time": "t", **options}
    return Replay(ReplayOptions(**chosen), clock or Clock())


async def read(adapter: Adapter, n: int | None = None) -> list[Reading]:
    seen: list[Reading] = []
    async with asyncio.timeout(60), adapter:
        async for reading in adapter:
            seen.append(reading)
            if len(seen) == n:
                break
    return seen


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ten seconds at 10 Hz."""
    path = tmp_path / "r.csv"
    path.write_text("t,v\n" + "".join(f"{1_700_000_000 + i / 10:.1f},{i}\n" for i in range(100)))
    return path


async def test_it_plays_at_the_clocks_pace(recording: Path) -> None:
    clock = Clock(rate=20)  # ten seconds in half a second
    start = clock.now_ns()
    rows = await read(replay(recording, clock))
    assert len(rows) == 100
    assert 0 <= rows[0].at_ns - start < 120 * NS_PER_S  # 6 s of a busy machine
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S // 10}
    assert clock.now_ns() >= rows[-1].at_ns


async def test_twice_as_fast_is_half_as_long(recording: Path) -> None:
    rows = await read(replay(recording, Clock(rate=20), rate=2.0))
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S // 20}


async def test_as_fast_as_possible_with_the_times_of_the_recording(recording: Path) -> None:
    rows = await read(replay(recording, rate="asap", times="recorded"))
    assert [row.at_ns for row in rows] == [1_700_000_000 * NS_PER_S + i * NS_PER_S // 10 for i in range(100)]
    assert [row.values["v"] for row in rows] == list(range(100))


@pytest.mark.parametrize("timed", [True, False])
async def test_a_loop_goes_on_in_time(recording: Path, timed: bool) -> None:
    how = {"time": "t"} if timed else {"time": "", "rate_hz": 10.0}
    rows = await read(replay(recording, rate="asap", times="recorded", loop=True, **how), 250)
    assert {b.at_ns - a.at_ns for a, b in pairwise(rows)} == {NS_PER_S // 10}
    assert [row.values["v"] for row in rows[99:102]] == [99, 0, 1]
    assert all(row.quality is Quality.GOOD for row in rows)


async def test_times_out_of_order_are_flagged(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("t,v\n10,1\n12,2\n12,3\n11,4\n13,5\n")
    rows = await read(replay(path, rate="asap", times="recorded"))
    ok, again, back = Quality.GOOD, Quality.TIME_REPEATED, Quality.TIME_BACKWARD
    assert [row.quality for row in rows] == [ok, ok, again, back, ok]


@pytest.mark.parametrize(
    ("rate_hz", "wakes", "late_ms"), [(50.0, 9, 120), (12.5, 33, 120), (7.5, 51, 0)], ids=str
)
async def test_fast_rows_come_together_with_their_exact_times(
    tmp_path: Path, rate_hz: float, wakes: int, late_ms: int
) -> None:
    """Rows within an eighth of a second come at multiples of it, never early; slower rows come when due."""
    path, rows, step_ns = tmp_path / "r.csv", 51, int(NS_PER_S / rate_hz)
    path.write_text("v\n" + "".join(f"{i}\n" for i in range(rows)))
    start = 1_800_000_000 * NS_PER_S
    async with SimulationClock(start) as clock:
        clock.pace = 1_000
        await clock.sleep(0.125)  # from now on this task holds the clock while it works
        async with asyncio.timeout(60), replay(path, clock, time="", rate_hz=rate_hz) as adapter:
            came = [(clock.now_ns(), reading.at_ns) async for reading in adapter]
    begin_ns = came[0][1]
    assert [at_ns - begin_ns for _, at_ns in came] == [i * step_ns for i in range(rows)]
    late = [now_ns - at_ns for now_ns, at_ns in came]
    assert min(late) >= 0
    assert max(late) == late_ms * NS_PER_MS
    assert len({now_ns for now_ns, _ in came}) == wakes


async def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnreachable, match="No such file"):
        await read(replay(tmp_path / "none.csv"))
    with pytest.raises(DeviceUnreachable, match="directory"):
        await read(replay(tmp_path, format="csv"))
    path = tmp_path / "empty.csv"
    path.write_text("t,v\n")
    with pytest.raises(ProtocolViolation, match="no row"):
        await read(replay(path, loop=True))


# --- real recordings

REAL: dict[str, Callable[[Path], ReplayOptions]] = {
    "ai4i": lambda root: ReplayOptions(
        file=root / "signals/ai4i/ai4i2020.csv",
        fields={
            "air": Column(column="Air temperature [K]", unit="K", dec=1, min=250, max=350),
            "torque": Column(column="Torque [Nm]", unit="N.m", dec=1),
            "kind": Column(column="Type", t="str"),
            "failed": Column(column="Machine failure", t="bool"),
        },
        rate_hz=1.0,
        rate="asap",
        times="recorded",
    ),
    "airquality": lambda root: ReplayOptions(
        file=root / "signals/airquality/AirQualityUCI.csv",
        fields={
            "co": Column(column="CO_GT", unit="mg/m3", dec=1),
            "temperature": Column(column="T", unit="Cel", dec=1),
        },
        time=["Date", "Time"],
        time_format="%d/%m/%Y %H:%M:%S",
        timezone="Europe/Rome",
        missing=[-200],
        rate="asap",
        times="recorded",
    ),
    "nab": lambda root: ReplayOptions(
        file=root / "signals/nab/machine_temperature_system_failure.csv",
        fields={"temperature": Column(column="value", unit="[degF]", dec=2)},
        time="timestamp",
        rate="asap",
        times="recorded",
    ),
}


@pytest.mark.field
@pytest.mark.parametrize("name", REAL)
async def test_real_recordings(field_data: Path, name: str) -> None:
    options = REAL[name](field_data)
    adapter = Replay(options, Clock())
    rows = await read(adapter)
    lines = options.file.read_text(encoding="utf-8-sig").splitlines()
    assert len(rows) == len([line for line in lines[1:] if line.strip(",; ")])
    wrong = [row for row in rows if row.quality is Quality.WRONG_TYPE]
    assert wrong == []
    if name == "ai4i":
        assert sum(row.values["failed"] is True for row in rows) == 339  # the number in the data set's paper
        assert adapter.counters == {}
    if name == "airquality":
        first = datetime(2004, 3, 10, 17, tzinfo=UTC)  # 18:00 in Rome
        assert rows[0].at_ns == int(first.timestamp()) * NS_PER_S
        assert adapter.counters["missing_cells"] == sum(
            line.split(",")[column].strip() in ("-200", "-200.0", "")
            for line in lines[1:]
            for column in (2, 12)
        )
        assert not any(row.values["temperature"] == -200 for row in rows)
    if name == "nab":
        assert {row.quality for row in rows} <= {Quality.GOOD, Quality.TIME_BACKWARD, Quality.TIME_REPEATED}
        assert len(rows) == 22_695
