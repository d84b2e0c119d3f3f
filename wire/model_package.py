"""The files of a model package as they go from a collector to a node: a listing first, then the contents."""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from wire.errors import WireError
from wire.printable import printable

SIGNATURE = "model.sig"  # goes with the package, and does not count for its digest
MAX_FILES, MAX_DEPTH = 2_000, 8
MAX_LISTING = 1_000_000  # bytes
_MAX_PART = 255  # bytes of a name in a folder
# what a signature and a digest leave out, so that no package may have it here
_IGNORED = ("__pycache__", ".git", ".gitattributes", ".github", ".gitignore")

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class PackedFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a package."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=4_000_000_000)]


class Listing(Struct, frozen=True, forbid_unknown_fields=True):
    """The files of a package by their names, such as `golden/a.npz`."""

    files: dict[str, PackedFile]

    @property
    def digest(self) -> str:
        """The root digest of OpenSSF Model Signing over the files without the signature."""
        names = sorted(self.files.keys() - {SIGNATURE})
        return hashlib.sha256(bytes.fromhex("".join(self.files[name].sha256 for name in names))).hexdigest()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files.values())


def read_listing(body: bytes, digest: str) -> Listing:
    """The listing of the package with this digest.

    Raises:
        WireError: it cannot be read, has another digest, or a name in it is not inside the package.
    """
    if len(body) > MAX_LISTING:
        raise WireError(f"the listing of a package has more than {MAX_LISTING:,} bytes")
    try:
        found = msgspec.json.decode(body, type=Listing)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"the listing of a package cannot be read: {printable(error, 200)}") from error
    if not found.files or len(found.files) > MAX_FILES:
        raise WireError(f"a package has 1 to {MAX_FILES:,} files, and this one has {len(found.files):,}")
    for name in found.files:
        if why := _mistake(name, found.files):
            raise WireError(f"the file {printable(name, 80)!r} of a package {why}")
    if found.digest != digest:
        raise WireError(f"the files that are listed have the digest {found.digest[:12]}, not {digest[:12]}")
    return found


def _mistake(name: str, names: dict[str, PackedFile]) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or not name.isprintable() or "\\" in name:
        return "is not a path inside the package"
    if len(parts) > MAX_DEPTH or any(len(part.encode()) > _MAX_PART for part in parts):
        return f"has more than {MAX_DEPTH} folders, or a name of more than {_MAX_PART} bytes"
    if parts[0] in _IGNORED:
        return "is not covered by a digest: leave it out"
    if any("/".join(parts[:depth]) in names for depth in range(1, len(parts))):
        return "is in a folder that is a file too"
    return ""
