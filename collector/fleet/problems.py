"""Finds what is wrong with a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import UNSET

from collector.fleet.node_view import NodeView, Problem
from collector.ledger.reasons import reason_of
from wire.printable import counted
from wire.reasons import NO_REASON, Reason, because

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
    "refused",
    "copies",
    "config",
    "fence",
    "model-input",
)
BACKLOG_S = 30.0  # a working outbox drains in seconds
SKEW_MS = 5_000
MISSING_MS = 20_000  # longer than a heartbeat interval: the next heartbeat may show where a message is
QUARANTINE_MS = 3_600_000
DOUBT_MS = 3_600_000


def find(
    view: NodeView,
    *,
    why: Reason,
    now: int,
    missing_since: int | None,
    quarantined: int,
    doubt: str = "",
    refused: Reason = NO_REASON,
    behind: Reason = NO_REASON,
    fenced: Reason = NO_REASON,
) -> list[Problem]:
    """Everything that is wrong with a node, worst first.

    `why` explains the node's state. `missing_since` (ms, 0 unknown) is None when no message is missing.
    `doubt` is why a signed statement was refused, `refused` why messages are. `behind` names
    the collector that acknowledges nothing, `fenced` is the limit that the whole node has reached.
    """
    found: list[Problem] = []
    if view.state == "lost":
        if not why.why:
            why = because("its connection ended without a disconnect message", "connection-lost")
        found.append(_problem("node-lost", 4, why))
    elif view.state == "unknown":
        found.append(_problem("node-silent", 3, why))
    elif view.state == "online" and why.why:  # of an online node only its configuration is a reason
        found.append(_problem("config", 2, why))
    found += [_degraded(device) for device in view.devices if device["state"] == "degraded"]
    found += [_of_model("model-failed", 3, model) for model in view.models if model["state"] == "failed"]
    if fenced.why:
        found.append(_problem("fence", 2, fenced))
    found += [
        _of_model("fence", 1, model)
        for model in view.models
        if model["state"] == "ok" and model["code"].startswith("fence-")
    ]
    found += [_of_model("model-input", 2, model) for model in view.models if model["state"] == "degraded"]
    depth, oldest = view.outbox["depth"] or 0, view.outbox["oldest_s"] or 0
    if depth and oldest > BACKLOG_S:
        text = f"{counted(int(depth), 'message waits', 'messages wait')}, the oldest for {oldest:.0f} s"
        found.append(_problem("backlog", 2, because(text, "backlog", n=int(depth), oldest_s=oldest)))
    found += _clock(view)
    if missing_since is not None and now - missing_since > MISSING_MS:
        count = view.ledger.missing_count
        why = because(
            counted(count, "message is missing", "messages are missing"), "messages-missing", n=count
        )
        found.append(_problem("missing", 4, why))
    if doubt:
        known, text = reason_of(doubt), f"a signed statement of it was refused: {doubt}"
        if known.code:
            why = Reason(text, known.code, known.args)
        else:
            why = because(text, "statement-refused", detail=doubt)
        found.append(_problem("custody", 3, why))
    if quarantined and now - quarantined < QUARANTINE_MS:
        why = because("messages of it were quarantined: see the quarantine", "messages-quarantined")
        found.append(_problem("quarantine", 2, why))
    found += _waiting(refused, behind)
    return sorted(found, key=lambda one: -one.sev)


def _waiting(refused: Reason, behind: Reason) -> Iterator[Problem]:
    if refused.why:
        held = refused.code == "waits-after-refusal"
        text = refused.why if held else f"messages of it are refused and wait in its outbox: {refused.why}"
        yield _problem("refused", 3, Reason(text, refused.code, refused.args))
    if behind.why:
        yield _problem("copies", 3, behind)


def _clock(view: NodeView) -> list[Problem]:
    if view.clk == 0:
        why = because("its clock was never synchronised", "clock-never-set")
    elif view.skew_ms is not None and abs(view.skew_ms) > SKEW_MS:
        side, off_s = "behind" if view.skew_ms > 0 else "ahead", abs(view.skew_ms) / 1000
        why = because(f"its clock is {off_s:.1f} s {side}", f"clock-{side}", seconds=off_s)
    else:
        return []
    return [_problem("clock-unsynced", 2, why)]


def _degraded(device: dict[str, Any]) -> Problem:
    why = Reason(device["why"], device["code"], device["args"])
    return _problem(
        "device-degraded", 3, why if why.why else because("no readings", "no-readings"), device=device["id"]
    )


def _of_model(code: str, sev: int, model: dict[str, Any]) -> Problem:
    why = Reason(f"{model['slot']}: {model['why']}", model["code"], model["args"])
    return _problem(code, sev, why, device=model["device"], slot=model["slot"])


def _problem(code: str, sev: int, why: Reason, **place: str) -> Problem:
    return Problem(code, sev, why.why, reason=why.coded() if why.code else UNSET, **place)
