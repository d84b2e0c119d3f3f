"""`site.yaml`: what the operator decides about a site; `edgebed site init` writes the rest from it."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from wire import config
from wire.config import Marks, Mistake
from wire.errors import ConfigError
from wire.messages import is_id
from wire.topics import ID

FILE = "site.yaml"
MAX_NAME = 64  # characters of the common name of a certificate (RFC 5280)
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.?)+")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_TEXT = """\
# What `edgebed site init` makes this folder from. Change it and run the command again; nothing else needs it.
name: {name}  # of this site, in its certificates
hosts: {hosts}  # names and addresses of the broker; clients get the first
listen: {listen}  # address that the broker listens on; "" = each
port: {port}  # for nodes and viewers
collector_port: {collector_port}  # for collectors
broker_user: {broker_user}  # user of the broker's process
collectors: {collectors}  # ids
viewers: {viewers}  # tenant/pilot or tenant/pilot/name: reads the topics of this pilot
"""


class Site(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    name: str = "site"
    hosts: Annotated[list[str], Meta(min_length=1, max_length=50)]
    listen: str = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = 8883
    collector_port: Annotated[int, Meta(ge=1, le=65535)] = 8884
    broker_user: str = "mosquitto"
    collectors: Annotated[list[str], Meta(min_length=1, max_length=50)] = field(
        default_factory=lambda: ["collector-1"]
    )
    viewers: Annotated[list[str], Meta(max_length=10_000)] = []

    @property
    def url(self) -> str:
        """Where nodes and viewers connect."""
        return f"mqtts://{_in_url(self.hosts[0])}:{self.port}"

    @property
    def collector_url(self) -> str:
        """Where collectors connect."""
        return f"mqtts://{_in_url(self.hosts[0])}:{self.collector_port}"


def load(folder: Path) -> Site:
    """Read `site.yaml` of a site's folder.

    Raises:
        ConfigError: it cannot be read, or every mistake in it.
    """
    if not (folder / FILE).exists():
        raise ConfigError(f"{folder} is not a site: `edgebed site init {folder}` makes one")
    return config.load(folder / FILE, Site, _check)


def text(site: Site) -> str:
    """The file with these settings."""
    values = {name: json.dumps(getattr(site, name), ensure_ascii=False) for name in site.__struct_fields__}
    return _TEXT.format_map(values)


def mistakes(site: Site) -> Iterator[Mistake]:
    """The mistakes that types do not detect, as `(path of keys, sentence)`."""
    if not is_id(site.name):
        yield ("name",), f"{site.name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"
    for at, host in enumerate(site.hosts):
        if not is_address(host) and not _HOST.fullmatch(host):
            yield ("hosts", at), f"{host!r} is neither a host name nor an IP address"
    if site.listen and not is_address(site.listen):
        yield ("listen",), f"{site.listen!r} is not an IP address"
    if site.port == site.collector_port:
        yield ("collector_port",), f"{site.port} is the port of the nodes: collectors need another one"
    if not _USER.fullmatch(site.broker_user):
        yield ("broker_user",), f"{site.broker_user!r} is not the name of a user"
    for at, name in enumerate(site.collectors):
        if not is_id(name):
            yield ("collectors", at), f"{name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"
    for at, name in enumerate(site.viewers):
        yield from ((("viewers", at), why) for why in _wrong_viewer(name))
    for key in ("collectors", "viewers"):
        names = getattr(site, key)
        if len(set(names)) < len(names):
            yield (key,), "a name is in the list twice"


def viewer_user(name: str) -> str:
    """The user name of a viewer; the underscore keeps it apart from every tenant."""
    return "viewer_" + name.replace("/", "_")


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _wrong_viewer(name: str) -> Iterator[str]:
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(ID.fullmatch(part) for part in parts):
        yield f"{name!r} is not tenant/pilot or tenant/pilot/name"
    elif len(viewer_user(name)) > MAX_NAME:
        yield f"{name!r} is too long: a certificate takes names of {MAX_NAME} characters with its 'viewer_'"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check(found: Site, _marks: Marks) -> Iterator[Mistake]:
    yield from mistakes(found)
