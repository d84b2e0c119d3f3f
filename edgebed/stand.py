"""A whole installation on loopback, each part a process that can be killed: for demo, drills and tests."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from edgebed.assets import folder as assets
from edgebed.broker import Broker, Kind, free_port, require_free
from edgebed.processes import Child, edgebed_command
from simulators.faults import FaultProxy
from wire.errors import EdgebedError, TryAgain, unwritable


@dataclass
class Site:
    """One agent with its device: which config, and which simulator stands for its device."""

    name: str  # node id
    config: str | Path  # file in configs/, or any path
    device: str  # device id in that file
    simulator: str = ""  # kind for `edgebed sim run`; none for a device that is a file
    options: tuple[str, ...] = ()  # of the simulator
    changes: Mapping[str, Any] = field(default_factory=dict)  # merged over the config file


class Stand:
    """Broker, collector, and per site a simulator, a faulty link and an agent. Use as `async with`.

    Each agent reaches the broker through `links[site]`, a `FaultProxy`; collector and dashboard do not.
    """

    def __init__(
        self, folder: Path, sites: list[Site], *, broker: Kind = "nats", http_port: int = 0, seed: int = 1
    ) -> None:
        self.folder = folder
        self.sites = {site.name: site for site in sites}
        self.broker = Broker(broker, folder / "broker")
        self.http_port = http_port or free_port()
        self.seed = seed
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
            (self.folder / "collector.log").touch()  # the first file of many
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
        for site in self.sites.values():
            self._start_simulator(site)
        for site in self.sites.values():
            link = FaultProxy(self.broker.port, seed=self.seed)
            self.links[site.name] = await self._stack.enter_async_context(link)
            await self._start_agent(site)
        await asyncio.to_thread(self.collector.first_line)  # its page can be opened, or why it cannot

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

    def _start_simulator(self, site: Site) -> None:
        if not site.simulator:
            return
        command = edgebed_command("sim", "run", site.simulator, "--seed", str(self.seed), "--port", "0")
        child = Child(f"sim-{site.name}", [*command, *site.options], self.folder / f"sim-{site.name}.log")
        self.simulators[site.name] = child
        self._stack.callback(child.stop)
        child.start()

    async def _start_agent(self, site: Site) -> None:
        source = assets("configs") / site.config
        document = yaml.safe_load(source.read_text())
        document["node"] = "/".join([*document["node"].split("/")[:3], site.name])
        document["broker"] = {"url": f"mqtt://127.0.0.1:{self.links[site.name].port}"}
        document["state"] = f"state-{site.name}"
        if site.simulator:
            url = await asyncio.to_thread(self.simulators[site.name].first_line)
            document["devices"][site.device]["options"]["url"] = url
        for model in document.get("models", {}).values():
            model["package"] = str((source.parent / model["package"]).resolve())
        merged = _merge(document, site.changes)
        child = Child(
            f"agent-{site.name}",
            edgebed_command("agent", "run", self._write(site.name, merged)),
            self.folder / f"agent-{site.name}.log",
        )
        self.agents[site.name] = child
        self._stack.callback(child.stop)
        child.start()

    def _write(self, name: str, document: Mapping[str, Any]) -> str:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False))
        return str(path)

    def node(self, site: str) -> str:
        """`tenant/pilot/site/node` of a site's agent."""
        node: str = yaml.safe_load((self.folder / f"{site}.yaml").read_text())["node"]
        return node

    def agent_status(self, site: str) -> dict[str, Any]:
        """What the agent wrote about itself last: the only word of it while its link is cut."""
        path = self.folder / f"state-{site}" / "status.json"
        try:
            status: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):  # not written yet
            return {}
        return status

    async def api(self, path: str) -> Any:
        """GET a JSON route of the collector.

        Raises:
            TryAgain: the collector does not answer now.
        """
        return json.loads(await asyncio.to_thread(self._get, path))

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 - own loopback
                body: bytes = answer.read()
                return body
        except (urllib.error.URLError, OSError) as error:
            raise TryAgain(f"{path} got no answer from the collector: {error}") from error

    async def until(self, what: str, condition: Callable[[], Any], deadline_s: float = 60.0) -> Any:
        """Wait until the (async) `condition` gives something true, and return it.

        Raises:
            EdgebedError: it did not within `deadline_s`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        while True:
            try:
                found = condition()
                found = await found if asyncio.iscoroutine(found) else found
            except (TryAgain, KeyError, IndexError, TypeError):  # not there yet
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
        for children in (self.agents, self.simulators):  # each kind at once, in the order data flow ends
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
