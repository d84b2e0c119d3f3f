"""Play a scenario: run the clock, carry out the timeline, wait until all messages are stored."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from agent.app import App
from agent.pipeline.source import Source
from collector.ledger.balance import totals
from collector.ledger.ledger import Ledger
from edgebed.scenario import pilots
from edgebed.scenario.document import Happening
from edgebed.scenario.installation import IN_FLOW, READY_S, PlayedAgent, ScenarioInstallation, quickest
from simulators.faults import FaultProxy
from wire.clock import NS_PER_S
from wire.errors import ConfigError, EdgebedError
from wire.messages import Birth
from wire.pilot.frozen import Opened
from wire.simulation_clock import SimulationClock
from wire.task_cancellation import end

_TAIL_S = 2.0  # simulated time after the end: the last samples are polled and sent
_CONNECTED_S = 0.5  # real time for adapters to connect while simulated time stands still
_QUIET_S = 0.3  # real time without a reading until nothing more is expected
_CAUGHT_UP_S = 5.0  # the same if data up to the end are missing
_STORED_S = 45.0  # the same until no more is expected to be stored: an agent sends again after 30 s


@dataclass
class Run:
    """The course of a played scenario, for the report."""

    t0_ns: int
    end_ns: int
    took_s: float = 0.0  # real time from T0 to the end
    startup_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    apps: dict[str, App] = field(default_factory=dict)  # agent name -> its last run
    births: dict[str, Birth] = field(default_factory=dict)  # by node, as the collector has them
    totals: dict[str, int] = field(default_factory=dict)  # of the ledger
    held_s: dict[str, float] = field(default_factory=dict)  # who held the clock -> real seconds
    ledger: Ledger = field(default_factory=Ledger)
    pilots: dict[str, Opened] = field(default_factory=dict)  # by name in the scenario, as they were frozen

    @property
    def rate(self) -> float:
        """The simulated seconds per real second that were reached."""
        return (self.end_ns - self.t0_ns) / NS_PER_S / self.took_s if self.took_s else 0.0


async def play(installation: ScenarioInstallation, rate: float, say: Callable[[str], None]) -> Run:
    """Play the scenario from its start to its end on a stage that is up; agents are stopped afterwards.

    Raises:
        EdgebedError: a device did not come up.
    """
    scenario, clock, loop = installation.scenario, installation.clock, asyncio.get_running_loop()
    began_s = loop.time()
    t0_ns, late = await _come_up(installation)
    run = Run(t0_ns, t0_ns + round(scenario.duration_s * NS_PER_S), notes=late)
    clock.pace = 0
    run.pilots = await pilots.freeze(installation, run.t0_ns)
    run.startup_s = loop.time() - began_s
    _break_devices(installation, run)
    say(f"all devices are read after {run.startup_s:.1f} s; {scenario.duration_s:g} s are played")
    timeline = asyncio.create_task(_happen(installation, run, say), name="timeline")
    try:
        clock.pace = rate
        await clock.sleep_until(run.t0_ns)
        began_s = loop.time()
        await clock.sleep_until(run.end_ns)
        run.took_s = loop.time() - began_s
        await clock.sleep_until(run.end_ns + round(_TAIL_S * NS_PER_S))
        clock.pace = 0
        await timeline
    finally:
        await end({timeline})
    await _catch_up(installation, run)
    await _end(installation, run)
    return run


async def _catch_up(installation: ScenarioInstallation, run: Run) -> None:
    """Wait until all data of the devices are read; without a declared rate, until none came for a while."""
    loop, sources, count = asyncio.get_running_loop(), _sources(installation), -1
    while True:
        if count != (now := sum(source.readings for source in sources)):
            count, since_s = now, loop.time()
        behind = [source.device for source in sources if not _has_read(installation, source, run)]
        if loop.time() - since_s > (_CAUGHT_UP_S if behind else _QUIET_S):
            break
        await asyncio.sleep(0.02)
    if behind:
        run.notes.append(f"not read to the end: {', '.join(behind)}")


async def _end(installation: ScenarioInstallation, run: Run) -> None:
    """Stop the agents in order, wait until their messages are stored, collect figures of running parts."""
    clock = installation.clock
    run.apps = {agent.name: agent.running for agent in installation.present()}
    apps = run.apps.values()
    await _until(
        lambda: all(_has_sent(app) for app in apps),
        _STORED_S,
        lambda: sum(app.outbox.stats().depth for app in apps),
    )
    for name, app in run.apps.items():
        failed = {slot: model for slot, model in app.pipeline.models().items() if model.state == "failed"}
        run.notes += [f"model {slot} of {name} failed: {model.why}" for slot, model in failed.items()]
    for agent in installation.present():
        await installation.stop_agent(agent)
    if not await _until(lambda: _is_stored(installation), _STORED_S, lambda: _missing(installation)):
        run.notes.append("some taken messages did not arrive at the collector in time")
    run.notes += [
        f"{name} held the clock too long; the clock went on without it, {times} times:"
        " do not compare this run with others"
        for name, times in clock.excused.items()
    ]
    run.held_s = dict(clock.held_s)
    collector = installation.collector
    run.ledger = collector.ledger
    run.totals = msgspec.structs.asdict(totals(collector.ledger.entries()))
    for app in run.apps.values():
        node = str(app.plan.address)
        if birth := collector.fleet.birth(node):
            run.births[node] = birth
    await installation.stop_collector()


def _break_devices(installation: ScenarioInstallation, run: Run) -> None:
    """Schedule the faults in the simulators before the start: their times are the same at any pace.

    Raises:
        ConfigError: a simulator does not know a fault.
    """
    scenario = installation.scenario
    for at, each in enumerate(scenario.timeline):
        agent = installation.agent_of(each.device) if each.fault else None
        if agent is None or agent.left_out:
            continue
        simulator = agent.simulators[each.device]
        kind, size = re.fullmatch(r"(.*?)(x[0-9.]+)?", each.fault, re.DOTALL).groups(default="")  # type: ignore[union-attr]  # it always fits
        start_s = (run.t0_ns - simulator.start_ns) / NS_PER_S + each.at_s
        end = f"-{start_s + each.for_s:g}" if each.for_s else ""
        try:
            simulator.inject(f"{kind}@{start_s:g}{end}{size}")
        except ValueError as error:
            raise ConfigError(f"timeline.{at}.fault: {error}") from error


async def _come_up(installation: ScenarioInstallation) -> tuple[int, list[str]]:
    """Connect while time stands still, then wait for the first readings; return T0, and a note if late."""
    clock, lead_ns = installation.clock, round(installation.scenario.lead_in_s * NS_PER_S)
    await _until(
        lambda: all(source.opened or _flows(installation, source) for source in _sources(installation)),
        READY_S / 2,
    )
    await asyncio.sleep(_CONNECTED_S)
    clock.pace = 1.0
    if not await _until(
        lambda: all(_is_up(installation, source) for source in _sources(installation)), READY_S
    ):
        dark = [source for source in _sources(installation) if not _is_up(installation, source)]
        lines = [f"{source.device} did not come up: {source.state.why or 'no reading'}" for source in dark]
        lines.append(f"the clock shows {clock.monotonic():.1f} s; held by {_holders(clock)}")
        raise EdgebedError("\n".join(lines))
    lead_ins = 1 + (clock.monotonic_ns() + NS_PER_S // 2) // lead_ns
    if lead_ins == 1:
        return installation.scenario.start_ns + lead_ns, []
    late = f"devices connected late: T0 is {lead_ins} lead-ins after the start, so the data differ"
    return installation.scenario.start_ns + lead_ins * lead_ns, [late]


def _holders(clock: SimulationClock) -> str:
    """Return who held the clock longest, as text."""
    longest = sorted(clock.held_s.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} ({seconds:.1f} s)" for name, seconds in longest) or "no device"


def _sources(installation: ScenarioInstallation) -> list[Source]:
    return [source for agent in installation.present() if agent.app for source in agent.app.sources.values()]


def _flows(installation: ScenarioInstallation, source: Source) -> bool:
    return installation.agent_of(source.device).kind(source.device) in IN_FLOW


def _is_up(installation: ScenarioInstallation, source: Source) -> bool:
    """Whether a device was read; a slow device, or one without a declared rate, need only be open."""
    seldom = _rate_hz(installation, source) < 1.0 and not _flows(installation, source)
    return source.flows or (source.opened and seldom)


def _has_read(installation: ScenarioInstallation, source: Source, run: Run) -> bool:
    """Whether a device's data up to the end were read, and processed by its models."""
    app = installation.agent_of(source.device).app
    return (_rate_hz(installation, source) < 1.0 or source.newest_ns >= run.end_ns) and not (
        app is not None and app.pipeline.busy
    )


def _rate_hz(installation: ScenarioInstallation, source: Source) -> float:
    return quickest(installation.agent_of(source.device).running.plan.devices[source.device].streams)


def _has_sent(app: App) -> bool:
    """Whether the agent is connected and all its messages are acknowledged."""
    return app.uplink.connected and app.outbox.stats().depth == 0


def _is_stored(installation: ScenarioInstallation) -> bool:
    return bool(installation.collector.ledger.entries()) and _missing(installation) == 0


def _missing(installation: ScenarioInstallation) -> int:
    return sum(entry.waiting + entry.missing_count for entry in installation.collector.ledger.entries())


async def _until(
    condition: Callable[[], bool], seconds: float, progress: Callable[[], int] = lambda: 0
) -> bool:
    """Return whether `condition` became true within `seconds` of real time since `progress` changed."""
    loop, seen = asyncio.get_running_loop(), progress()
    until_s = loop.time() + seconds
    while not condition():
        if (now := progress()) != seen:
            seen, until_s = now, loop.time() + seconds
        if loop.time() > until_s:
            return False
        await asyncio.sleep(0.02)
    return True


# --- the timeline


async def _happen(installation: ScenarioInstallation, run: Run, say: Callable[[str], None]) -> None:
    """Carry out the timeline; the faults of devices are scheduled already."""
    async with asyncio.TaskGroup() as group:
        for each in installation.scenario.timeline:
            if not each.fault:
                group.create_task(_do(installation, each, run, say), name=f"timeline-{each.id or each.at_s}")


async def _do(
    installation: ScenarioInstallation, each: Happening, run: Run, say: Callable[[str], None]
) -> None:
    target = each.agent or each.device
    if target and (installation.agents.get(each.agent) or installation.agent_of(each.device)).left_out:
        return
    at_ns = run.t0_ns + round(each.at_s * NS_PER_S)
    until_ns = run.end_ns if each.for_s is None else min(run.end_ns, at_ns + round(each.for_s * NS_PER_S))
    await installation.clock.sleep_until(at_ns)
    say(f"{each.at_s:g} s: {each.line or each.link or 'stop'} {target or each.restart}")
    if each.restart:
        with _time_standing_still(installation):
            await _stop(installation, each)
        if each.for_s:
            await installation.clock.sleep_until(until_ns)
        with _time_standing_still(installation):
            await _start(installation, each)
        return
    proxy = _proxy(installation, each)
    if "cut" in (each.line, each.link):
        proxy.refuse(True)
        proxy.cut()
    else:
        proxy.black_hole()
    await installation.clock.sleep_until(until_ns)
    proxy.heal()
    proxy.cut()  # what the black hole dropped never arrives, as after a restart of a firewall


def _proxy(installation: ScenarioInstallation, each: Happening) -> FaultProxy:
    agent = installation.agents[each.agent] if each.link else installation.agent_of(each.device)
    proxy = agent.link if each.link else agent.lines[each.device]
    if proxy is None:
        raise EdgebedError(f"agent {agent.name} does not run")
    return proxy


async def _stop(installation: ScenarioInstallation, each: Happening) -> None:
    if each.restart == "agent":
        await installation.stop_agent(installation.agents[each.agent])
    elif each.restart == "collector":
        await installation.stop_collector()
    else:
        await asyncio.to_thread(installation.broker.stop)


async def _start(installation: ScenarioInstallation, each: Happening) -> None:
    if each.restart == "agent":
        agent: PlayedAgent = installation.agents[each.agent]
        await installation.start_agent(agent)
        await _until(
            lambda: all(s.opened or _flows(installation, s) for s in agent.running.sources.values()), READY_S
        )
    elif each.restart == "collector":
        await installation.start_collector()
    else:
        installation.broker.start()  # not in a thread: the broker ends with the thread that starts it


@contextmanager
def _time_standing_still(installation: ScenarioInstallation) -> Iterator[None]:
    pace, installation.clock.pace = installation.clock.pace, 0.0
    try:
        yield
    finally:
        installation.clock.pace = pace
