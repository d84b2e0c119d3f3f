"""De-identification: identifying values stay in the adapter, and a keyed pseudonym replaces the person's id.

An adapter counts each identifying field with `saw`, turns the person's id into a pseudonym with `pseudonym`,
sends only values that `release` returned, and calls `forget` when it holds nothing of the message any more.
Then `identifiers_seen == deidentified` in the device's counters. `stopped_at_gate` counts values that the
adapter would otherwise have sent by mistake. Counters and errors never contain an identifying value.
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
_KEPT_BYTES = 10  # 80 bits: the chance that two of a million persons share a pseudonym is 4e-13
_REMEMBERED = 10_000
_COMMAND = "edgebed key new {path}"


def read_key(path: Path) -> bytes:
    """Read the secret key of a site's pseudonyms: a file of at least 32 bytes that others cannot read.

    Raises:
        OptionsError: there is no such file, it is too short, or others can read it.
    """
    how = "make one with " + _COMMAND.format(path=path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OptionsError(f"pseudonym key {path} cannot be read: {error.strerror}; {how}") from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise OptionsError(f"pseudonym key {path} is not a regular file; {how}")
        if mode & 0o037:
            raise OptionsError(
                f"pseudonym key {path} has mode {stat.S_IMODE(mode):04o}: other users could read it and undo"
                f" pseudonyms; run chmod 600 {path}"
            )
        key = os.read(fd, _MAX_KEY)
    finally:
        os.close(fd)
    if len(key) < KEY_BYTES:
        raise OptionsError(f"pseudonym key {path} has {len(key)} bytes, not {KEY_BYTES} or more; {how}")
    return key


def create_key(path: Path) -> None:
    """Write a new random key that only this user can read; an existing file is not changed.

    Raises:
        OptionsError: the file exists, or the folder cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise OptionsError(
            f"{path} exists and stays as it is: another key would give each person a new pseudonym"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - the descriptor was never readable by others
            os.fchmod(fd, 0o600)  # the umask may have removed permissions of the owner
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(fd)  # pseudonyms are made with it at once: it must survive a power cut
    except OSError as error:
        path.unlink(missing_ok=True)  # an incomplete key would block the next attempt
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OptionsError:
    return OptionsError(f"pseudonym key {path} cannot be written: {error.strerror}; use another folder")


class Deidentifier:
    """Holds back the identifying values of one adapter.

    Without a key, pseudonyms are valid only during the life of this object; a change of patient still shows.
    """

    def __init__(self, key: bytes | None, counters: Counter[str]) -> None:
        self._key = key if key is not None else secrets.token_bytes(KEY_BYTES)
        self._counters = counters
        self._held = 0
        self._made: dict[str, None] = {}
        counters.setdefault("identifiers_seen", 0)
        counters.setdefault("deidentified", 0)

    def saw(self, fields: int) -> None:
        """Count identifying fields of the current message."""
        self._held += fields
        self._counters["identifiers_seen"] += fields

    def forget(self) -> None:
        """Count the identifying fields as removed: the adapter holds nothing of the message any more."""
        self._counters["deidentified"] += self._held
        self._held = 0

    def pseudonym(self, identifier: str, *, issuer: str = "") -> str:
        """A person's pseudonym: the same for the same key, id and issuer in any Unicode normal form.

        HMAC-SHA-256 cut to 80 bits, e.g. `p-mzxw6ytboi3dknrt`. Only a holder of the key can find the person
        of a pseudonym, by trying ids.
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
        """The values that may be sent: numbers, and of all texts only pseudonyms made by this object."""
        kept = dict(values)
        for name, value in values.items():
            if isinstance(value, str) and value not in self._made:
                self._counters["stopped_at_gate"] += 1
                kept[name] = None
        return kept
