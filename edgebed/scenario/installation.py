"""Broker, collector, simulators and agents of a scenario in one process, on one simulation clock."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import yaml

import simulators
from agent.app import App
from agent.config import load as load_plan
from agent.inference.signing.signature import new_key
from agent.pipeline.source import Source
from collector.app import Collector
from collector.config import CollectorConfig, Http
from edgebed import __version__
from edgebed.broker import BrokerProcess
from edgebed.installation import ADDRESS_KEYS
from edgebed.scenario.document import Scenario, ScenarioAgent, SimulatedDevice
from simulators.faults import FaultProxy
from wire.broker import Broker
from wire.clock import NS_PER_S
from wire.errors import ConfigError, EdgebedError
from wire.messages import Stream
from wire.simulation_clock import SimulationClock
from wire.task_cancellation import end

# simulators whose adapters find the device only while it sends: they cannot open while time stands still
IN_FLOW = frozenset({"ble", "camera", "can", "hl7", "nmea", "serial"})
# simulators whose data have no time: each sample must be received at the moment it was sent, one by one
IN_STEP = frozenset({"camera"})


READY_S = 60.0  # of real time for models to load and devices to connect
STOP_S = 60.0
# how far the clock may be ahead of the data read from a device: seconds (it may send once a second) and rows
_LEAD_S = 2.5
_LEAD_ROWS = 3


@dataclass
class PlayedAgent:
    """One agent of the scenario, with the simulators of its devices."""

    name: str
    settings: ScenarioAgent
    folder: Path
    config: Path = Path()
    simulators: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, FaultProxy] = field(default_factory=dict)  # device -> line that the timeline cuts
    link: FaultProxy | None = None
    app: App | None = None
    task: asyncio.Task[None] | None = None
    left_out: str = ""  # why it does not take part

    def kind(self, device: str) -> str:
        """Return the kind of a device's simulator."""
        settings = self.settings.devices[device]
        return settings.simulator or self.settings.devices[settings.shares].simulator

    @property
    def running(self) -> App:
        """The running agent.

        Raises:
            EdgebedError: it does not run now.
        """
        if self.app is None:
            raise EdgebedError(f"agent {self.name} does not run")
        return self.app


class ScenarioInstallation:
    """All parts of a scenario. Use as `async with`: then they run, and time stands still at the start.

    An agent is left out when a library that its simulators need is missing; `left_out` gives the reason.
    """

    def __init__(self, scenario: Scenario, folder: Path, *, seed: int, http_port: int = 0) -> None:
        self.scenario = scenario
        self.folder = folder
        self.seed = seed
        self.clock = SimulationClock(scenario.start_ns)
        self.agents = {name: PlayedAgent(name, each, folder) for name, each in scenario.agents.items()}
        self.plan_key = new_key()  # private, public: signs the plans of pilots
        self.broker = BrokerProcess(scenario.broker, folder / "broker")
        self._http = Http(port=http_port)
        self._collecting: tuple[Collector, asyncio.Task[None]] | None = None
        self._stack = AsyncExitStack()

    @property
    def collector(self) -> Collector:
        """The running collector.

        Raises:
            EdgebedError: it does not run now.
        """
        if self._collecting is None:
            raise EdgebedError("the collector does not run")
        return self._collecting[0]

    def agent_of(self, device: str) -> PlayedAgent:
        """Return the agent of a device."""
        return next(agent for agent in self.agents.values() if device in agent.settings.devices)

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _build(self) -> None:
        await self._stack.enter_async_context(self.clock)
        self._stack.callback(self.broker.stop)
        self.broker.start()
        self._stack.push_async_callback(self.stop_collector)
        await self.start_collector()
        for agent in self.agents.values():
            await self._simulate(agent)
        for agent in self.present():
            agent.link = await self._stack.enter_async_context(FaultProxy(self.broker.port, seed=self.seed))
            self._stack.push_async_callback(self.stop_agent, agent)
            agent.config = self._write(agent, agent.link.port)
        starting = [asyncio.create_task(self.start_agent(agent)) for agent in self.present()]
        try:
            await asyncio.gather(*starting)
        finally:
            await end(starting)

    def present(self) -> list[PlayedAgent]:
        """Return the agents that take part."""
        return [agent for agent in self.agents.values() if not agent.left_out]

    # --- start and stop of parts, also for the timeline

    async def start_collector(self) -> None:
        """Start the collector, or start it again with the same store."""
        config = CollectorConfig(
            broker=Broker(url=self.broker.url), store=self.folder / "store", http=self._http
        )
        collector = Collector(config, self.clock)
        ready = asyncio.Event()
        task = asyncio.create_task(collector.run(ready.set), name="collector")
        self._collecting = collector, task
        await _first(ready, task)

    async def stop_collector(self) -> None:
        """Stop the collector in order; it stores what it received."""
        if self._collecting is None:
            return
        collector, task = self._collecting
        self._collecting = None
        collector.stop()
        await asyncio.gather(task, return_exceptions=True)

    async def start_agent(self, agent: PlayedAgent) -> None:
        """Start an agent and wait until its models are loaded."""
        # relative paths in the config are relative to the original config
        plan = load_plan(agent.config, self.clock, folder=agent.settings.config.parent)
        app = App(plan, self.clock, __version__, models_first=True)
        agent.app, agent.task = app, asyncio.create_task(app.serve(), name=f"agent-{agent.name}")
        await _first(app.ready, agent.task)
        for device in agent.settings.devices:
            self.clock.brakes[f"{agent.name}/{device}"] = _Brake(self.clock, agent, device)

    async def stop_agent(self, agent: PlayedAgent) -> None:
        """Stop an agent in order: what it took is on its disk, and sent if its link works."""
        app, task = agent.app, agent.task
        agent.app = agent.task = None
        for device in agent.settings.devices:
            self.clock.brakes.pop(f"{agent.name}/{device}", None)
        if app is None or task is None:
            return
        app.stop()
        await asyncio.wait({task}, timeout=STOP_S)
        await end({task})

    async def _simulate(self, agent: PlayedAgent) -> None:
        for device, settings in agent.settings.devices.items():
            if settings.shares:
                continue
            try:
                simulator = _simulator(settings, self.seed, self.clock, self.broker.url)
            except ModuleNotFoundError as error:
                agent.left_out = f"{settings.simulator} needs {error.name}: pip install 'edgebed[sim]'"
                return
            except (TypeError, ValueError) as error:
                raise ConfigError(f"agents.{agent.name}.devices.{device}: {error}") from error
            agent.simulators[device] = await self._stack.enter_async_context(simulator)
            if any(each.device == device and each.line for each in self.scenario.timeline):
                port = getattr(simulator, "port", 0)
                if not port:
                    raise ConfigError(f"the line to {device} is not a TCP connection: it cannot be cut")
                line = FaultProxy(port, seed=self.seed)
                agent.lines[device] = await self._stack.enter_async_context(line)
        for device, settings in agent.settings.devices.items():
            if settings.shares:
                agent.simulators[device] = agent.simulators[settings.shares]

    def _write(self, agent: PlayedAgent, broker_port: int) -> Path:
        """Write the agent's config for this scenario; return its path."""
        source = agent.settings.config
        try:
            document: dict[str, Any] = yaml.safe_load(source.read_text())
            base = document["node"].split("/")[:3]
            devices, models = document["devices"], document.get("models", {})
            for device, settings in agent.settings.devices.items():
                options = devices[device].setdefault("options", {})
                where = next(word for word in ADDRESS_KEYS if word in options)
                options.update({where: self._url(agent, device), **settings.adapter})
            document["models"] = {
                slot: model
                for slot, model in models.items()
                if model["input"].partition("/")[0] in agent.settings.devices
            }
        except KeyError as error:
            known = ", ".join(document.get("devices", {}))
            raise ConfigError(f"{source} has no {error.args[0]!r}; its devices are {known}") from error
        except (OSError, yaml.YAMLError, AttributeError, TypeError, StopIteration) as error:
            raise ConfigError(f"{source} is not the config of an agent: {error}") from error
        document["node"] = "/".join([*base, agent.name])
        document["broker"] = {"url": f"mqtt://127.0.0.1:{broker_port}"}
        document["state"] = str(self.folder.resolve() / f"state-{agent.name}")
        document["devices"] = {device: devices[device] for device in agent.settings.devices}
        if self.scenario.pilots:
            document["trust"] = {"keys": [str(self._public_key())]}
            document["remote"] = {"pilot": True}
        path = self.folder / f"{agent.name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def _public_key(self) -> Path:
        """Write the key that the agents trust for the plans of pilots; return its path."""
        path = self.folder.resolve() / "pilots.pem"
        path.write_bytes(self.plan_key[1])
        return path

    def _url(self, agent: PlayedAgent, device: str) -> str:
        url: str = agent.simulators[device].url
        if device not in agent.lines:
            return url
        parts = urlsplit(url)
        host = parts.netloc.rpartition(":")[0]
        return urlunsplit(parts._replace(netloc=f"{host}:{agent.lines[device].port}"))


class _Brake:
    """Holds the clock while a device's data pass through adapter and models."""

    def __init__(self, clock: SimulationClock, agent: PlayedAgent, device: str) -> None:
        self._clock, self._agent, self._device = clock, agent, device
        simulator, app = agent.simulators[device], agent.running
        rate_hz = quickest(app.plan.devices[device].streams)
        self._lead_ns = round((_LEAD_S + _LEAD_ROWS / rate_hz) * NS_PER_S) if rate_hz else 0
        self._step = (simulator.start_ns, simulator.period_ns) if agent.kind(device) in IN_STEP else None

    def __call__(self) -> int | None:
        app = self._agent.app
        source: Source | None = getattr(app, "sources", {}).get(self._device)
        if app is None or source is None or source.state.state != "ok" or not source.newest_ns:
            return None
        slots = app.pipeline.runners.values()
        if any(slot.busy for slot in slots if slot.settings.device == self._device):
            return self._clock.now_ns()
        if self._step is not None:
            start_ns, period_ns = self._step
            grid: int = start_ns + ((source.newest_ns - start_ns) // period_ns + 1) * period_ns
            return grid
        newest_ns: int = source.newest_ns
        return newest_ns + self._lead_ns if self._lead_ns else None


def quickest(streams: Mapping[str, Stream]) -> float:
    """Return the highest rate of the streams in rows per second; 0 without a declared rate."""
    return max((stream.rate_hz or 0.0 for stream in streams.values()), default=0.0)


def _simulator(settings: SimulatedDevice, seed: int, clock: SimulationClock, broker_url: str) -> Any:
    kind = simulators.load(settings.simulator)
    options = {"seed": seed, "clock": clock, **settings.options}
    if "broker_url" in inspect.signature(kind).parameters:
        options["broker_url"] = broker_url
    return kind(**options)


async def _first(ready: asyncio.Event, task: asyncio.Task[None]) -> None:
    """Wait until `ready` is set; raise the error of `task` if it ends first."""
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({waiting, task}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        if not ready.is_set():
            raise EdgebedError(f"{task.get_name()} was not ready within {READY_S:g} s")
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
