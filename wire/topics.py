"""Parse and format topics: `tb1/{tenant}/{pilot}/{site}/{node}/{class}[/{device|_}/{name}]`, public API."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from wire.errors import WireError

ROOT = "tb1"
NODE_ITSELF = "_"
ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
FIELD = re.compile(r"[a-z][a-z0-9_]{0,47}")

# class -> how many segments follow it; the bodies are in wire/messages.py and docs/topics.md
CLASSES = {
    "status": 0,
    "birth": 0,
    "live": 2,
    "snap": 2,
    "data": 2,
    "event": 2,
    "pack": 0,
    "ack": 0,
    "cmd": 2,
    "res": 2,
    "desired": 1,
    "reported": 1,
    "log": 1,
}


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """The identity of a node: the company that owns the data, its pilot, the site, the daemon."""

    tenant: str
    pilot: str
    site: str
    node: str
    text: str = field(init=False, repr=False, compare=False)  # tenant/pilot/site/node

    def __post_init__(self) -> None:
        for part, value in zip(("tenant", "pilot", "site", "node"), self.parts, strict=True):
            if not ID.fullmatch(value):
                raise WireError(f"{part} {value!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)")
        object.__setattr__(self, "text", "/".join(self.parts))

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """The four ids in topic order."""
        return (self.tenant, self.pilot, self.site, self.node)

    @property
    def base(self) -> str:
        """The literal prefix of every topic of this node, without a trailing slash."""
        return f"{ROOT}/{self.text}"

    @property
    def client_id(self) -> str:
        """MQTT client id and username of the node's durable connection, without dots and stars (for NATS)."""
        return "_".join(self.parts)

    def topic(self, cls: str, *tail: str) -> str:
        """The full topic of one class, e.g. `address.topic("data", "arm", "joints")`."""
        return "/".join((self.base, cls, *tail))

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `tenant/pilot/site/node`.

        Raises:
            WireError: not four ids.
        """
        parts = text.split("/")
        if len(parts) != 4:
            raise WireError(f"{text!r} is not tenant/pilot/site/node")
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Topic:
    """One parsed topic; `device` is `_` for the node itself, `""` for a class without device."""

    address: Address
    cls: str
    device: str = ""
    name: str = ""


def parse(topic: str) -> Topic:
    """Parse a topic.

    Raises:
        WireError: the topic does not follow the grammar; the message names the part.
    """
    if len(topic) > 256:
        raise WireError(f"topic of {len(topic)} characters; 256 are allowed")
    root, *parts = topic.split("/")
    if root != ROOT or len(parts) < 5:
        raise WireError(f"topic {topic!r} is not {ROOT}/tenant/pilot/site/node/class/...")
    address = Address(*parts[:4])
    cls, tail = parts[4], parts[5:]
    if cls not in CLASSES:
        raise WireError(f"unknown class {cls!r} in topic {topic!r}")
    if len(tail) != CLASSES[cls]:
        raise WireError(f"class {cls!r} takes {CLASSES[cls]} more segments, {topic!r} has {len(tail)}")
    if len(tail) == 2:
        device, name = tail
        if device != NODE_ITSELF and not ID.fullmatch(device):
            raise WireError(f"device {device!r} is not an id in topic {topic!r}")
    else:
        device, name = "", tail[0] if tail else ""
    if name and not ID.fullmatch(name):
        raise WireError(f"name {name!r} is not an id in topic {topic!r}")
    return Topic(address, cls, device, name)
