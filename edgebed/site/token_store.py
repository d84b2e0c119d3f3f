"""The tokens that a site has given out: each is for one node, ends, and can be used once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes
from msgspec import Struct

from edgebed.site.authorities import serving_root
from edgebed.site.files import SECRET, read, write
from edgebed.site.layout import Layout
from edgebed.site.token import Token
from wire.errors import EdgebedError, unwritable
from wire.folder_sync import sync_folder
from wire.topics import Address

TOKENS, USED = "tokens", "tokens/used"
_USED = "the token was used before, or taken back: ask for a new one"


class Kept(Struct):
    """What is kept of a token; not its secret."""

    node: str
    ends: datetime


def give(layout: Layout, node: Address, now: datetime, hours: float) -> Token:
    """Make a token for a node; an earlier one that is not used yet is void from then on.

    Raises:
        ConfigError: the site is not complete, or cannot be written.
    """
    root = serving_root(layout)
    void(layout, node)
    ends = (now + timedelta(hours=hours)).replace(microsecond=0)
    token = Token(node, ends, root.fingerprint(hashes.SHA256()), secrets.token_bytes(16))
    kept = msgspec.json.encode(Kept(node.text, ends))
    write(layout.path(TOKENS) / f"{token.name}.json", kept, SECRET)
    return token


def waiting(layout: Layout, now: datetime) -> dict[str, datetime]:
    """Node to end of each token that can still be used."""
    found = {}
    for _, kept in _unused(layout):
        if kept.ends > now:
            found[kept.node] = kept.ends
    return dict(sorted(found.items()))


def void(layout: Layout, node: Address) -> bool:
    """Take back the tokens of a node that are not used; whether there were any.

    Raises:
        ConfigError: the site cannot be written.
    """
    found = False
    for path, kept in _unused(layout):
        if kept.node != node.text:
            continue
        found = True
        try:
            path.replace(layout.path(USED) / path.name)
        except OSError as error:
            raise unwritable(str(path), error) from error
    return found


def void_all(layout: Layout) -> int:
    """Take back every token that is not used; returns how many."""
    nodes = {kept.node for _, kept in _unused(layout)}
    for node in nodes:
        void(layout, Address.parse(node))
    return len(nodes)


def _unused(layout: Layout) -> Iterator[tuple[Path, Kept]]:
    for path in sorted(layout.path(TOKENS).glob("*.json")):
        with contextlib.suppress(msgspec.MsgspecError):  # damaged: it is not a token of any node
            yield path, msgspec.json.decode(read(path) or b"", type=Kept)


def node_of(layout: Layout, secret: bytes, now: datetime) -> Address:
    """The node of a token that can be used now.

    Raises:
        EdgebedError: it cannot.
    """
    name = hashlib.sha256(secret).hexdigest()
    data = read(layout.path(TOKENS) / f"{name}.json")
    if data is None:
        if read(layout.path(USED) / f"{name}.json") is not None:
            raise EdgebedError(_USED)
        raise EdgebedError("this site has not given out the token: ask for a new one")
    try:
        kept = msgspec.json.decode(data, type=Kept)
    except msgspec.MsgspecError as error:
        raise EdgebedError("what the site keeps of the token is damaged: ask for a new one") from error
    if kept.ends <= now:
        raise EdgebedError(f"the token ended on {kept.ends:%Y-%m-%d %H:%M} UTC: ask for a new one")
    return Address.parse(kept.node)


@contextmanager
def used(layout: Layout, secret: bytes) -> Iterator[None]:
    """Use a token up for the block; it stays unused if the block fails.

    Raises:
        EdgebedError: another request used it first, or the folder cannot be written.
    """
    name = f"{hashlib.sha256(secret).hexdigest()}.json"
    first, after = layout.path(TOKENS) / name, layout.path(USED) / name
    try:
        os.rename(first, after)  # noqa: PTH104 - of two requests one gets it
        for folder in (USED, TOKENS):
            sync_folder(layout.path(folder))
    except FileNotFoundError as error:
        raise EdgebedError(_USED) from error
    except OSError as error:
        raise unwritable(str(after), error) from error
    try:
        yield
    except EdgebedError:
        after.rename(first)
        raise
