"""The heartbeat is flat and complete, its schedule follows the backlog, status.json is whole or old."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.health import (
    CounterSchedule,
    Health,
    HeartbeatSchedule,
    is_well,
    nonzero_counters,
    read_status,
    rss_mb,
    status_lines,
    write_status,
)
from agent.outbox import OutboxStats
from wire.clock import Clock
from wire.codec import decode_live, encode
from wire.errors import ConfigError, Unreachable
from wire.messages import MAX_COUNTERS, ClockState, DeviceState, Refused

T0 = 1_795_356_000_000


def test_a_heartbeat_is_a_live_body_with_every_promised_field() -> None:
    stats = OutboxStats(
        depth=3,
        oldest_s=1.26,
        bytes=900,
        head=12,
        acked=9,
        taken_rows=70,
        trouble="disk full",
        trouble_code="disk-full",
    )
    beat = decode_live(
        encode(Health(Clock(), "ab12cd34").heartbeat(stats, "0123456789abcdef", ClockState.NTP))
    )
    promised = "ts ep head acked depth oldest_s bytes taken_rows dropped_rows clk uptime_s boot"
    assert {*promised.split(), "rss_mb", "cpu_pct", "temp_c"} <= set(beat)
    assert (beat["head"], beat["depth"], beat["oldest_s"], beat["clk"]) == (12, 3, 1.3, 1)
    assert beat["ep"] == "0123456789abcdef"
    assert (beat["trouble"], beat["trouble_code"]) == ("disk full", "disk-full")
    assert 5 < rss_mb() < 10_000


def test_a_degraded_model_is_shown_and_the_agent_is_well() -> None:
    model = {
        "state": "ok",
        "degraded": True,
        "name": "m",
        "ver": "1",
        "runs": 7,
        "why": "its pictures are dark",
    }
    document = {"running": True, "age_s": 0.0, "connected": True, "models": {"slot": model}}
    assert "model slot: degraded, m@1, 7 runs: its pictures are dark" in list(status_lines(document))
    assert is_well(document)


def test_a_refusal_is_in_the_heartbeat_and_in_the_status() -> None:
    health, why = Health(Clock(), "ab12cd34"), "it exceeds shares.node.names of the collector"
    quiet = health.heartbeat(OutboxStats(), "0123456789abcdef", ClockState.NTP)
    assert not [name for name in quiet if name.startswith("refused")]
    refused = Refused(code="share-names", until=T0, why=why)
    beat = decode_live(
        encode(health.heartbeat(OutboxStats(), "0123456789abcdef", ClockState.NTP, None, refused))
    )
    assert (beat["refused"], beat["refused_code"], beat["refused_until"]) == (why, "share-names", T0)
    lines = list(status_lines({**beat, "running": True, "age_s": 0.0}))
    assert f"PROBLEM: the collector refuses messages, which wait in the outbox: {why}" in lines
    assert not is_well({**beat, "running": True, "age_s": 0.0, "connected": True}), "PROBLEM is not exit 0"
    calm = {**quiet, "running": True, "age_s": 0.0, "connected": True}
    assert is_well(calm)
    assert not [line for line in status_lines(calm) if "PROBLEM" in line]
    one = {"devices": {"arm": {"state": "ok", "readings": 1}}, "models": {"m": {"state": "ok", "runs": 1}}}
    used = "\n".join(status_lines({**calm, "day": "2026-11-22", "fence_by": "cgroup"}))
    assert "; the kernel keeps CPU and memory too" in used
    shown = "\n".join(status_lines({**calm, **one, "depth": 1}))
    assert "outbox: 1 message waits" in shown
    assert "ok, 1 reading\n" in shown
    assert "ok, 1 run\n" in shown
    full = {**calm, "trouble": "disk full", "trouble_code": "disk-full"}
    assert not is_well(full)
    assert any("PROBLEM: disk full" in line for line in status_lines(full))


class Stepped(Clock):
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


def test_the_collector_that_is_behind_is_in_the_heartbeat_and_in_the_status() -> None:
    health = Health(Clock(), "ab12cd34")
    assert "behind" not in health.heartbeat(OutboxStats(), "0123456789abcdef", ClockState.NTP)
    beat = health.heartbeat(OutboxStats(), "0123456789abcdef", ClockState.NTP, behind=("collector-2", 312.3))
    assert (beat["behind"], beat["behind_s"]) == ("collector-2", 312)
    document = {**beat, "running": True, "connected": True, "age_s": 1.0}
    assert not is_well(document)
    problem = "PROBLEM: collector-2 has acknowledged nothing for 5 min: its messages wait in the outbox"
    assert problem in list(status_lines(document))


def test_a_backlog_of_one_collector_alone_makes_no_more_heartbeats() -> None:
    clock = Stepped()
    schedule = HeartbeatSchedule(clock)
    beats = 0
    for _ in range(60):
        clock.now_s += 1
        beats += schedule.due(OutboxStats(depth=1, oldest_s=4_000.0), connected=True, behind=True)
    assert beats == 4


def test_it_beats_every_15_s_each_second_of_a_backlog_and_when_it_is_gone() -> None:
    clock = Stepped()
    schedule = HeartbeatSchedule(clock)
    beats = []
    for second in range(60):
        clock.now_s += 1
        waiting = 20 <= second < 25
        stats = OutboxStats(depth=1, oldest_s=10.0 if waiting else 0.5)
        if schedule.due(stats, connected=True):
            beats.append(second)
    assert beats == [0, 15, 20, 21, 22, 23, 24, 25, 40, 55]


def test_counters_are_sent_each_minute_and_sooner_when_something_was_lost() -> None:
    clock = Stepped()
    schedule, camera, slot = CounterSchedule(clock), {"readings": 0}, {"runs": 0, "dropped": 0}
    seconds = []
    for second in range(1, 201):
        clock.now_s += 1
        camera["readings"] += second < 130  # then it stops
        slot["dropped"] += second in (70, 71)
        if schedule.due([camera, slot]):
            seconds.append(second)
    assert seconds == [60, 75, 135]


def test_a_status_holds_a_limited_number_of_counters_above_zero() -> None:
    counted = {f"odd_{n:03}": n for n in range(200)} | {"x" * 200: 1}
    state = DeviceState(state="ok", counters=nonzero_counters(counted))
    assert msgspec.json.decode(msgspec.json.encode(state), type=DeviceState) == state
    assert list(state.counters) == [f"odd_{n:03}" for n in range(1, MAX_COUNTERS + 1)]


def test_it_beats_when_the_link_comes_back() -> None:
    clock = Stepped()
    schedule = HeartbeatSchedule(clock)
    assert schedule.due(OutboxStats(), connected=False)
    clock.now_s += 1
    assert not schedule.due(OutboxStats(), connected=False)
    clock.now_s += 1
    assert schedule.due(OutboxStats(), connected=True)


def test_the_status_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(Unreachable, match="no agent has run"):
        read_status(tmp_path, "t/p/s/n", clock)
    write_status(tmp_path, {"depth": 1})
    write_status(tmp_path, {"depth": 2, "ts": clock.now_ms()})
    found = read_status(tmp_path, "t/p/s/n", clock)
    assert (found["depth"], found["running"]) == (2, False)
    assert 0 <= found["age_s"] < 60
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_status_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    write_status(tmp_path / "absent", {"depth": 1})
    (tmp_path / "status.json").write_text("{torn")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_status(tmp_path, "t/p/s/n", Clock())


def test_two_writes_at_a_time_leave_one_whole_status(tmp_path: Path) -> None:
    """A write that was cancelled goes on in its thread while the next one begins."""
    documents = [{"node": "n", "depth": 0, "why": "x" * size} for size in (10, 5_000)]

    def write(document: dict[str, Any]) -> None:
        for _ in range(200):
            write_status(tmp_path, document)

    threads = [threading.Thread(target=write, args=(each,)) for each in documents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(FileNotFoundError):
            assert json.loads((tmp_path / "status.json").read_text()) in documents
    assert json.loads((tmp_path / "status.json").read_text()) in documents
