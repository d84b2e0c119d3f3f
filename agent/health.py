"""Health of the daemon and its machine: heartbeats, their schedule, and the status file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.clock_sync import kernel_error_ms
from agent.outbox import OutboxStats
from agent.process_memory import rss_mb
from agent.state_dir import belongs_to, check_node, is_running
from wire.clock import Clock
from wire.errors import ConfigError, Unreachable
from wire.messages import MAX_COUNTERS, ClockState, Live, Refused
from wire.printable import counted, printable
from wire.reasons import no_ack_from

HEARTBEAT_S = 15.0
COUNTERS_S = 60.0
STALE_S = 3 * HEARTBEAT_S  # the status is written at each heartbeat, at least
BACKLOG_S = 3.0  # a waiting message older than this means a backlog
STATUS_FILE = "status.json"

_USUAL = ("readings", "runs")  # counters that grow in normal work
_LONGEST_NAME = 128
_THERMAL = ("/sys/class/thermal/thermal_zone*/temp", "/sys/class/hwmon/hwmon*/temp*_input")


class Health:
    """Samples this process and its machine; rates are measured between two calls of `heartbeat`."""

    def __init__(self, clock: Clock, boot: str) -> None:
        self._clock = clock
        self._boot = boot
        self._began_s = clock.monotonic()
        self._cpu_pct = 0.0
        self._cpu_s = time.process_time()
        self._wall_s = time.monotonic()
        self._sensors = [Path(path) for pattern in _THERMAL for path in sorted(Path("/").glob(pattern[1:]))]

    def heartbeat(
        self,
        stats: OutboxStats,
        ep: str,
        clk: ClockState,
        ack_ms: int | None = None,
        refused: Refused | None = None,
        behind: tuple[str, float] | None = None,
    ) -> Live:
        """The flat body of `live/_/agent`; reads a few files of /proc and /sys.

        `ack_ms` is the smallest delay from the collector to this node, by both clocks. `refused` is why a
        collector refuses messages now, `behind` the collector that acknowledges nothing, and its seconds.
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
            "trouble_code": stats.trouble_code,
            "rss_mb": rss_mb(),
            "cpu_pct": self._cpu(),
            "temp_c": self._temperature(),
            "clk": clk.value,
            "clk_err_ms": kernel_error_ms() if self._clock.real else None,
            "ack_ms": ack_ms,
            "uptime_s": round(self._clock.monotonic() - self._began_s, 1),
            "boot": self._boot,
            **_refused(refused),
            **({} if behind is None else {"behind": behind[0], "behind_s": round(behind[1])}),
        }

    def _cpu(self) -> float:
        """Per cent of one core since the last sample, which is at least a second old."""
        cpu_s, wall_s = time.process_time(), time.monotonic()
        if wall_s - self._wall_s >= 1.0:
            self._cpu_pct = round(100 * (cpu_s - self._cpu_s) / (wall_s - self._wall_s), 1)
            self._cpu_s, self._wall_s = cpu_s, wall_s
        return self._cpu_pct

    def _temperature(self) -> float | None:
        """Degrees Celsius of the hottest sensor with a plausible value."""
        found = []
        for sensor in self._sensors:
            try:
                found.append(int(sensor.read_text()) / 1000)
            except (OSError, ValueError):  # sensors appear and disappear
                continue
        plausible = [degrees for degrees in found if -40 < degrees < 150]
        return round(max(plausible), 1) if plausible else None


class HeartbeatSchedule:
    """Decides when to send a heartbeat: every 15 s, each second of a backlog, and once when it ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_s = 0.0
        self._backlog = False
        self._connected = False

    def due(self, stats: OutboxStats, connected: bool, *, behind: bool = False) -> bool:
        """Whether a heartbeat is due; True counts as sent. Ask at most once a second.

        While one of several collectors is `behind`, the backlog is its alone, for hours perhaps.
        """
        now_s = self._clock.monotonic()
        backlog = stats.oldest_s > BACKLOG_S and not behind
        changed = backlog != self._backlog or connected != self._connected
        self._backlog, self._connected = backlog, connected
        if not (changed or backlog or now_s >= self._due_s):
            return False
        self._due_s = now_s + HEARTBEAT_S
        return True


class CounterSchedule:
    """Decides when to publish counters: each minute, sooner if a counter of losses or faults has grown."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent_s = clock.monotonic()
        self._sent: tuple[int, int] = (0, 0)

    def due(self, counted: Iterable[Mapping[str, int]]) -> bool:
        """Whether the counters are due; True counts as sent. Ask at most once a second."""
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


def _refused(refused: Refused | None) -> Live:
    if refused is None:
        return {}
    return {
        "refused": refused.why[:200],
        "refused_code": refused.code,
        "refused_until": refused.until,
    }


def nonzero_counters(counted: Mapping[str, int]) -> dict[str, int]:
    """The counters above 0 by name, as many as a status may hold."""
    names = [name for name in sorted(counted) if counted[name] > 0 and len(name) <= _LONGEST_NAME]
    return {name: counted[name] for name in names[:MAX_COUNTERS]}


_writing = threading.Lock()


def write_status(state: Path, document: dict[str, Any]) -> None:
    """Replace `state`/status.json in one step; an error of the disk does not stop the daemon."""
    path = state / STATUS_FILE
    fresh = path.with_suffix(".tmp")
    try:
        with _writing:  # a write that was cancelled goes on in its thread, into the same `fresh`
            fresh.write_bytes(msgspec.json.encode(document))
            fresh.replace(path)
    except OSError:  # the outbox reports the same error
        return


def read_status(state: Path, node: str, clock: Clock) -> dict[str, Any]:
    """The newest status.json of a node's state folder, with `running` read from the lock and `age_s`.

    Raises:
        Unreachable: no agent has run on this folder yet.
        ConfigError: the file exists and cannot be read, or the folder belongs to another node.
    """
    check_node(state, node)
    path = state / STATUS_FILE
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        document = {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not document:
        raise Unreachable(f"no agent has run on state folder {state} yet")
    if (owner := document.get("node", node)) != node:  # an earlier release has run on it
        raise belongs_to(state, printable(owner), node)
    age_s = max(0.0, (clock.now_ms() - float(document.get("ts", 0))) / 1000)
    return {**document, "running": is_running(state), "age_s": round(age_s, 1)}


def is_well(document: dict[str, Any]) -> bool:
    """Whether the agent runs, reads every device, runs every model, and its messages can leave."""
    devices = document.get("devices", {}).values()
    models = document.get("models", {}).values()
    return bool(
        document["running"]
        and document["age_s"] <= STALE_S
        and (document.get("connected") or not document.get("depth"))
        and not document.get("trouble")
        and not document.get("refused_code")
        and not document.get("behind")
        and not document.get("mac")
        and document.get("reload", {}).get("state") not in ("refused", "reverted")
        and not document.get("desired", {}).get("code")
        and all(device.get("state") in ("ok", "stopped") for device in devices)
        and all(model.get("state") == "ok" for model in models)
    )


def _offer_lines(name: str, offer: dict[str, Any] | None) -> Iterator[str]:
    """The line about the version that was offered last to a slot."""
    if offer:
        why = f": {offer['why']}" if offer.get("why") else ""
        good = f"{offer.get('results', 0):,} of {offer.get('of', 0):,} good results"
        yield f"model {name}: version {offer.get('offered', '')[:12]} is {offer['state']}, {good}{why}"


def status_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield the status as text, one fact per line."""
    life = "running" if document["running"] else "not running"
    link = "connected" if document.get("connected") and document["running"] else "offline"
    yield f"{document.get('node', '?')}: {life}, {link}, as of {document['age_s']:g} s ago"
    if document["running"] and document["age_s"] > STALE_S:
        yield "no newer status was written: check whether the disk of the state folder is full"
    problem = f"; PROBLEM: {document['trouble']}" if document.get("trouble") else ""
    waiting = counted(document.get("depth", 0), "message waits", "messages wait")
    yield (
        f"outbox: {waiting}, the oldest for {document.get('oldest_s', 0):g} s"
        f", {document.get('bytes', 0) / 1e6:.1f} MB{problem}"
    )
    if document.get("refused_code"):
        why = document.get("refused") or document["refused_code"]
        yield f"PROBLEM: the collector refuses messages, which wait in the outbox: {why}"
    if document.get("behind"):
        yield f"PROBLEM: {no_ack_from(document['behind'], document.get('behind_s', 0)).why}"
    if document.get("mac"):
        yield f"PROBLEM: {document['mac'].get('why', '')}"
    reload = document.get("reload", {})
    if reload.get("state") in ("refused", "reverted"):
        yield f"PROBLEM: the newest configuration was {reload['state']}: {reload.get('why', '')}"
    desired = document.get("desired", {})
    if desired.get("code"):
        yield f"PROBLEM: the desired document {desired.get('ver')} is not in use: {desired.get('why', '')}"
    elif desired:
        yield f"desired document {desired.get('ver')}: {desired.get('state')}"
    if reload.get("state") == "soaking":
        yield f"a new configuration is on trial: {reload.get('what', '')}"
    for name, device in document.get("devices", {}).items():
        why = f": {device['why']}" if device.get("why") else ""
        yield f"device {name}: {device.get('state')}, {counted(device.get('readings', 0), 'reading')}{why}"
    for name, model in document.get("models", {}).items():
        why = f": {model['why']}" if model.get("why") else ""
        known = f", {model['name']}@{model.get('ver', '?')}" if model.get("name") else ""
        place = f" on {model['provider']}" if model.get("provider") else ""
        state = "degraded" if model.get("degraded") else model.get("state")
        yield f"model {name}: {state}{known}{place}, {counted(model.get('runs', 0), 'run')}{why}"
        yield from _offer_lines(name, model.get("slot"))
    if document.get("fence_code"):
        yield f"a limit of the fence is reached: {document.get('fence', '')}"
    if document.get("day"):
        skipped = document.get("day_skipped", 0)
        yield (
            f"used on {document['day']}: {document.get('day_cpu_s', 0):,.0f} s CPU, at most"
            f" {document.get('day_peak_mb', 0):g} MB memory and {document.get('day_disk_mb', 0):g} MB outbox,"
            f" {document.get('day_sent_bytes', 0) / 1e6:,.1f} MB sent,"
            f" {counted(document.get('day_inferences', 0), 'inference')}"
            + (f", {skipped:,} skipped" if skipped else "")
            + ("; the kernel keeps CPU and memory too" if document.get("fence_by") == "cgroup" else "")
        )
    clock = ("unsynchronised", "ntp", "pps")[min(2, max(0, int(document.get("clk", 0))))]
    yield (
        f"machine: {document.get('rss_mb', 0):g} MB, {document.get('cpu_pct', 0):g} % of a core, "
        f"clock {clock}, up {document.get('uptime_s', 0):g} s"
    )
