"""One-time tokens of `edgebed node add`: what a device needs to know to enrol, in one word."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from wire.errors import EdgebedError, WireError
from wire.topics import Address

_PREFIX = "edgebed1-"
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
        end = int(self.ends.timestamp()).to_bytes(_TIME)
        data = end + self.root_sha256 + self.secret + self.node.text.encode()
        return _PREFIX + base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")


def parse(text: str) -> Token:
    """Read a token.

    Raises:
        EdgebedError: it is not one, or not a whole one.
    """
    word = text.strip()
    if not word.startswith(_PREFIX):
        raise EdgebedError(f"this is not a token of `edgebed node add`: it starts with {_PREFIX}")
    damaged = EdgebedError("the token is cut off or changed: copy the whole line of `edgebed node add`")
    encoded = word.removeprefix(_PREFIX)
    if len(word) > _MAX:
        raise damaged
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise damaged from error
    data, check = raw[:-_CHECK], raw[-_CHECK:]
    if check != _check(data) or len(data) < _TIME + _HASH + _SECRET:
        raise damaged
    end, rest = data[:_TIME], data[_TIME:]
    try:
        node = Address.parse(rest[_HASH + _SECRET :].decode())
    except (UnicodeDecodeError, WireError) as error:
        raise damaged from error
    ends = datetime.fromtimestamp(int.from_bytes(end), UTC)
    return Token(node, ends, rest[:_HASH], rest[_HASH : _HASH + _SECRET])


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECK]
