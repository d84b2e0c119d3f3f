"""A simulated site of one node, on which a pilot can be planned, run and judged within minutes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgebed.installation import AgentSetup, Installation

READY_S = 120.0  # models load, and devices connect
_BROKER = ("--option", "broker_url={broker}")


@dataclass(frozen=True, slots=True)
class Demo:
    """A ready pilot: its node with simulators, and for how many seconds the condition of its plant lasts."""

    agent: AgentSetup
    title: str
    trial_s: int = 20


DEMOS = {
    "eco-driving": Demo(
        AgentSetup("car-01", "pilots/nodes/car-01.yaml", "trip", "trip", options=_BROKER),
        "an electric car whose trip computer can advise a speed",
        60,
    ),
    "joint-maintenance": Demo(
        AgentSetup(
            *("cobot-01", "pilots/nodes/cobot-01.yaml", "arm", "opcua-cell"),
            options=_BROKER,
            further={"cell": []},
        ),
        "a robot cell with a model that watches the joints",
    ),
    "ward-alarms": Demo(
        AgentSetup(
            *("bed-01", "pilots/nodes/bed-01.yaml", "monitor", "hl7"),
            options=("--option", "ward=true"),
            further={"ward": ["ward", *_BROKER]},
        ),
        "a bedside monitor with a model that judges its alarms",
    ),
    "crossing-safety": Demo(
        AgentSetup("signal-01", "pilots/nodes/signal-01.yaml", "signal", "signal", options=_BROKER),
        "the signal of a crossing",
    ),
}


async def run(
    demo: Demo,
    folder: Path,
    *,
    trust: Path,
    port: int,
    seed: int,
    has_effect: bool,
    say: Callable[[str], None],
) -> None:
    """Run broker, collector, simulators and the node until this is cancelled.

    The node follows plans that the key in `trust` signed. Without `has_effect` the change of the pilot does
    nothing, so that a right report shows nothing.

    Raises:
        EdgebedError: a part does not start.
    """
    agent = _agent(demo, trust, has_effect=has_effect)
    installation = Installation(folder, [agent], http_port=port, seed=seed)
    async with installation:
        node = installation.node(agent.name)
        say(f"starting {demo.title}: {node}")
        await installation.until("every device is read", partial(_is_read, installation, node, demo), READY_S)
        say(f"it runs: its rows are stored, and {installation.url} shows it")
        await asyncio.Event().wait()


def _agent(demo: Demo, trust: Path, *, has_effect: bool) -> AgentSetup:
    """The setup of the node: its plants change as slowly as the demo asks, and it trusts the key."""
    options = ["--option", f"trial_s={demo.trial_s}", *([] if has_effect else ["--option", "effect=0"])]
    agent = demo.agent
    further = {name: [*words, *(options if words else ())] for name, words in agent.further.items()}
    changes = {"trust": {"keys": [str(trust.resolve())]}}
    return replace(agent, options=(*agent.options, *options), further=further, changes=changes)


async def _is_read(installation: Installation, node: str, demo: Demo) -> bool:
    shown = await installation.api(f"/api/v1/nodes/{node}")
    states = {each["id"]: each["state"] for each in shown["devices"]}
    return all(states.get(name) == "ok" for name in (demo.agent.device, *demo.agent.further))
