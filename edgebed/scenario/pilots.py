"""The pilots of a scenario: freeze their plans and send them to the nodes before the trial begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
from msgspec.structs import replace

from agent.pilots.signatures import sign
from edgebed.collector_api import CollectorApi
from edgebed.pilot_check import against
from edgebed.scenario.document import ScenarioPilot
from edgebed.scenario.installation import READY_S, ScenarioInstallation
from wire.clock import NS_PER_S
from wire.config import Check, Marks, Mistake
from wire.errors import EdgebedError
from wire.messages import Reported
from wire.pilot.frozen import Opened, envelope, read_signed
from wire.pilot.frozen import freeze as frozen_plan
from wire.pilot.plan import Design, Exclude, Plan, Window, Windows, load


def plan_of(plan: Plan, pilot: ScenarioPilot, start_ns: int, seed: int) -> Plan:
    """The plan of a scenario: that of the file as a switchback of short periods from `start_ns` on."""
    start = datetime.fromtimestamp(start_ns // NS_PER_S, UTC)
    end = start + timedelta(seconds=pilot.period_s * pilot.periods)
    trial = Window(start=f"{start:%Y-%m-%d %H:%M:%S}", end=f"{end:%Y-%m-%d %H:%M:%S}")
    design = Design(
        kind="switchback",
        unit=f"{pilot.period_s}s",
        periods=pilot.periods,
        seed=seed,
        washout_s=pilot.washout_s,
        carry_over_s=pilot.washout_s,
    )
    exclude = Exclude(when=plan.exclude.when, max_share=plan.exclude.max_share)
    return replace(plan, design=design, windows=Windows(tz="UTC", trial=trial), exclude=exclude)


async def freeze(installation: ScenarioInstallation, t0_ns: int) -> dict[str, Opened]:
    """Freeze and sign the plans of all pilots that can run, and wait until their nodes follow them.

    Each plan is first compared with what its nodes declare.

    Raises:
        ConfigError: a plan has mistakes, or its streams are not those of its nodes.
        EdgebedError: a node refuses its plan.
    """
    sent, private = {}, installation.plan_key[0]
    api = CollectorApi(installation.collector.url)
    for name, pilot in installation.scenario.pilots.items():
        if installation.agent_of(pilot.plant).left_out:
            continue
        run = partial(
            plan_of, pilot=pilot, start_ns=t0_ns + round(pilot.at_s * NS_PER_S), seed=installation.seed
        )
        stored = partial(_check, against(api, installation.clock.now_ms()), run)
        plan = run(await asyncio.to_thread(load, pilot.plan, stored))
        payload = frozen_plan(plan).payload
        signed = envelope(payload, (sign(payload, private),))
        sent[name] = read_signed(msgspec.json.encode(signed))
        for node in plan.nodes:
            await asyncio.to_thread(api.change, "PUT", f"nodes/{node}/pilot", msgspec.to_builtins(signed))
            await _followed(installation, node, sent[name].hash)
    return sent


def _check(stored: Check[Plan], run: Callable[[Plan], Plan], plan: Plan, marks: Marks) -> Iterable[Mistake]:
    """The mistakes of the plan as it runs: the windows of the file may be over."""
    return stored(run(plan), marks)


async def _followed(installation: ScenarioInstallation, node: str, digest: str) -> None:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + READY_S
    reported: Reported | None = None
    while loop.time() < until_s:
        reported = installation.collector.fleet.reported(node, "pilot")
        if reported is not None and reported.active == digest:
            return
        if reported is not None and reported.state in ("rejected", "failed"):
            break
        await asyncio.sleep(0.02)
    why = "it reported nothing" if reported is None else reported.err
    raise EdgebedError(f"{node} does not follow the plan of its pilot: {why}")
