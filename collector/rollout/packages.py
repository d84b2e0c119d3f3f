"""Keeps model packages by tenant and digest: what an operator pushes and nodes download.

models/<tenant>/<sha256>/listing.json and files/...: one whole package
models/.new-*: a package that is being pushed, or removed
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from wire import config
from wire.errors import EdgebedError, WireError, unwritable
from wire.folder_sync import sync_folder, sync_folders
from wire.model_package import MAX_LISTING, SIGNATURE, Listing, read_listing
from wire.printable import printable
from wire.topics import ID

log = logging.getLogger(__name__)

FOLDER = "models"  # of the store
_LISTING, _FILES, _NEW, _MANIFEST = "listing.json", "files", ".new-", "manifest.yaml"
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")  # as manifests have it
_MAX_PUSHES = 4  # at the same time


class PackageRefused(EdgebedError):
    """What was pushed is not the package of its digest, or cannot be kept."""


class NoRoom(EdgebedError):
    """The tenant has too many packages, or too many are being pushed."""


class Kept(Struct, frozen=True):
    """A package of a tenant."""

    tenant: str
    digest: str
    name: str
    ver: str
    size: int
    signed: bool  # it has a signature; a node checks by whom
    onnx: str = ""  # sha256 of its ONNX file

    @property
    def ref(self) -> str:
        """Its name for people."""
        return f"{self.name}@{self.ver}"


class Packages:
    """The packages below a store; any thread, every method blocks for the disk.

    `max_bytes` is the most of one tenant. A package appears and goes in one step.
    """

    def __init__(self, store: Path, max_bytes: int) -> None:
        self.folder = store / FOLDER
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pushes: dict[Push, int] = {}  # each with the bytes that it will need
        for left in self.folder.glob(f"{_NEW}*"):  # of a collector that was ended
            shutil.rmtree(left, ignore_errors=True)

    def ls(self, tenant: str = "*") -> list[Kept]:
        """The packages of one tenant or of all, by name."""
        found = [self._kept(path.parent) for path in self.folder.glob(f"{tenant}/*/{_LISTING}")]
        return sorted((one for one in found if one), key=lambda one: (one.tenant, one.name, one.ver))

    def get(self, tenant: str, digest: str) -> Kept | None:
        """One package."""
        return self._kept(self._path(tenant, digest))

    def listing(self, tenant: str, digest: str) -> Listing | None:
        """The files of a package; None where it is not there."""
        try:
            with (self._path(tenant, digest) / _LISTING).open("rb") as file:
                return read_listing(file.read(MAX_LISTING + 1), digest)
        except FileNotFoundError:
            return None
        except (OSError, WireError) as error:
            log.error("model package %s of %s: %s", digest[:12], tenant, printable(error, 300))
            return None

    def file(self, tenant: str, digest: str, name: str) -> Path | None:
        """The path of a file of a package; None where the package does not have it."""
        listing = self.listing(tenant, digest)
        if listing is None or name not in listing.files:
            return None
        return self._path(tenant, digest) / _FILES / name

    def push(self, tenant: str, digest: str, listing: Listing) -> Push:
        """Begin to keep a package; the caller ends it with `finish` or `close`.

        Raises:
            NoRoom: it does not fit.
            EdgebedError: the disk fails.
        """
        with self._lock:
            if len(self._pushes) >= _MAX_PUSHES:
                raise NoRoom(f"{_MAX_PUSHES} packages are being pushed now: try again when one is done")
            used = sum(one.size for one in self.ls(tenant) if one.digest != digest)
            used += sum(size for push, size in self._pushes.items() if push.tenant == tenant)
            if used + listing.size > self._max_bytes:
                raise NoRoom(
                    f"{tenant} has {used / 1e6:,.1f} MB of model packages and may have "
                    f"{self._max_bytes / 1e6:,.0f} (`models_mb`): remove one with `edgebed model unpush`"
                )
            made = Push(self, tenant, digest, listing)
            self._pushes[made] = listing.size
            return made

    def remove(self, tenant: str, digest: str) -> bool:
        """Remove a package; False where it is not there.

        Raises:
            EdgebedError: the disk fails.
        """
        with self._lock:
            try:
                return self._discard(self._path(tenant, digest))
            except OSError as error:
                raise unwritable(str(self.folder), error) from error

    def place(self, push: Push) -> None:
        """Put what was pushed in its place, in one step."""
        target = self._path(push.tenant, push.digest)
        with self._lock:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._discard(target)
            push.folder.rename(target)
            sync_folder(target.parent)

    def forget(self, push: Push) -> None:
        """Free the room that a push was given."""
        with self._lock:
            self._pushes.pop(push, None)

    def new_folder(self) -> Path:
        """The path of a folder to prepare something in."""
        return self.folder / f"{_NEW}{secrets.token_hex(8)}"

    def _discard(self, folder: Path) -> bool:
        gone = self.new_folder()
        try:
            folder.rename(gone)
        except FileNotFoundError:
            return False
        sync_folder(folder.parent)
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _path(self, tenant: str, digest: str) -> Path:
        return self.folder / tenant / digest

    def _kept(self, folder: Path) -> Kept | None:
        tenant, digest = folder.parent.name, folder.name
        listing = self.listing(tenant, digest)
        if listing is None:
            return None
        name, ver, file = _named(folder / _FILES / _MANIFEST)
        onnx = listing.files[file].sha256 if file in listing.files else ""
        return Kept(tenant, digest, name, ver, listing.size, SIGNATURE in listing.files, onnx)


class Push:
    """A package that arrives: the contents of its files in the order of their names, without a gap."""

    def __init__(self, packages: Packages, tenant: str, digest: str, listing: Listing) -> None:
        self.tenant, self.digest = tenant, digest
        self.folder = packages.new_folder()
        self._packages = packages
        self._listing = listing
        self._waiting = sorted(listing.files)
        self._file: IO[bytes] | None = None
        self._name = ""
        self._left = 0
        self._hash = hashlib.sha256()
        try:
            (self.folder / _FILES).mkdir(parents=True)
            self._next()
        except OSError as error:
            self._remove()
            raise unwritable(str(packages.folder), error) from error

    def write(self, part: bytes) -> None:
        """Take a part of the contents.

        Raises:
            PackageRefused: it is not what was listed.
            EdgebedError: the disk fails.
        """
        view = memoryview(part)
        try:
            while view:
                if self._file is None:
                    raise PackageRefused(f"the body goes on after its {len(self._listing.files)} files")
                chunk = view[: self._left]
                self._file.write(chunk)
                self._hash.update(chunk)
                self._left -= len(chunk)
                view = view[len(chunk) :]
                self._next()
        except OSError as error:
            raise unwritable(str(self._packages.folder), error) from error

    def finish(self) -> Kept:
        """Keep the package.

        Raises:
            PackageRefused: the body ended too early, or its manifest has no name.
            EdgebedError: the disk fails.
        """
        if self._file is not None:
            raise PackageRefused(f"the body ended within {printable(self._name, 80)}")
        name, ver, *_ = _named(self.folder / _FILES / _MANIFEST)
        if not (ID.fullmatch(name) and _VERSION.fullmatch(ver)):
            raise PackageRefused(f"{_MANIFEST} of the package has no name and version that an agent takes")
        try:
            with (self.folder / _LISTING).open("xb") as file:
                file.write(msgspec.json.encode(self._listing))
                file.flush()
                os.fsync(file.fileno())
            sync_folders(self.folder)
            self._packages.place(self)
        except OSError as error:
            raise unwritable(str(self._packages.folder), error) from error
        found = self._packages.get(self.tenant, self.digest)
        if found is None:
            raise PackageRefused("the package was removed at the same time")
        return found

    def close(self) -> None:
        """End it, whatever has arrived."""
        self._remove()
        self._packages.forget(self)

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _next(self) -> None:
        """Go on to the next file once the one at hand is whole; an empty file is whole at once."""
        while not self._left:
            if self._file is not None:
                self._end_file(self._file)
            if not self._waiting:
                return
            self._name = self._waiting.pop(0)
            path = self.folder / _FILES / self._name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._hash = path.open("xb"), hashlib.sha256()
            self._left = self._listing.files[self._name].size

    def _end_file(self, file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._file = None
        if self._hash.hexdigest() != self._listing.files[self._name].sha256:
            raise PackageRefused(f"{printable(self._name, 80)} is not the file that was listed")


@functools.lru_cache(maxsize=1_000)
def _named(manifest: Path) -> tuple[str, str, str]:
    """The name, version and ONNX file in a manifest, whose path has the digest; empty where it has none."""
    name, ver, file = (config.value_at(manifest, str, key) or "" for key in ("name", "version", "file"))
    return name, ver, file or "model.onnx"
