"""Tokens of a site: what a device needs to know to enrol, or an administrator to ask, in one word."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from wire.errors import EdgebedError, WireError
from wire.topics import Address

_PREFIX, _ADMIN_PREFIX = "edgebed1-", "edgebed-admin1-"
_SECRET, _HASH, _TIME, _CHECK = 16, 32, 4, 4  # bytes
_MAX = 400  # characters


@dataclass(frozen=True, slots=True)
class Token:
    """A token: the node it is for, its end, the SHA-256 of the site's root, and what proves it."""

    node: Address
    ends: datetime
    root_sha256: bytes
    secret: bytes

    @property
    def name(self) -> str:
        """The name under which a site keeps it: its secret cannot be found out from it."""
        return hashlib.sha256(self.secret).hexdigest()

    @property
    def text(self) -> str:
        """The token as one word, with a checksum."""
        return _encoded(_PREFIX, self.ends, self.root_sha256, self.secret, self.node.text)


@dataclass(frozen=True, slots=True)
class AdminToken:
    """What lets an operator on another machine manage nodes: a name, its end, the root, what proves it."""

    name: str
    ends: datetime
    root_sha256: bytes
    secret: bytes

    @property
    def text(self) -> str:
        """The token as one word, with a checksum."""
        return _encoded(_ADMIN_PREFIX, self.ends, self.root_sha256, self.secret, self.name)


def parse(text: str) -> Token:
    """Read a token.

    Raises:
        EdgebedError: it is not one, or not a whole one.
    """
    ends, root, secret, node = _decoded(text, _PREFIX, "edgebed node add")
    try:
        return Token(Address.parse(node), ends, root, secret)
    except WireError as error:
        raise _damaged("edgebed node add") from error


def parse_admin(text: str) -> AdminToken:
    """Read a token of an administrator.

    Raises:
        EdgebedError: it is not one, or not a whole one.
    """
    ends, root, secret, name = _decoded(text, _ADMIN_PREFIX, "edgebed site admin-token")
    return AdminToken(name, ends, root, secret)


def _encoded(prefix: str, ends: datetime, root: bytes, secret: bytes, name: str) -> str:
    data = int(ends.timestamp()).to_bytes(_TIME) + root + secret + name.encode()
    return prefix + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")


def _decoded(text: str, prefix: str, command: str) -> tuple[datetime, bytes, bytes, str]:
    """The end, the root, the secret and the name in a token."""
    word = text.strip()
    if not word.startswith(prefix):
        raise EdgebedError(f"this is not a token of `{command}`: it starts with {prefix}")
    encoded = word.removeprefix(prefix)
    if len(word) > _MAX:
        raise _damaged(command)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _damaged(command) from error
    data, check = raw[:-_CHECK], raw[-_CHECK:]
    if check != _check(data) or len(data) < _TIME + _HASH + _SECRET:
        raise _damaged(command)
    end, rest = data[:_TIME], data[_TIME:]
    try:
        name = rest[_HASH + _SECRET :].decode()
    except UnicodeDecodeError as error:
        raise _damaged(command) from error
    ends = datetime.fromtimestamp(int.from_bytes(end), UTC)
    return ends, rest[:_HASH], rest[_HASH : _HASH + _SECRET], name


def _damaged(command: str) -> EdgebedError:
    return EdgebedError(f"the token is cut off or changed: copy the whole line of `{command}`")


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECK]
