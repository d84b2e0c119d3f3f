"""What the agent of a state folder says about itself, and whether it is alive to say it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.health import HEARTBEAT_S, read_status
from agent.state_dir import is_running
from wire.clock import Clock
from wire.errors import Unreachable

STALE_S = 3 * HEARTBEAT_S  # it is written at each heartbeat, at least


def read(state: Path, clock: Clock) -> dict[str, Any]:
    """The newest status.json with `running` told by the lock and `age_s`.

    Raises:
        Unreachable: no agent has ever run on this folder.
        ConfigError: the file is broken.
    """
    document = read_status(state)
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


def lines(document: dict[str, Any]) -> Iterator[str]:
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
