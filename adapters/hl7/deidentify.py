"""De-identification at the edge: what names a person stops in the adapter, a keyed pseudonym goes on.

An adapter counts each identifying field with `saw`, turns the person's id into a pseudonym with `pseudonym`,
lets values out through `release` alone, and says `forget` when it holds nothing of the message any more. Then
`identifiers_seen == deidentified` in the device's counters, and `stopped_at_gate` counts what its own
mistakes would have let out. Counters and errors never hold a word of what was seen.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from adapters.base import OptionsError, Value

KEY_BYTES = 32
_MAX_KEY = 4_096
_DOMAIN = b"edgebed patient pseudonym 1"
_KEPT_BYTES = 10  # 80 bits: among a million persons two share a pseudonym with a chance of 4e-13
_REMEMBERED = 10_000
_HOW = "edgebed key new {path}"


def read_key(path: Path) -> bytes:
    """The secret key of a site's pseudonyms: a file of at least 32 bytes that others cannot read.

    Raises:
        OptionsError: no such file, too short, or readable by everybody; the text says how to make one.
    """
    how = "make one with " + _HOW.format(path=path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OptionsError(f"pseudonym key {path} cannot be read: {error.strerror}; {how}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise OptionsError(f"pseudonym key {path} is no regular file; {how}")
        if mode & 0o037:
            raise OptionsError(
                f"pseudonym key {path} has mode {stat.S_IMODE(mode):04o}: who reads it can undo pseudonyms; "
                f"chmod 600 {path}"
            )
        key = os.read(fd, _MAX_KEY)
    finally:
        os.close(fd)
    if len(key) < KEY_BYTES:
        raise OptionsError(f"pseudonym key {path} has {len(key)} bytes, not {KEY_BYTES} or more; {how}")
    return key


def create_key(path: Path) -> None:
    """Write a new random key that only this user can read; an existing file is left alone.

    Raises:
        OptionsError: there is one already, or the folder cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise OptionsError(
            f"{path} exists and stays as it is: another key would give everybody a new pseudonym"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - of a descriptor that was never readable by others
            os.fchmod(fd, 0o600)  # whatever the umask takes away
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(fd)  # pseudonyms are made with it at once: a power cut must not take it back
    except OSError as error:
        path.unlink(missing_ok=True)  # half a key would stand in the way of the next try
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OptionsError:
    return OptionsError(f"pseudonym key {path} cannot be written: {error.strerror}; name another folder")


class Deidentifier:
    """One adapter's gate. Without a key pseudonyms last as long as this object: changes can still be told."""

    def __init__(self, key: bytes | None, counters: Counter[str]) -> None:
        self._key = key if key is not None else secrets.token_bytes(KEY_BYTES)
        self._counters = counters
        self._held = 0
        self._made: dict[str, None] = {}
        counters.setdefault("identifiers_seen", 0)
        counters.setdefault("deidentified", 0)

    def saw(self, fields: int) -> None:
        """Count identifying fields of the message at hand."""
        self._held += fields
        self._counters["identifiers_seen"] += fields

    def forget(self) -> None:
        """The message is gone: nothing of its identifying fields is held here any more."""
        self._counters["deidentified"] += self._held
        self._held = 0

    def pseudonym(self, identifier: str, *, issuer: str = "") -> str:
        """A person's pseudonym: the same for the same key, id and issuer, whatever the spelling in Unicode.

        HMAC-SHA-256 cut to 80 bits, e.g. `p-mzxw6ytboi3dknrt`. Whoever has the key can find the person of
        a pseudonym by trying ids, nobody else can.
        """
        words = (unicodedata.normalize("NFC", word).strip() for word in (issuer, identifier))
        text = b"\x00".join([_DOMAIN, *(word.encode("utf-8", "surrogateescape") for word in words)])
        digest = hmac.new(self._key, text, hashlib.sha256).digest()[:_KEPT_BYTES]
        made = "p-" + base64.b32encode(digest).decode().lower()
        self._made[made] = None
        if len(self._made) > _REMEMBERED:
            del self._made[next(iter(self._made))]
        return made

    def release(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The values that may leave: numbers, and of all texts only pseudonyms that were made here."""
        kept = dict(values)
        for name, value in values.items():
            if isinstance(value, str) and value not in self._made:
                self._counters["stopped_at_gate"] += 1
                kept[name] = None
        return kept
