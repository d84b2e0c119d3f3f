"""Finds what is wrong with a node."""

from __future__ import annotations

from collector.fleet.node_view import NodeView, Problem

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
BACKLOG_S = 30.0  # a working outbox drains in seconds
SKEW_MS = 5_000
MISSING_MS = 20_000  # longer than a heartbeat interval: the next heartbeat may show where a message is
QUARANTINE_MS = 3_600_000
DOUBT_MS = 3_600_000


def find(
    view: NodeView, *, why: str, now: int, missing_since: int | None, quarantined: int, doubt: str = ""
) -> list[Problem]:
    """Everything that is wrong with a node, worst first.

    `why` explains the node's state. `missing_since` (ms, 0 unknown) is None when no message is missing.
    `doubt` is why a signed statement was refused.
    """
    found: list[Problem] = []
    if view.state == "lost":
        found.append(Problem("node-lost", 4, why or "its connection broke off without a goodbye"))
    elif view.state == "unknown":
        found.append(Problem("node-silent", 3, why))
    found += [
        Problem("device-degraded", 3, device["why"] or "no readings", device["id"])
        for device in view.devices
        if device["state"] == "degraded"
    ]
    found += [
        Problem("model-failed", 3, f"{model['slot']}: {model['why']}", model["device"])
        for model in view.models
        if model["state"] == "failed"
    ]
    depth, oldest = view.outbox["depth"] or 0, view.outbox["oldest_s"] or 0
    if depth and oldest > BACKLOG_S:
        found.append(Problem("backlog", 2, f"{depth:g} messages wait, the oldest for {oldest:.0f} s"))
    if view.clk == 0:
        found.append(Problem("clock-unsynced", 2, "its clock was never synchronised"))
    elif view.skew_ms is not None and abs(view.skew_ms) > SKEW_MS:
        side = "behind" if view.skew_ms > 0 else "ahead"
        found.append(Problem("clock-unsynced", 2, f"its clock is {abs(view.skew_ms) / 1000:.1f} s {side}"))
    if missing_since is not None and now - missing_since > MISSING_MS:
        found.append(Problem("missing", 4, f"{view.ledger.missing_count} messages are missing"))
    if doubt:
        found.append(Problem("custody", 3, f"a signed statement of it was refused: {doubt}"))
    if quarantined and now - quarantined < QUARANTINE_MS:
        found.append(Problem("quarantine", 2, "messages of it were quarantined: see the quarantine"))
    return sorted(found, key=lambda one: -one.sev)
