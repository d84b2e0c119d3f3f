"""`mac`: an HMAC in `ack`, `cmd` and `desired`, for nodes whose broker lets every client publish them.

A site has one secret. The key of a node follows from it, so a collector needs that one file for all nodes.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from pathlib import Path

from wire.codec import seal, unsealed
from wire.errors import ConfigError, WireError

CLASSES = ("ack", "cmd", "desired")  # what has a mac
_FIELD = b',"mac":"'  # 32 hexadecimal digits and `"}` follow
_DIGITS = 32
_SIZE = len(_FIELD) + _DIGITS + 2
_KEY = re.compile(rb"[0-9a-f]{64}\s*")


class MacMissing(WireError):
    """The message has no mac."""


class MacWrong(WireError):
    """The mac does not fit the message, its topic or the key."""


def node_key(secret: bytes, node: str, generation: int) -> bytes:
    """The key of a node; a node that was removed and comes back has the next generation, and another key."""
    return hmac.digest(secret, f"edgebed mac {node} {generation}".encode(), "sha256")


def signed(key: bytes, topic: str, body: bytes) -> bytes:
    """The JSON object with the mac of its topic and bytes as last field before its seal."""
    text = unsealed(body)
    if len(text) <= 2:
        return body
    return seal(b'%s%s%s"}' % (text[:-1], _FIELD, _mac(key, topic, text)))


def checked(key: bytes, topic: str, body: bytes) -> bytes:
    """The JSON object without its seal and mac.

    Raises:
        MacMissing: it has no mac.
        MacWrong: it, its topic or the key is another one.
        WireError: its seal does not fit.
    """
    text = unsealed(body)
    if text[-_SIZE : len(_FIELD) - _SIZE] != _FIELD:
        if _FIELD in text[-2 * _SIZE :]:
            raise MacWrong(f"its mac does not have {_DIGITS} digits, or is not the last field")
        raise MacMissing("it has no mac")
    plain = text[:-_SIZE] + b"}"
    if not hmac.compare_digest(_mac(key, topic, plain), text[-_DIGITS - 2 : -2]) or text[-2:] != b'"}':
        raise MacWrong("its mac is wrong")
    return plain


def read_secret(path: Path, what: str) -> bytes:
    """The secret in a file of 64 hexadecimal digits; `what` names it in an error.

    Raises:
        ConfigError: the file is not there, other users may read it, or it has something else.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(100)
    except OSError as error:
        raise ConfigError(
            f"{what} {path} cannot be read: {error.strerror}: copy it from the site again"
        ) from error
    if mode & 0o077:
        raise ConfigError(f"{what} {path} may be read by other users (mode {mode:04o}): chmod 600 {path}")
    if not _KEY.fullmatch(text):
        raise ConfigError(f"{what} {path} is not 64 hexadecimal digits: copy it from the site again")
    return bytes.fromhex(text[:64].decode())


def _mac(key: bytes, topic: str, text: bytes) -> bytes:
    # a topic has no NUL, so topic and text cannot be divided in another way
    return hmac.digest(key, topic.encode() + b"\0" + text, "sha256").hex()[:_DIGITS].encode()
