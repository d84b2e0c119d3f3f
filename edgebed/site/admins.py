"""The administrators of a site on other machines: each has a token for the nodes of some prefixes."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes
from msgspec import Struct

from collector.rights.accounts import check_name
from collector.rights.user import covers
from edgebed.site.authorities import serving_root
from edgebed.site.files import SECRET, make_folder, read, write
from edgebed.site.layout import Layout
from edgebed.site.token import AdminToken
from wire.errors import ConfigError, EdgebedError, unwritable
from wire.topics import Address

FOLDER = "admins"
_SECRET = re.compile("[0-9a-f]{32}")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Admin(Struct):
    """What is kept of an administrator; not the secret of its token."""

    name: str
    prefixes: list[str]
    ends: datetime

    def check(self, node: Address) -> None:
        """Check that it may manage a node.

        Raises:
            EdgebedError: it may not.
        """
        if not self.covers(node.text):
            raise EdgebedError(f"{self.name} manages nodes of {' '.join(self.prefixes)} alone, not {node}")

    def covers(self, node: str) -> bool:
        """Whether one of its prefixes covers a node."""
        return any(covers(prefix, node) for prefix in self.prefixes)


def give(layout: Layout, name: str, prefixes: list[str], now: datetime, days: int) -> AdminToken:
    """Make the token of an administrator; an earlier one of the same name is void from then on.

    Raises:
        EdgebedError: the name is not one.
        ConfigError: the site is not complete, or cannot be written.
    """
    check_name(name)
    root = serving_root(layout).fingerprint(hashes.SHA256())
    remove(layout, name)
    ends = (now + timedelta(days=days)).replace(microsecond=0)
    token = AdminToken(name, ends, root, secrets.token_bytes(16))
    make_folder(layout.path(FOLDER), 0o700)
    write(_path(layout, token.secret), msgspec.json.encode(Admin(name, prefixes, ends)), SECRET)
    return token


def remove(layout: Layout, name: str) -> bool:
    """Take the token of an administrator back; whether it had one.

    Raises:
        ConfigError: the site cannot be written.
    """
    found = [path for path, one in _kept(layout) if one.name == name]
    for path in found:
        try:
            path.unlink()
        except OSError as error:
            raise unwritable(str(path), error) from error
    return bool(found)


def listed(layout: Layout) -> list[Admin]:
    """The administrators, by name."""
    return sorted((one for _, one in _kept(layout)), key=lambda one: one.name)


def find(layout: Layout, secret: str, now: datetime) -> Admin:
    """The administrator of a token's secret in hexadecimal digits.

    Raises:
        EdgebedError: it is not valid.
        ConfigError: others may change the file.
    """
    if not _SECRET.fullmatch(secret):
        raise EdgebedError("this needs the token of an administrator: `edgebed site admin-token` makes one")
    path = _path(layout, bytes.fromhex(secret))
    data = read(path)
    if data is None:
        raise EdgebedError("this site does not know the token of the administrator, or it was taken back")
    if path.stat().st_mode & _OTHERS_WRITE:
        raise ConfigError(f"other users may change {path.name} in {FOLDER}/ of the site: chmod 600 it")
    try:
        found = msgspec.json.decode(data, type=Admin)
    except msgspec.MsgspecError as error:
        raise EdgebedError("what the site keeps of the administrator is damaged: make a new token") from error
    if found.ends <= now:
        raise EdgebedError(
            f"the token of {found.name} ended on {found.ends:%Y-%m-%d %H:%M} UTC: make a new one"
        )
    return found


def _kept(layout: Layout) -> Iterator[tuple[Path, Admin]]:
    for path in sorted(layout.path(FOLDER).glob("*.json")):
        with contextlib.suppress(msgspec.MsgspecError):  # damaged: it lets no one in
            yield path, msgspec.json.decode(read(path) or b"", type=Admin)


def _path(layout: Layout, secret: bytes) -> Path:
    return layout.path(FOLDER) / f"{hashlib.sha256(secret).hexdigest()}.json"
