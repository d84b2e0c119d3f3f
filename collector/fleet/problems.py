"""What is wrong with a node, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

if TYPE_CHECKING:
    from collector.fleet.fleet import NodeView

CODES = (
    "node-lost",
    "node-silent",
    "device-degraded",
    "model-failed",
    "backlog",
    "clock-unsynced",
    "missing",
    "custody",
    "quarantine",
)
BACKLOG_S = 30.0  # an outbox drains in seconds; older than this and it does not
SKEW_MS = 5_000
MISSING_MS = 20_000  # longer than a heartbeat, which may yet tell where a message is
QUARANTINE_MS = 3_600_000
DOUBT_MS = 3_600_000


class Trouble(Struct, omit_defaults=True):
    """One thing that is wrong; `sev` 1 note to 4 critical."""

    code: str
    sev: int
    why: str
    device: str | UnsetType = UNSET


def find(
    view: NodeView, *, why: str, now: int, missing_since: int, quarantined: int, doubt: str = ""
) -> list[Trouble]:
    """Everything that is wrong with a node, worst first; `why` explains its state, `doubt` its word."""
    found: list[Trouble] = []
    if view.state == "lost":
        found.append(Trouble("node-lost", 4, why or "its connection broke off without a goodbye"))
    elif view.state == "unknown":
        found.append(Trouble("node-silent", 3, why))
    found += [
        Trouble("device-degraded", 3, device["why"] or "no readings", device["id"])
        for device in view.devices
        if device["state"] == "degraded"
    ]
    found += [
        Trouble("model-failed", 3, f"{model['slot']}: {model['why']}", model["device"])
        for model in view.models
        if model["state"] == "failed"
    ]
    depth, oldest = view.outbox["depth"] or 0, view.outbox["oldest_s"] or 0
    if depth and oldest > BACKLOG_S:
        found.append(Trouble("backlog", 2, f"{depth:g} messages wait, the oldest for {oldest:.0f} s"))
    if view.clk == 0:
        found.append(Trouble("clock-unsynced", 2, "its clock was never synchronised"))
    elif view.skew_ms is not None and abs(view.skew_ms) > SKEW_MS:
        side = "behind" if view.skew_ms > 0 else "ahead"
        found.append(Trouble("clock-unsynced", 2, f"its clock is {abs(view.skew_ms) / 1000:.1f} s {side}"))
    if missing_since and now - missing_since > MISSING_MS:
        found.append(Trouble("missing", 4, f"{view.ledger.missing_count} messages are missing"))
    if doubt:
        found.append(Trouble("custody", 3, f"a signed statement of it was not taken: {doubt}"))
    if quarantined and now - quarantined < QUARANTINE_MS:
        found.append(Trouble("quarantine", 2, "messages of it could not be taken: see the quarantine"))
    return sorted(found, key=lambda one: -one.sev)
