"""The store of model packages in the state folder: one folder for each digest, and one file for each slot.

state/models/<sha256>/         one whole package; the name is the root digest over its files
state/models/incoming/<sha256> what arrived so far of a package that is being downloaded
state/models/slots/<slot>.json which package runs in a slot, which ran before, and the state of an offer
state/models/hold              the update lock: while the file is there, no other version begins to run
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.inference import manifest, package_files
from agent.inference.decoders import ModelError
from agent.inference.package import load_package
from agent.inference.signing import signature
from agent.slots.settings import MAX_MB
from agent.slots.slot_state import Slot
from agent.state_dir import keep
from wire.errors import EdgebedError, unwritable
from wire.folder_sync import sync_folder, sync_folders
from wire.messages import is_id
from wire.printable import printable

log = logging.getLogger("edgebed.model")

FOLDER = "models"  # of the state folder
HOLD = "hold"
_SLOTS, _INCOMING, _LOCK, _NEW = "slots", "incoming", "lock", ".new-"
_DIGEST = re.compile("[0-9a-f]{64}")
_MAX_SLOT = 65_536  # bytes of the file of a slot
_CHUNK = 1 << 20
_MOST_BYTES = 4_000_000_000  # of one file


@dataclass(frozen=True, slots=True)
class Stored:
    """A package of the store; `name` and `ver` are empty if its manifest cannot be read."""

    digest: str
    size: int
    name: str
    ver: str
    slots: tuple[str, ...]  # that need it


class ModelStore:
    """Keeps model packages by digest, and the state of each slot; every method blocks for the disk.

    Several processes may use one store: a package or a slot changes in one step, under a lock of the kernel.
    """

    def __init__(self, state: Path, max_mb: float = MAX_MB) -> None:
        self.folder = state / FOLDER
        self._max_bytes = int(max_mb * 1e6)

    # -- packages ------------------------------------------------------------------------------------------

    def path(self, digest: str) -> Path:
        """The folder of a package, whether it is there or not."""
        return self.folder / _checked(digest)

    def has(self, digest: str) -> bool:
        """Whether the package is there; `damage` finds out whether its files are whole."""
        return self.path(digest).is_dir()

    def damage(self, digest: str) -> str:
        """Why a package of the store must not be used: it is missing, or its files have changed; else ""."""
        folder = self.path(digest)
        if not folder.is_dir():
            return f"{digest[:12]} is not in the store"
        try:
            found = signature.package_digest(folder)
        except ModelError as error:
            return f"{digest[:12]} in the store is damaged: {error}"
        return "" if found == digest else f"{digest[:12]} in the store is damaged: its files have changed"

    def add(self, source: Path) -> str:
        """Copy a package into the store and return its digest; a package that is there and whole is kept.

        The signature and what git or Python left in the folder do not count for the digest; the former is
        copied, and taken over where it differs.

        Raises:
            ModelError: it is not a package, or there is no room.
            EdgebedError: the store cannot be written.
        """
        load_package(source)
        with self._writing(), self._staging() as staging:
            names = [*signature.digests(source)]
            if os.path.lexists(source / signature.FILE):
                names.append(signature.FILE)
            for name in names:
                _copy(source, name, staging)
            _sync(staging)
            return self._place(staging)

    def incoming(self, digest: str) -> Path:
        """The folder into which a download puts the files of a package; it stays until `take`.

        What is there after a restart is from the download before.

        Raises:
            EdgebedError: the store cannot be written.
        """
        folder = self.folder / _INCOMING / _checked(digest)
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def take(self, digest: str) -> None:
        """Move what arrived in `incoming(digest)` into the store. If it is something else, it is removed.

        Raises:
            ModelError: it is not the package with this digest, or there is no room.
            EdgebedError: the store cannot be written.
        """
        folder = self.incoming(digest)
        with self._writing():
            try:
                found = signature.package_digest(folder)
                if found != digest:
                    raise ModelError(f"what arrived has the digest {found[:12]}, not {digest[:12]}").coded(
                        "slot-download-wrong"
                    )
                load_package(folder)
            except ModelError:
                _remove(folder)
                raise
            _sync(folder)
            self._place(folder)

    def forget_incoming(self, digest: str) -> None:
        """Remove what arrived of a package that is not wanted any more."""
        _remove(self.folder / _INCOMING / _checked(digest))

    def rm(self, digest: str) -> None:
        """Remove a package that no slot needs.

        Raises:
            ModelError: it is not there, or a slot needs it.
            EdgebedError: the store cannot be written.
        """
        with self._writing(), self._locked():
            folder = self.path(digest)
            if not folder.is_dir():
                raise ModelError(f"{digest[:12]} is not in {self.folder}")
            if users := self._users(earlier=True).get(digest):
                raise ModelError(f"{digest[:12]} is needed by slot {', '.join(users)}: it stays")
            self._discard(folder)

    def named(self, begin: str) -> str:
        """The digest of the one package whose digest begins so.

        Raises:
            ModelError: there is none, or there are several.
        """
        wanted = begin.removeprefix("sha256:")
        found = [folder.name for folder in self._by_age() if wanted and folder.name.startswith(wanted)]
        if len(found) != 1:
            many = "several packages begin" if found else "no package begins"
            raise ModelError(f"{many} with {printable(wanted, 80)!r} in {self.folder}")
        return found[0]

    def ls(self) -> list[Stored]:
        """Every package, the newest first."""
        users = self._users(earlier=True)
        return [
            Stored(folder.name, _size(folder), *_named(folder), tuple(users.get(folder.name, ())))
            for folder in reversed(self._by_age())
        ]

    def sweep(self) -> None:
        """Remove what a process that was ended left behind, and downloads that no slot waits for.

        Raises:
            OSError: the disk fails.
        """
        if not self.folder.is_dir():
            return
        with self._locked():
            for left in self.folder.glob(f"{_NEW}*"):
                if not _is_claimed(left):
                    _remove(left)
            needed = self._users()
            for left in (self.folder / _INCOMING).glob("*"):
                if left.name not in needed:
                    _remove(left)

    # -- slots ---------------------------------------------------------------------------------------------

    def slot(self, name: str) -> Slot:
        """What is kept of a slot; a new one if there is nothing, or if it is damaged."""
        path = self._slot_file(name)
        if not os.path.lexists(path):
            return Slot()
        try:
            return msgspec.json.decode(package_files.read_file(path, _MAX_SLOT), type=Slot)
        except (ModelError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            log.error(
                "%s cannot be read (%s): the package of the config is used", path, printable(error, 300)
            )
            return Slot()

    def keep_slot(self, name: str, slot: Slot) -> None:
        """Replace what is kept of a slot in one step, durably.

        Raises:
            OSError: the disk takes nothing; the old content stays.
        """
        path = self._slot_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            keep(path, msgspec.json.format(msgspec.json.encode(slot), indent=1))

    def slot_names(self) -> list[str]:
        """The slots that have a file."""
        return sorted(path.stem for path in (self.folder / _SLOTS).glob("*.json") if is_id(path.stem))

    # -- inside --------------------------------------------------------------------------------------------

    def _slot_file(self, name: str) -> Path:
        return self.folder / _SLOTS / f"{name}.json"

    def _users(self, *, earlier: bool = False) -> dict[str, list[str]]:
        """Digest to the slots that need it, or can be taken back to it as an `earlier` version."""
        found: dict[str, list[str]] = {}
        for name in self.slot_names():
            slot = self.slot(name)
            for digest in slot.digests | frozenset(slot.earlier if earlier else ()) - {""}:
                found.setdefault(digest, []).append(name)
        return found

    def _place(self, staging: Path) -> str:
        """Make a whole folder, whose content is on disk, a package of the store."""
        digest = signature.package_digest(staging)
        target = self.path(digest)
        with self._locked():
            if target.is_dir() and not self.damage(digest) and _same_signature(staging, target):
                _remove(staging)
                return digest
            self._make_room(_size(staging), digest)
            if target.is_dir():
                self._discard(target)
            staging.rename(target)
            sync_folder(self.folder)
        return digest

    def _make_room(self, size: int, digest: str) -> None:
        """Remove packages until `size` bytes fit under the limit: the oldest, and earlier versions last."""
        users, earlier = self._users(), self._users(earlier=True)
        packages = [folder for folder in self._by_age() if folder.name != digest]
        packages.sort(key=lambda folder: folder.name in earlier)
        used = {folder: _size(folder) for folder in packages}
        for folder in packages:
            if sum(used.values()) + size <= self._max_bytes:
                return
            if folder.name not in users:
                log.info("model package %s is removed from the store: it is full", folder.name[:12])
                self._discard(folder)
                del used[folder]
        if sum(used.values()) + size > self._max_bytes:
            full = f"{size / 1e6:.1f} MB do not fit: `versions.max_mb` is {self._max_bytes / 1e6:g}"
            raise ModelError(f"the store is full: {full}").coded("slot-store-full")

    def _discard(self, folder: Path) -> None:
        """Remove a package; a crash in between leaves no half package under its digest."""
        gone = self.folder / f"{_NEW}{secrets.token_hex(8)}"
        folder.rename(gone)
        sync_folder(self.folder)
        _remove(gone)

    def _by_age(self) -> list[Path]:
        found = [path for path in self.folder.glob("*") if _DIGEST.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn errors of the disk into sentences."""
        try:
            yield
        except OSError as error:
            raise unwritten(self.folder, error) from error

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A new folder that `sweep` of another process leaves alone; removed at the end if it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        staging = self.folder / f"{_NEW}{secrets.token_hex(8)}"
        with self._locked():  # `sweep` must not come between the two
            staging.mkdir()
            claim = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(claim, fcntl.LOCK_EX)
        try:
            yield staging
        finally:
            os.close(claim)
            _remove(staging)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Own the names in the store; another process waits."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def unwritten(folder: Path, error: OSError) -> EdgebedError:
    """The error for a store that cannot be written."""
    code = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk-failed"
    return unwritable(f"model store {folder}", error).coded(code)


def digest_of(text: str) -> str:
    """The digest in `sha256:<64 hexadecimal digits>`.

    Raises:
        ModelError: it is another text.
    """
    return _checked(text.removeprefix("sha256:"))


def _checked(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ModelError(f"{printable(digest, 80)!r} is not a digest (64 digits of 0-9 and a-f)")
    return digest


def _named(folder: Path) -> tuple[str, str]:
    try:
        found = manifest.load(folder)
    except ModelError:
        return "", ""
    return found.name, found.version


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _same_signature(one: Path, other: Path) -> bool:
    files = [folder / signature.FILE for folder in (one, other)]
    found = [hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"" for path in files]
    return found[0] == found[1]


def _copy(source: Path, name: str, target: Path) -> None:
    """Copy one file of a package; its folder in `target` is made."""
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with package_files.opened(source, name, _MOST_BYTES) as file, path.open("xb") as copy:
        while chunk := os.read(file, _CHUNK):
            copy.write(chunk)


def _sync(folder: Path) -> None:
    """Have every file of a folder on disk."""
    for name in package_files.every(folder):
        with package_files.opened(folder, name, _MOST_BYTES) as file:
            os.fsync(file)
    sync_folders(folder)


def _is_claimed(folder: Path) -> bool:
    """Whether a process is filling the folder."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
