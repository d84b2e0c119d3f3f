"""`nodes/enrolled`, for collectors: the generation of each node's key, and the key of its statements."""

from __future__ import annotations

import re
from typing import NamedTuple

from edgebed.site import files
from edgebed.site.layout import ENROLLED, MAC, Layout
from wire.mac import node_key, read_secret
from wire.topics import Address

NO_KEY, REMOVED = "-", "removed"
_LINE = re.compile(r"(\S+) ([1-9][0-9]{0,5}) (-|removed|[0-9a-f]{64})")
_HEAD = "# Written by `edgebed`: node, generation of its key, public key of its signed statements.\n"


class Noted(NamedTuple):
    """What the site notes about a node."""

    generation: int = 1
    custody: str = NO_KEY


def noted(layout: Layout) -> dict[str, Noted]:
    """What the site notes about each node, by name."""
    text = (files.read(layout.path(ENROLLED)) or b"").decode("ascii", "replace")
    found = filter(None, map(_LINE.fullmatch, text.splitlines()))
    return {line[1]: Noted(int(line[2]), line[3]) for line in found}


def note_node(layout: Layout, node: Address, custody: str = "", *, is_renewal: bool = False) -> bool:
    """Note that a node has a certificate, and the key of its statements; returns whether it is this key.

    A renewal does not replace a key: that takes a token, which only an operator can give.
    """
    all_ = noted(layout)
    old = all_.get(node.text, Noted())
    has_key = old.custody not in (NO_KEY, REMOVED)
    kept = old.custody if has_key else NO_KEY
    made = Noted(old.generation, kept if not custody or (has_key and is_renewal) else custody)
    _write(layout, all_, node, made)
    return made.custody == (custody or kept)


def note_removal(layout: Layout, node: Address) -> None:
    """Note that a node was removed: its key and the key of its statements count no more."""
    all_ = noted(layout)
    _write(layout, all_, node, Noted(all_.get(node.text, Noted()).generation + 1, REMOVED))


def mac_key(layout: Layout, node: Address) -> str:
    """The key that a node checks messages with, in hexadecimal digits; "" where the site has no secret.

    Raises:
        ConfigError: the secret cannot be used.
    """
    path = layout.path(MAC)
    if not path.exists():
        return ""
    generation = noted(layout).get(node.text, Noted()).generation
    return node_key(read_secret(path, "the site's secret"), node.text, generation).hex()


def text_of(found: dict[str, Noted]) -> str:
    """The content of the file."""
    return _HEAD + "".join(f"{name} {one.generation} {one.custody}\n" for name, one in sorted(found.items()))


def _write(layout: Layout, found: dict[str, Noted], node: Address, one: Noted) -> None:
    if found.get(node.text) != one:
        content = text_of({**found, node.text: one})
        files.write(layout.path(ENROLLED), content.encode("ascii"), files.PUBLIC)
