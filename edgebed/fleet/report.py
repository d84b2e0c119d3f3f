"""The report of a fleet's run: for people, as JSON, and what makes the run fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgebed.fleet.figures import Figures
from edgebed.fleet.fleet import FleetOptions
from edgebed.fleet.plan import FleetPlan


def as_json(plan: FleetPlan, options: FleetOptions, figures: Figures) -> dict[str, Any]:
    """The options that shape the load, and the figures."""
    faults = list(plan.faults.values())
    return {
        "nodes": plan.nodes,
        "rate": plan.rate,
        "samples": plan.samples,
        "seed": plan.seed,
        "connections": min(options.connections or plan.nodes, plan.nodes),
        "heartbeat_s": options.heartbeat_s,
        "custody_s": options.custody_s,
        "faulty_nodes": {fault: faults.count(fault) for fault in ("drop", "reconnect", "flood")},
        **figures.as_json(),
    }


def as_text(plan: FleetPlan, options: FleetOptions, figures: Figures) -> str:
    """The same for people, a line for each part."""
    return "\n".join(f"{name:16}{text}" for name, text in _lines(as_json(plan, options, figures)))


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    load = f"each {found['rate']:g} messages/s of {found['samples']} rows"
    yield (
        "fleet",
        f"{found['nodes']:,} nodes, {load}, {found['connections']:,} connections, seed {found['seed']}",
    )
    if faulty := [f"{count:,} {fault}" for fault, count in found["faulty_nodes"].items() if count]:
        yield "faults", f"nodes: {', '.join(faulty)}"
    yield (
        "offered",
        f"{found['offered']:,} messages: {found['offered_per_s']:,}/s for {found['sending_s']:g} s",
    )
    meanwhile = f"{found['acknowledged_per_s']:,}/s meanwhile, the rest took {found['drain_s']:g} s"
    yield "acknowledged", f"{found['acknowledged']:,} messages: {meanwhile}"
    yield "publish to ack", _delays(found["publish_to_ack_ms"])
    if faulty:
        yield "", f"{_delays(found['publish_to_ack_ms_without_fault'])} (nodes without a fault)"
    yield "sender late", _delays(found["late_ms"])
    lost = f"{found['refusals']:,} refusals, {found['lost_connections']:,} lost connections"
    yield "again", f"{found['sent_again']:,} sent again, {lost}"
    for role, cost in found["cost"].items():
        yield (
            role,
            f"{cost['cpu_us_per_message']:,} us of CPU a message, {cost['cpu_s']:g} s, {cost['rss_mb']:g} MB",
        )
    if found["stored"] is not None:
        yield "store", f"{found['stored']:,} messages"
    if found["not_taken"]:
        yield "not taken", f"{found['not_taken']:,} messages: too many waited"


def _delays(of: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {delay:,} ms" for name, delay in of.items())


def failures(figures: Figures) -> list[str]:
    """A clause for each reason why the run failed."""
    failed = []
    if figures.unacknowledged:
        failed.append(f"{figures.unacknowledged:,} messages were not acknowledged")
    if figures.wrong_count:
        failed.append(f"{figures.wrong_count:,} acknowledgements are wrong, such as {figures.wrong[0]}")
    return failed
