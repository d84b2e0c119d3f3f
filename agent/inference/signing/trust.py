"""The public keys whose signatures of model packages count on this node."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from wire.printable import printable
from wire.topics import Address

log = logging.getLogger("edgebed.model")

TRUSTED, REVOKED = ".pem", ".revoked"
_MOST_KEYS, _MOST_BYTES = 64, 8_192  # of all folders, of one file
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----\s*([A-Za-z0-9+/=\s]+?)\s*-----END \1-----")
# The registry of OpenSSF Model Signing: the bytes before a point, and the bytes of the point
_CURVES = {
    "P-256": (bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), 64),
    "P-384": (bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"), 96),
    "P-521": (bytes.fromhex("30819b301006072a8648ce3d020106052b810400230381860004"), 132),
}


class TrustSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `trust:` section of an agent's configuration."""

    keys: Annotated[
        tuple[Path, ...],
        Meta(
            max_length=20,
            description="Public keys whose signatures of model packages count: files (`edgebed:edgebed.pem`"
            " is the key of edgebed itself) and folders.",
        ),
    ] = ()
    require_signature: Annotated[
        bool, Meta(description="Refuse every model package that none of the keys signed.")
    ] = False


class Trust(Struct, kw_only=True, frozen=True):
    """Names of keys by the text that `public_key` gives; by default none counts and none is needed."""

    trusted: dict[str, str] = {}
    revoked: dict[str, str] = {}
    required: bool = False
    broken: str = ""  # why it is not known which keys are revoked: then no signature counts


class Read(Struct, kw_only=True, frozen=True):
    """The keys of a node, and what is wrong with files that were left out."""

    trust: Trust
    mistakes: tuple[str, ...] = ()


class KeyMistake(ValueError):
    """A text is not a public key that can sign model packages."""


def public_key(text: str) -> str:
    """The PEM text of a public key as `openssl ec -pubout` writes it; its sha256 is the key's fingerprint.

    Raises:
        KeyMistake: it is another text, or a key of another kind.
    """
    found = _PEM.search(text)
    if found is None:
        raise KeyMistake("is not a PEM text of a public key")
    if "PRIVATE" in found[1]:
        raise KeyMistake("is a private key: put only the public key here, and keep the private key secret")
    try:
        der = base64.b64decode("".join(found[2].split()), validate=True)
    except binascii.Error as error:
        raise KeyMistake("is damaged: it is not base64") from error
    if found[1] != "PUBLIC KEY" or not any(
        der.startswith(start) and len(der) == len(start) + point for start, point in _CURVES.values()
    ):
        kind = "an Ed25519 key" if b"\x06\x03\x2b\x65\x70" in der[:16] else "another kind of key"
        raise KeyMistake(
            f"is {kind}: OpenSSF Model Signing takes uncompressed public keys of {', '.join(_CURVES)}"
        )
    body = base64.b64encode(der).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


def fingerprint(key: str) -> str:
    """The hexadecimal sha256 of what `public_key` gives, which OpenSSF Model Signing uses as `hint`."""
    return hashlib.sha256(key.encode()).hexdigest()


def read(settings: TrustSettings, address: Address) -> Read:
    """Read the key files of a node; blocks for the disk.

    A folder has keys for each node, and in its folders TENANT, TENANT/PILOT ... keys for the nodes below.
    `*.pem` are trusted, `*.revoked` and `*.revoked.pem` are not, even where the same key is trusted too.
    """
    trusted: dict[str, str] = {}
    revoked: dict[str, str] = {}
    mistakes: list[str] = []
    broken = ""
    try:
        for path in _files(settings, address):
            try:
                key = public_key(_text(path))
            except (ValueError, OSError) as error:  # ValueError: a KeyMistake, or a path that cannot be
                shown = printable(path, 300)
                why = f"{shown} {_unreadable(error) if isinstance(error, OSError) else error}"
                mistakes.append(why)
                if _kind(path) == REVOKED:
                    broken = broken or why
                continue
            keys = revoked if _kind(path) == REVOKED else trusted
            keys.setdefault(key, printable(path.stem, 64))
    except KeyMistake as error:
        mistakes.append(str(error))
        broken = str(error)
    required = settings.require_signature
    if required and not trusted:
        mistakes.append("require_signature is set, and no key is trusted: every model is refused")
    trust = Trust(trusted=trusted, revoked=revoked, required=required, broken=broken)
    return Read(trust=trust, mistakes=tuple(mistakes))


class TrustedKeys:
    """The keys of a node as they are now; blocks for the disk. What cannot be read is logged."""

    def __init__(self, settings: TrustSettings, address: Address) -> None:
        self._settings, self._address = settings, address
        self._read = read(settings, address)
        self._log()

    @property
    def trust(self) -> Trust:
        """The keys that count."""
        return self._read.trust

    def changed(self) -> Trust | None:
        """The keys, if others count than at the call before.

        A folder that cannot be read now, as while it is being copied, changes nothing.
        """
        before, now = self._read, read(self._settings, self._address)
        if now == before:
            return None
        if now.trust.broken:
            now = Read(trust=before.trust, mistakes=now.mistakes)
        self._read = now
        if now.mistakes != before.mistakes:
            self._log()
        return None if now.trust == before.trust else now.trust

    def _log(self) -> None:
        for why in self._read.mistakes:
            log.error("trust: %s", why)


def _files(settings: TrustSettings, address: Address) -> Iterator[Path]:
    count = 0
    levels = address.parts
    for path in settings.keys:
        try:
            is_folder = path.is_dir()
        except OSError as error:
            raise KeyMistake(f"{printable(path, 300)} {_unreadable(error)}") from error
        if not is_folder:
            found = [path]
        else:
            below = [path.joinpath(*levels[:depth]) for depth in range(len(levels) + 1)]
            found = [file for folder in below for file in _keys_in(folder, needed=folder == path)]
        count += len(found)
        if count > _MOST_KEYS:
            raise KeyMistake(f"{path} has more than {_MOST_KEYS} keys")
        yield from found


def _keys_in(folder: Path, *, needed: bool) -> list[Path]:
    try:
        return sorted(islice(filter(_kind, folder.iterdir()), _MOST_KEYS + 1))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not needed:
            return []
        raise KeyMistake(f"{printable(folder, 300)} {_unreadable(error)}") from error
    except OSError as error:
        raise KeyMistake(f"{printable(folder, 300)} {_unreadable(error)}") from error


def _kind(path: Path) -> str:
    """TRUSTED or REVOKED by the ends of a name, in capitals too; with both it is revoked."""
    ends = [each.lower() for each in path.suffixes]
    if not ends or ends[-1] not in (TRUSTED, REVOKED):
        return ""
    return REVOKED if REVOKED in ends else TRUSTED


def _text(path: Path) -> str:
    if not _kind(path):
        raise KeyMistake(f"must end in {TRUSTED} (trusted) or {REVOKED}")
    if not path.is_file() and path.exists():
        raise KeyMistake("is not a regular file")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        body = file.read(_MOST_BYTES + 1) or b""  # None of a FIFO that has taken its place
    if len(body) > _MOST_BYTES:
        raise KeyMistake(f"has more than {_MOST_BYTES} bytes")
    return body.decode("ascii", "replace")


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
