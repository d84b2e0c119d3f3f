"""`site.yaml`: what the operator decides about a site; `edgebed site init` writes the rest from it."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from wire import config
from wire.config import Marks, Mistake
from wire.errors import ConfigError
from wire.messages import is_id
from wire.topics import ID

FILE = "site.yaml"
ONE_COMPANY = "nats-server does not keep companies apart, a shared site needs mosquitto"
MAX_NAME = 64  # characters of the common name of a certificate (RFC 5280)
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.?)+")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_TEXT = """\
# What `edgebed site init` makes this folder from. Change it and run the command again; nothing else needs it.
name: {name}  # of this site, in its certificates
broker: {broker}  # mosquitto, or nats: for the one company below alone
tenant: {tenant}  # the company of a nats broker
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
    broker: Literal["mosquitto", "nats"] = "mosquitto"
    tenant: str = ""
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
        port = self.collector_port if self.broker == "mosquitto" else self.port
        return f"mqtts://{_in_url(self.hosts[0])}:{port}"


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
    if site.port == site.collector_port and site.broker == "mosquitto":
        yield ("collector_port",), f"{site.port} is the port of the nodes: collectors need another one"
    if not _USER.fullmatch(site.broker_user):
        yield ("broker_user",), f"{site.broker_user!r} is not the name of a user"
    for at, name in enumerate(site.collectors):
        if not is_id(name):
            yield ("collectors", at), f"{name!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)"
    for key in ("collectors", "viewers"):
        names = getattr(site, key)
        if len(set(names)) < len(names):
            yield (key,), "a name is in the list twice"
    yield from _wrong_company(site)


def viewer_user(name: str) -> str:
    """The user name of a viewer; the underscore keeps it apart from every tenant."""
    return "viewer_" + name.replace("/", "_")


def _wrong_company(site: Site) -> Iterator[Mistake]:
    """The mistakes in the names of companies: viewers of any, or of the one that a nats broker serves."""
    for at, name in enumerate(site.viewers):
        yield from ((("viewers", at), why) for why in _wrong_viewer(name))
        if site.broker == "nats" and name.split("/")[0] != site.tenant:
            yield ("viewers", at), f"{name!r} is of another company than {site.tenant}: {ONE_COMPANY}"
    if site.broker == "nats" and not is_id(site.tenant):
        yield ("tenant",), f"{site.tenant!r} is not an id, and a nats broker needs its company: {ONE_COMPANY}"
    if site.broker == "mosquitto" and site.tenant:
        yield ("tenant",), "it is for a nats broker alone: mosquitto serves each company"


def plain_host(host: str) -> str:
    """A host as a certificate has it: addresses have one form."""
    return str(ipaddress.ip_address(host)) if is_address(host) else host


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
