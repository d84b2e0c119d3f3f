"""Makes the view of a node from what came from it and from its ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from collector.fleet import problems
from collector.fleet.node_state import NodeState, clock_state, number
from collector.fleet.node_view import NodeView
from collector.ledger.balance import Totals
from collector.store.clock_skew import Offset
from wire.messages import Birth, DeviceState, Live, ModelState
from wire.usage import Usage

LIMITS = ("cpu_pct", "memory_mb", "uplink_kb_per_s", "inferences_per_s", "disk_mb")
FENCE_BY = ("agent", "cgroup")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
MAX_LABEL = 64  # letters of a class
SWEEP_MS = 300_000  # a view is made again after this time in any case

Newest = Callable[[str, str], Live]  # device, model -> its newest values


def view_of(
    node: str, state: NodeState, ledger: Totals, *, now: int, offset: Offset, newest: Newest
) -> NodeView:
    """The view of a node without its problems."""
    name, since, _ = state.condition(now)
    online = name == "online"
    agent = (state.status.agent if state.status else "") or (state.birth.agent.ver if state.birth else "")
    return NodeView(
        node=node,
        state=name,
        since=since,
        last_seen=state.seen_ms,
        agent=agent,
        clk=clock_state(state.beat),
        skew_ms=offset.skew_ms,
        uncertainty_ms=offset.uncertainty_ms,
        outbox={key: number(state.beat, key) for key in ("depth", "oldest_s", "bytes")},
        health={key: number(state.beat, key) for key in ("rss_mb", "cpu_pct", "temp_c", "uptime_s")},
        usage=usage(state.beat),
        fence=limits(state.beat),
        fence_by=str(by) if (by := state.beat.get("fence_by")) in FENCE_BY else "",
        devices=list(_devices(state, online)),
        models=list(_models(state, online, newest)),
        ledger=ledger,
        problems=[],
    )


def usage(beat: Live) -> dict[str, Any]:
    """What the node used on the UTC day `day`, by its newest heartbeat; empty where it sends none."""
    day = beat.get("day")
    if not isinstance(day, str) or not _DAY.fullmatch(day):
        return {}
    return {"day": day, **{name: number(beat, f"day_{name}") for name in Usage.__struct_fields__}}


def limits(beat: Live) -> dict[str, float]:
    """The limits of the node by the keys of its `fence`; `disk_mb` is its `outbox.max_mb`."""
    found = {name: number(beat, f"fence_{name}") for name in LIMITS}
    return {name: limit for name, limit in found.items() if limit}


def next_turn(state: NodeState, *, now: int, missing_since: int | None, doubt: str) -> int:
    """When the view changes by time alone, ms, as far as that is known."""
    turns = [*state.turns(now), now + SWEEP_MS]
    if state.quarantined_ms:
        turns.append(state.quarantined_ms + problems.QUARANTINE_MS)
    if missing_since is not None:
        turns.append(missing_since + problems.MISSING_MS + 1)
    if doubt:
        turns.append(now + 60_000)
    return min(turn for turn in turns if turn > now)


def verdict(live: Live) -> dict[str, Any]:
    """The class that a model named last, and whether it is an alarm, where the model sends them."""
    label, alarm = live.get("label"), live.get("alarm")
    return {
        **({"label": label[:MAX_LABEL]} if isinstance(label, str) else {}),
        **({"alarm": alarm} if isinstance(alarm, bool) else {}),
    }


def declared(birth: Birth | None) -> dict[str, msgspec.Raw]:
    """The streams that each device of a birth declares, encoded once: views are made far more often."""
    return {
        name: msgspec.Raw(
            msgspec.json.encode(
                {
                    stream: {"kind": one.kind, **msgspec.to_builtins(one), "fields": one.fields}
                    for stream, one in device.streams.items()
                }
            )
        )
        for name, device in (birth.devices if birth else {}).items()
    }


_NO_STREAMS = msgspec.Raw(b"{}")


def _devices(state: NodeState, online: bool) -> Iterator[dict[str, Any]]:
    described = state.birth.devices if state.birth else {}
    reported = state.status.devices if state.status else {}
    if state.streams is None:
        state.streams = declared(state.birth)
    for name in sorted({*described, *reported}):
        device, current = described.get(name), reported.get(name)
        yield {
            "id": name,
            "type": device.type if device else "",
            "state": current.state if current and online else "unknown",
            "since": current.since if current else 0,
            **_reason(current),
            "counters": current.counters if current else {},
            "streams": state.streams.get(name, _NO_STREAMS),
        }


def _models(state: NodeState, online: bool, newest: Newest) -> Iterator[dict[str, Any]]:
    reported = state.status.models if state.status else {}
    listed = state.birth.models if state.birth else {}
    for slot in sorted({*reported, *listed}):
        current, ref = reported.get(slot), listed.get(slot)
        device = current.device if current else ""
        yield {
            "slot": slot,
            "device": device,
            "name": (current.name if current else "") or (ref.name if ref else ""),
            "ver": (current.ver if current else "") or (ref.ver if ref else ""),
            "provider": current.provider if current else "",
            "signed_by": current.signed_by if current else "",
            "isolation": current.isolation if current else "",
            "pid": current.pid if current else 0,
            "mb": current.mb if current else 0.0,
            "offer": msgspec.to_builtins(current.slot) if current and current.slot is not UNSET else {},
            "evidence": _evidence(current),
            "tuned": current.tuned if current else {},
            "state": _state(current) if current and online else "unknown",
            **_reason(current),
            "counters": current.counters if current else {},
            "verdict": verdict(newest(device, slot)) if online else {},
        }


def _evidence(model: ModelState | None) -> dict[str, Any] | None:
    """What a second model gave; None without one."""
    return None if model is None or model.evidence is UNSET else msgspec.to_builtins(model.evidence)


def _state(model: ModelState) -> str:
    return "degraded" if model.state == "ok" and model.degraded else model.state


def _reason(current: DeviceState | ModelState | None) -> dict[str, Any]:
    if current is None:
        return {"why": "", "code": "", "args": {}}
    return {"why": current.why, "code": current.code, "args": current.args}
