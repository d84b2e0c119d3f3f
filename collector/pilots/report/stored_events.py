"""The events of the plan's nodes about their pilot, read as hostile: what has a wrong type is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from collector.pilots.kpis.evaluate import Changed
from collector.pilots.kpis.events import changed_events
from collector.pilots.report.document import Switch
from collector.store.source import CHANGED, Source, newest_first
from wire.pilot.frozen import Opened
from wire.topics import NODE_ITSELF

MAX_EVENTS = 10_000  # of one kind and node: an honest node sends a few a period
_FAR_MS = 60_000  # `from` and the time of its event are taken one after the other
_ARMS = ("on", "off")


Stated = tuple[Switch, str, dict[str, Any]]  # a switch, the hash of its plan, and `args` of its code


@dataclass(slots=True)
class PilotEvents:
    """What the nodes of a plan recorded, each list in the order of time.

    `unreadable` counts events of a node that name this pilot and do not have the form of docs/topics.md;
    `cut` are the nodes that have more events than are read, `damaged` the day files that gave none. Events
    that were `changed` count for nothing.
    """

    recorded: list[tuple[str, int, str]] = field(default_factory=list)  # node, ts, hash
    withdrawn: list[tuple[str, int, str, str]] = field(default_factory=list)
    numbers: dict[tuple[str, str], tuple[str, int]] = field(
        default_factory=dict
    )  # node, hash -> outbox, number
    switches: list[Stated] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    changed: dict[str, list[Changed]] = field(default_factory=dict)  # pilot or exposure -> those of all nodes
    read: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # node/event/_/kind -> all of them


def read_pilot_events(source: Source, newest: Opened, until_ms: int) -> PilotEvents:
    """The events `pilot` and `exposure` of the nodes of a plan from before `until_ms`."""
    found, pilot = PilotEvents(), newest.plan.plan.pilot
    for node in newest.plan.plan.nodes:
        for kind, add in (("pilot", _add_plan), ("exposure", _add_switch)):
            events = _events(source, node, kind, until_ms, found.cut)
            found.damaged |= source.damaged
            found.read[f"{node}/event/_/{kind}"] = events
            for event in events:
                if CHANGED not in event:
                    add(found, node, event, pilot)
            found.changed.setdefault(kind, []).extend(_changed(source, node, kind, until_ms))
            found.damaged |= source.damaged
    found.recorded.sort(key=lambda one: (one[1], one[0]))
    found.withdrawn.sort(key=lambda one: (one[1], one[0]))
    found.switches.sort(key=lambda one: (one[0].ts, one[0].node))
    return found


def _changed(source: Source, node: str, kind: str, until_ms: int) -> Iterator[Changed]:
    for each in changed_events(source, node, f"{NODE_ITSELF}/{kind}", (0, until_ms * 1000)):
        yield Changed(node, None if each.start_us < 0 else each.start_us // 1000, each.why)


def _events(source: Source, node: str, kind: str, until_ms: int, cut: set[str]) -> list[dict[str, Any]]:
    """The events of a kind, the oldest first."""
    found = list(islice(newest_first(source, node, NODE_ITSELF, until_ms, kind), MAX_EVENTS + 1))
    if len(found) > MAX_EVENTS:
        cut.add(node)
    return found[MAX_EVENTS - 1 :: -1]


def _add_plan(found: PilotEvents, node: str, event: dict[str, Any], pilot: str) -> None:
    detail = event.get("detail")
    if not isinstance(detail, dict):
        return
    digest, withdrawn = detail.get("hash"), detail.get("withdrawn")
    if isinstance(withdrawn, str) and withdrawn:  # of an older agent it names no pilot: its hash does
        found.withdrawn.append((node, event["ts"], withdrawn[:64], str(detail.get("by", ""))[:128]))
    elif detail.get("pilot") != pilot:
        return
    elif isinstance(digest, str) and digest:
        found.recorded.append((node, event["ts"], digest[:64]))
        found.numbers.setdefault(
            (node, digest[:64]), (str(event["ep"]), event["seq"])
        )  # the oldest comes first
    else:
        found.unreadable[node] = found.unreadable.get(node, 0) + 1


def _add_switch(found: PilotEvents, node: str, event: dict[str, Any], pilot: str) -> None:
    detail = event.get("detail")
    if not isinstance(detail, dict) or detail.get("pilot") != pilot:
        return
    if (switch := _switch(node, event, detail)) is None:
        found.unreadable[node] = found.unreadable.get(node, 0) + 1
        return
    args = event.get("args")
    found.switches.append((switch, str(detail.get("hash"))[:64], args if isinstance(args, dict) else {}))


def _switch(node: str, event: dict[str, Any], detail: dict[str, Any]) -> Switch | None:
    """An event `exposure`; None if a part of it has a wrong type."""
    stated: list[Any] = [detail.get(name) for name in ("period", "phase", "planned", "actual")]
    at, (number, phase, planned, actual) = detail.get("from", event["ts"]), stated
    value = event.get("value")
    if (
        not _is_int(at, event["ts"] - _FAR_MS, event["ts"] + _FAR_MS)
        or not _is_int(number, -1, 10_000)
        or phase not in ("baseline", "trial", "outside", "over")
        or not (planned is None or planned in _ARMS)
        or actual not in (*_ARMS, "other")
        or (value is not None and not _is_number(value))
    ):
        return None
    return Switch(
        node=node,
        ts=at,
        period=number,
        phase=phase,
        planned=planned,
        actual=actual,
        value=None if value is None else float(value),
        restart=detail.get("restart") is True,
        setup=str(detail.get("setup") or "")[:64],
        code=str(event.get("code") or "")[:64],
        why=str(event.get("why") or "")[:300],
    )


def _is_int(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def nodes_of(recorded: Sequence[tuple[str, int, str]], digest: str) -> dict[str, int]:
    """When each node first recorded a plan."""
    found: dict[str, int] = {}
    for node, at_ms, mine in recorded:
        if mine == digest:
            found.setdefault(node, at_ms)
    return dict(sorted(found.items()))
