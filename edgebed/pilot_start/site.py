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
    """A ready pilot, with the node and the simulators of its site.

    `unit_s` is a period that is long enough for its change; the condition of its plant lasts `trial_s`.
    """

    pilot: str
    title: str
    agent: AgentSetup
    unit_s: int = 20
    trial_s: int = 20


_DEMOS = (
    Demo(
        "eco-driving",
        "an electric car whose trip computer can advise a speed",
        AgentSetup("car-01", "pilots/nodes/car-01.yaml", "trip", "trip", options=_BROKER),
        unit_s=10,
        trial_s=60,
    ),
    Demo(
        "joint-maintenance",
        "a robot cell with a model that watches the joints",
        AgentSetup(
            *("cobot-01", "pilots/nodes/cobot-01.yaml", "arm", "opcua-cell"),
            options=_BROKER,
            further={"cell": []},
        ),
    ),
    Demo(
        "ward-alarms",
        "a bedside monitor with a model that judges its alarms",
        AgentSetup(
            *("bed-01", "pilots/nodes/bed-01.yaml", "monitor", "hl7"),
            options=("--option", "ward=true"),
            further={"ward": ["ward", *_BROKER]},
        ),
    ),
    Demo(
        "crossing-safety",
        "the signal of a crossing",
        AgentSetup("signal-01", "pilots/nodes/signal-01.yaml", "signal", "signal", options=_BROKER),
    ),
)
DEMOS = {each.pilot: each for each in _DEMOS}


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
        say(f"it runs, and its rows are stored: {installation.url}  (Ctrl-C ends everything)")
        words = f"--like {demo.pilot} --unit {demo.unit_s}s --periods 24 --washout 2 --url {installation.url}"
        say(f"go on in another terminal: edgebed pilot draft {words} -o pilot.yaml")
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
