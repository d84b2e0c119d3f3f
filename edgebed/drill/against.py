"""A site's own installation under drill: our boxes and links beside its broker and collector."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from edgebed.installation import Site, Stand
from simulators.faults import FaultProxy
from wire import config
from wire.broker import Broker
from wire.config import Marks, Mistake
from wire.errors import ConfigError, EdgebedError, WireError
from wire.topics import Address

COMMAND_S = 120.0  # a site's own command may take so long


class CollectorAt(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The collector whose ledger is believed."""

    url: Annotated[str, Meta(max_length=300, description="http://host:port of its API.")]
    token_file: Annotated[Path | None, Meta(description="File whose first line is the access token.")] = None


class Against(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What `--against` reads. `box-1` and `box-2` appear below `node`."""

    node: Annotated[str, Meta(description="tenant/pilot/site that the drill's two boxes belong to.")]
    broker: Annotated[Broker, Meta(description="The site's broker, as an agent reaches it.")]
    collector: Annotated[CollectorAt, Meta(description="The site's collector.")]
    commands: Annotated[
        dict[str, str],
        Meta(description="Harm to the command that does it: broker-stop: 'systemctl restart mosquitto'."),
    ] = msgspec.field(default_factory=dict)


def load(path: Path, possible: frozenset[str]) -> Against:
    """Read the file; `possible` are the harms a command may stand for.

    Raises:
        ConfigError: every mistake.
    """

    def check(found: Against, _marks: Marks) -> Any:
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
                    f"no harm {name!r} that a command could do; there are {', '.join(sorted(possible))}",
                )
                yield mistake

    return config.load(path, Against, check)


class Installed(Stand):
    """A stand whose broker and collector are a site's own; only agents and links are ours."""

    def __init__(self, folder: Path, sites: list[Site], against: Against, *, seed: int) -> None:
        super().__init__(folder, sites, seed=seed)
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
        for site in self.sites.values():
            link = FaultProxy(broker.port, target_host=broker.host, seed=self.seed)
            self.links[site.name] = await self._stack.enter_async_context(link)
            await self._start_agent(site)

    def _broker_of(self, site: Site) -> dict[str, Any]:
        broker = self._against.broker
        section = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in msgspec.structs.asdict(broker).items()
            if value
        }
        scheme = "mqtts" if broker.tls else "mqtt"
        section["url"] = f"{scheme}://127.0.0.1:{self.links[site.name].port}"
        if broker.tls and not broker.server_name:
            section["server_name"] = broker.host
        return section

    async def do(self, harm: str) -> None:
        """Run the site's own command for a harm.

        Raises:
            EdgebedError: it failed or took too long.
        """
        words = shlex.split(self._against.commands[harm])
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(COMMAND_S):
                status = await process.wait()
        except TimeoutError as error:
            process.kill()
            raise EdgebedError(f"{harm}: {words[0]} took longer than {COMMAND_S:g} s") from error
        if status:
            raise EdgebedError(f"{harm}: {words[0]} ended with {status}")
