"""A whole installation on loopback, each part a process of its own: for demo, drills and tests."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from edgebed.broker import BrokerProcess, Kind, free_port, require_free
from edgebed.processes import Child, edgebed_command
from simulators.faults import FaultProxy
from wire.errors import EdgebedError, TryAgain, unwritable
from wire.shipped import folder as assets

ADDRESS_KEYS = ("url", "channel", "hci")  # the option with a device's address; channel: CAN, hci: Bluetooth


@dataclass
class AgentSetup:
    """One agent: its config, and the simulators of its devices.

    Devices of the config that are not named here are left out, with their models.
    """

    name: str  # node id
    config: str | Path  # file in configs/, or any path
    device: str  # device id in that file
    simulator: str = ""  # kind for `edgebed sim run`; empty when the device is a file
    options: tuple[str, ...] = ()  # of the simulator; `{broker}` in one is the broker's URL
    # more devices -> simulator, options; an empty list: the simulator of `device`
    further: Mapping[str, Sequence[str]] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()  # of `edgebed agent run`
    changes: Mapping[str, Any] = field(default_factory=dict)  # merged over the config file


class Installation:
    """Broker, collector, and for each setup simulators, a faulty link and an agent. Use as `async with`.

    Each agent reaches the broker through `links[name]`, a `FaultProxy`; the collector connects directly.
    """

    def __init__(
        self,
        folder: Path,
        setups: list[AgentSetup],
        *,
        broker: Kind = "nats",
        http_port: int = 0,
        seed: int = 1,
    ) -> None:
        self.folder = folder
        self.setups = {setup.name: setup for setup in setups}
        self.broker = BrokerProcess(broker, folder / "broker")
        self.http_port = http_port or free_port()
        self.seed = seed
        self.headers: dict[str, str] = {}  # sent with every request to the collector
        self.links: dict[str, FaultProxy] = {}
        self.agents: dict[str, Child] = {}
        self.simulators: dict[str, Child] = {}
        self.collector = Child("collector", (), folder / "collector.log")
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return f"http://127.0.0.1:{self.http_port}"

    async def __aenter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "collector.log").touch()  # fails now if the folder is not writable
        except OSError as error:
            raise unwritable(f"folder {self.folder}", error) from error
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        require_free("127.0.0.1", self.http_port)
        self._stack.callback(self.broker.stop)
        self.broker.start()
        self._start_collector()
        for setup in self.setups.values():
            self._start_simulators(setup)
        for setup in self.setups.values():
            link = FaultProxy(self.broker.port, seed=self.seed)
            self.links[setup.name] = await self._stack.enter_async_context(link)
            await self._start_agent(setup)
        await asyncio.to_thread(self.collector.first_line)  # raises where the page cannot be served

    def _start_collector(self) -> None:
        document = {
            "id": "collector-1",
            "broker": {"url": self.broker.url},
            "store": "store",
            "http": {"host": "127.0.0.1", "port": self.http_port},
        }
        self.collector.command = edgebed_command("collector", "run", self._write("collector", document))
        self._stack.callback(self.collector.stop)
        self.collector.start()

    def _start_simulators(self, setup: AgentSetup) -> None:
        if not setup.simulator:
            return
        for device, words in {
            setup.device: (setup.simulator, *setup.options),
            **setup.further,
        }.items():
            if not words:
                continue
            name = f"{setup.name}-{device}"
            kind, *options = (each.replace("{broker}", self.broker.url) for each in words)
            command = edgebed_command("sim", "run", kind, "--seed", str(self.seed), "--port", "0", *options)
            child = Child(f"sim-{name}", command, self.folder / f"sim-{name}.log")
            self.simulators[name] = child
            self._stack.callback(child.stop)
            child.start()

    async def _start_agent(self, setup: AgentSetup) -> None:
        source = assets("configs") / setup.config
        document = yaml.safe_load(source.read_text())
        document["node"] = "/".join([*document["node"].split("/")[:3], setup.name])
        document["broker"] = self._broker_of(setup)
        document["state"] = f"state-{setup.name}"
        taking_part = [setup.device, *setup.further]
        document["devices"] = {name: document["devices"][name] for name in taking_part}
        document["models"] = {
            slot: {**model, "package": str((source.parent / model["package"]).resolve())}
            for slot, model in document.get("models", {}).items()
            if model["input"].partition("/")[0] in taking_part
        }
        if setup.simulator:
            await self._point(document["devices"], setup)
        merged = _merge(document, setup.changes)
        child = Child(
            f"agent-{setup.name}",
            edgebed_command("agent", "run", self._write(setup.name, merged), *setup.arguments),
            self.folder / f"agent-{setup.name}.log",
        )
        self.agents[setup.name] = child
        self._stack.callback(child.stop)
        child.start()

    async def _point(self, devices: dict[str, Any], setup: AgentSetup) -> None:
        """Write the addresses of the simulators into the options of the devices."""
        for name, device in devices.items():
            simulated = name if setup.further.get(name, setup.simulator) else setup.device
            url = await asyncio.to_thread(self.simulators[f"{setup.name}-{simulated}"].first_line)
            where = next(key for key in ADDRESS_KEYS if key in device["options"])
            device["options"][where] = url
            for key in ("map", "dbc"):
                if key in device["options"]:
                    device["options"][key] = str(assets("configs") / device["options"][key])

    def _broker_of(self, setup: AgentSetup) -> dict[str, Any]:
        """Return the `broker:` section of an agent's config: its connection goes through its link."""
        return {"url": f"mqtt://127.0.0.1:{self.links[setup.name].port}"}

    def _write(self, name: str, document: Mapping[str, Any]) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False))
        return str(path)

    def node(self, name: str) -> str:
        """Return an agent's address, `tenant/pilot/site/node`."""
        node: str = yaml.safe_load((self.folder / f"{name}.yaml").read_text())["node"]
        return node

    def agent_status(self, name: str) -> dict[str, Any]:
        """Return an agent's last status file, which exists also while its link is cut."""
        path = self.folder / f"state-{name}" / "status.json"
        try:
            status: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):  # not written yet
            return {}
        return status

    async def api(self, path: str) -> Any:
        """GET a JSON route of the collector.

        Raises:
            TryAgain: the collector does not answer.
        """
        return json.loads(await asyncio.to_thread(self._get, path))

    def _get(self, path: str) -> bytes:
        try:
            asked = urllib.request.Request(f"{self.url}{path}", headers=self.headers)  # noqa: S310 - the scheme is http or https
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310 - the same
                body: bytes = answer.read()
                return body
        except (urllib.error.URLError, OSError) as error:
            raise TryAgain(f"{path} got no answer from the collector: {error}") from error

    async def until(self, what: str, condition: Callable[[], Any], deadline_s: float = 60.0) -> Any:
        """Wait until `condition`, which may be async, returns something true; return that.

        Raises:
            EdgebedError: it did not within `deadline_s`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        while True:
            try:
                found = condition()
                found = await found if asyncio.iscoroutine(found) else found
            except (TryAgain, KeyError, IndexError, TypeError):  # the data are not there yet
                found = None
            if found:
                return found
            if loop.time() > until:
                raise EdgebedError(f"not within {deadline_s:g} s: {what}\n{self._last_words()}")
            await asyncio.sleep(0.1)

    def _last_words(self) -> str:
        children = [self.collector, *self.simulators.values(), *self.agents.values()]
        return "\n".join(f"{child.name} ({child.log}): {child.tail(3)}" for child in children)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for children in (self.agents, self.simulators):  # the readers of data end before the sources
            for child in children.values():
                child.ask_to_stop()
            for child in children.values():
                await asyncio.to_thread(child.stop)
        await self._stack.aclose()


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
