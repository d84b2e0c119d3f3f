"""Drill at a site: the drill adds its own boxes and links to the site's broker and collector."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from edgebed.installation import AgentSetup, Installation
from simulators.faults import FaultProxy
from wire import config
from wire.broker import Broker
from wire.config import Marks, Mistake
from wire.errors import ConfigError, EdgebedError, WireError
from wire.topics import Address

COMMAND_S = 120.0  # time limit of a site's own command


class CollectorAt(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The site's collector, whose ledger the drill reads."""

    url: Annotated[str, Meta(max_length=300, description="http://host:port of its API.")]
    token_file: Annotated[Path | None, Meta(description="File whose first line is the access token.")] = None


class ExistingSite(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The file that `--against` names. The nodes `box-1` and `box-2` appear below `node`."""

    node: Annotated[str, Meta(description="tenant/pilot/site that the drill's two boxes belong to.")]
    broker: Annotated[Broker, Meta(description="The site's broker, as an agent reaches it.")]
    collector: Annotated[CollectorAt, Meta(description="The site's collector.")]
    commands: Annotated[
        dict[str, str],
        Meta(description="Fault to the command that causes it: broker-stop: 'systemctl restart mosquitto'."),
    ] = msgspec.field(default_factory=dict)


def load(path: Path, possible: frozenset[str]) -> ExistingSite:
    """Read the file; `possible` are the faults that a command may cause.

    Raises:
        ConfigError: the file has mistakes; the error lists all of them.
    """

    def check(found: ExistingSite, _marks: Marks) -> Any:
        try:
            Address.parse(f"{found.node}/box-1")
        except WireError as error:
            yield ("node",), f"{found.node!r} is not tenant/pilot/site: {error}"
        yield from found.broker.mistakes(("broker",))
        if urlsplit(found.collector.url).scheme not in ("http", "https"):
            yield ("collector", "url"), f"{found.collector.url!r} is not http://host:port"
        for name in found.commands:
            if name not in possible:
                mistake: Mistake = (
                    ("commands", name),
                    f"a command cannot cause {name!r}; possible are {', '.join(sorted(possible))}",
                )
                yield mistake

    return config.load(path, ExistingSite, check)


class ExistingInstallation(Installation):
    """An installation that uses a site's broker and collector; the drill starts only agents and links."""

    def __init__(self, folder: Path, setups: list[AgentSetup], against: ExistingSite, *, seed: int) -> None:
        super().__init__(folder, setups, seed=seed)
        self._against = against
        if file := against.collector.token_file:
            try:
                token = file.read_text(encoding="utf-8").splitlines()[0]
            except (OSError, UnicodeDecodeError, IndexError) as error:
                raise ConfigError(f"collector.token_file {file} cannot be read: {error}") from error
            self.headers["authorization"] = f"Bearer {token}"

    @property
    def url(self) -> str:
        return self._against.collector.url.rstrip("/")

    async def _start(self) -> None:
        broker = self._against.broker
        for setup in self.setups.values():
            link = FaultProxy(broker.port, target_host=broker.host, seed=self.seed)
            self.links[setup.name] = await self._stack.enter_async_context(link)
            await self._start_agent(setup)

    def _broker_of(self, setup: AgentSetup) -> dict[str, Any]:
        broker = self._against.broker
        section = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in msgspec.structs.asdict(broker).items()
            if value
        }
        scheme = "mqtts" if broker.tls else "mqtt"
        section["url"] = f"{scheme}://127.0.0.1:{self.links[setup.name].port}"
        if broker.tls and not broker.server_name:
            section["server_name"] = broker.host
        return section

    async def run_command(self, fault: str) -> None:
        """Run the site's command that causes a fault.

        Raises:
            EdgebedError: the command failed or took too long.
        """
        words = shlex.split(self._against.commands[fault])
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(COMMAND_S):
                status = await process.wait()
        except TimeoutError as error:
            process.kill()
            raise EdgebedError(f"{fault}: {words[0]} took longer than {COMMAND_S:g} s") from error
        if status:
            raise EdgebedError(f"{fault}: {words[0]} ended with {status}")
