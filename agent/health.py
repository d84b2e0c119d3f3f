"""How the daemon and its machine are: what a heartbeat says and what `status.json` keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.clock_sync import kernel_error_ms
from agent.outbox import OutboxStats
from agent.state_dir import is_running
from wire.clock import Clock
from wire.errors import ConfigError, Unreachable
from wire.messages import MAX_COUNTERS, ClockState, Live

HEARTBEAT_S = 15.0
COUNTERS_S = 60.0
STALE_S = 3 * HEARTBEAT_S  # the status is written at each heartbeat, at least
BACKLOG_S = 3.0  # a message older than this means that the link is behind
STATUS_FILE = "status.json"

_USUAL = ("readings", "runs")  # what grows while all is well
_LONGEST_NAME = 128
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_THERMAL = ("/sys/class/thermal/thermal_zone*/temp", "/sys/class/hwmon/hwmon*/temp*_input")


class Health:
    """Samples this process and machine; rates are taken between two calls of `heartbeat`."""

    def __init__(self, clock: Clock, boot: str) -> None:
        self._clock = clock
        self._boot = boot
        self._began_s = clock.monotonic()
        self._cpu_pct = 0.0
        self._cpu_s = time.process_time()
        self._wall_s = time.monotonic()
        self._sensors = [Path(path) for pattern in _THERMAL for path in sorted(Path("/").glob(pattern[1:]))]

    def heartbeat(self, stats: OutboxStats, ep: str, clk: ClockState, ack_ms: int | None = None) -> Live:
        """The flat body of `live/_/agent`. Reads /proc and /sys: a few files, no device.

        `ack_ms`: the quickest way from the collector to here, by both clocks.
        """
        return {
            "ts": self._clock.now_ms(),
            "ep": ep,
            "head": stats.head,
            "acked": stats.acked,
            "depth": stats.depth,
            "oldest_s": round(stats.oldest_s, 1),
            "bytes": stats.bytes,
            "taken_rows": stats.taken_rows,
            "dropped_rows": stats.dropped_rows,
            "trouble": stats.trouble[:200],
            "rss_mb": rss_mb(),
            "cpu_pct": self._cpu(),
            "temp_c": self._temperature(),
            "clk": clk.value,
            "clk_err_ms": kernel_error_ms() if self._clock.real else None,
            "ack_ms": ack_ms,
            "uptime_s": round(self._clock.monotonic() - self._began_s, 1),
            "boot": self._boot,
        }

    def _cpu(self) -> float:
        """Per cent of one core since the sample before, which is at least a second old."""
        cpu_s, wall_s = time.process_time(), time.monotonic()
        if wall_s - self._wall_s >= 1.0:
            self._cpu_pct = round(100 * (cpu_s - self._cpu_s) / (wall_s - self._wall_s), 1)
            self._cpu_s, self._wall_s = cpu_s, wall_s
        return self._cpu_pct

    def _temperature(self) -> float | None:
        """Degrees Celsius of the hottest sensor that gives a believable number."""
        found = []
        for sensor in self._sensors:
            try:
                found.append(int(sensor.read_text()) / 1000)
            except (OSError, ValueError):  # sensors come and go
                continue
        believable = [degrees for degrees in found if -40 < degrees < 150]
        return round(max(believable), 1) if believable else None


class HeartbeatSchedule:
    """When a heartbeat is due: every 15 s; each second while a backlog waits, and once when it is gone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_s = 0.0
        self._backlog = False
        self._connected = False

    def due(self, stats: OutboxStats, connected: bool) -> bool:
        """Ask once a second or more rarely; a yes counts as sent."""
        now_s = self._clock.monotonic()
        backlog = stats.oldest_s > BACKLOG_S
        turned = backlog != self._backlog or connected != self._connected
        self._backlog, self._connected = backlog, connected
        if not (turned or backlog or now_s >= self._due_s):
            return False
        self._due_s = now_s + HEARTBEAT_S
        return True


class CounterSchedule:
    """When the counters of devices and models are due: each minute, sooner when something was lost."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent_s = clock.monotonic()
        self._sent: tuple[int, int] = (0, 0)

    def due(self, counted: Iterable[Mapping[str, int]]) -> bool:
        """Ask once a second or more rarely; a yes counts as told."""
        age_s = self._clock.monotonic() - self._sent_s
        if age_s < HEARTBEAT_S:
            return False
        found = [each.items() for each in counted]
        usual = sum(number for each in found for name, number in each if name in _USUAL)
        odd = sum(number for each in found for name, number in each if name not in _USUAL)
        if odd == self._sent[1] and (usual == self._sent[0] or age_s < COUNTERS_S):
            return False
        self._sent_s, self._sent = self._clock.monotonic(), (usual, odd)
        return True


def nonzero_counters(counted: Mapping[str, int]) -> dict[str, int]:
    """Counters as a status carries them: those that are not 0, by name, so many as it may hold."""
    names = [name for name in sorted(counted) if counted[name] > 0 and len(name) <= _LONGEST_NAME]
    return {name: counted[name] for name in names[:MAX_COUNTERS]}


def rss_mb() -> float:
    """Resident memory of this process in 10^6 bytes."""
    resident = Path("/proc/self/statm").read_text().split()[1]
    return round(int(resident) * _PAGE_MB, 1)


def write_status(state: Path, document: dict[str, Any]) -> None:
    """Replace `state`/status.json in one step; a full or broken disk is not the daemon's end."""
    path = state / STATUS_FILE
    fresh = path.with_suffix(".tmp")
    try:
        fresh.write_bytes(msgspec.json.encode(document))
        fresh.replace(path)
    except OSError:  # the outbox tells the trouble
        return


def read_status(state: Path, clock: Clock) -> dict[str, Any]:
    """The newest status.json of a state folder, with `running` read from the lock and `age_s`.

    Raises:
        Unreachable: no agent has ever run on this folder.
        ConfigError: the file is there and cannot be read.
    """
    path = state / STATUS_FILE
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        document = {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not document:
        raise Unreachable(f"no agent has run on state folder {state} yet")
    age_s = max(0.0, (clock.now_ms() - float(document.get("ts", 0))) / 1000)
    return {**document, "running": is_running(state), "age_s": round(age_s, 1)}


def is_well(document: dict[str, Any]) -> bool:
    """Whether it runs, reads every device and runs every model."""
    devices = document.get("devices", {}).values()
    models = document.get("models", {}).values()
    return bool(
        document["running"]
        and document["age_s"] <= STALE_S
        and all(device.get("state") in ("ok", "stopped") for device in devices)
        and all(model.get("state") == "ok" for model in models)
    )


def status_lines(document: dict[str, Any]) -> Iterator[str]:
    """The status for people, one fact a line."""
    life = "running" if document["running"] else "not running"
    link = "connected" if document.get("connected") and document["running"] else "offline"
    yield f"{document.get('node', '?')}: {life}, {link}, as of {document['age_s']:g} s ago"
    if document["running"] and document["age_s"] > STALE_S:
        yield "it has written no status since: is the disk under its state folder full?"
    trouble = f"; TROUBLE: {document['trouble']}" if document.get("trouble") else ""
    yield (
        f"outbox: {document.get('depth', 0)} messages wait, the oldest for {document.get('oldest_s', 0):g} s"
        f", {document.get('bytes', 0) / 1e6:.1f} MB{trouble}"
    )
    for name, device in document.get("devices", {}).items():
        why = f": {device['why']}" if device.get("why") else ""
        yield f"device {name}: {device.get('state')}, {device.get('readings', 0)} readings{why}"
    for name, model in document.get("models", {}).items():
        why = f": {model['why']}" if model.get("why") else ""
        known = f", {model['name']}@{model.get('ver', '?')}" if model.get("name") else ""
        place = f" on {model['provider']}" if model.get("provider") else ""
        yield f"model {name}: {model.get('state')}{known}{place}, {model.get('runs', 0)} runs{why}"
    clock = ("unsynchronised", "ntp", "pps")[min(2, max(0, int(document.get("clk", 0))))]
    yield (
        f"machine: {document.get('rss_mb', 0):g} MB, {document.get('cpu_pct', 0):g} % of a core, "
        f"clock {clock}, up {document.get('uptime_s', 0):g} s"
    )
