"""Downloads model packages from the collector: resumes, checks every file, bounds size and rate."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import logging
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Self
from urllib.parse import quote

import msgspec
from msgspec import Struct

from agent.identity import folder_of
from agent.inference.decoders import ModelError
from agent.site_access import opened, read
from agent.slots.model_store import ModelStore, unwritten
from agent.slots.settings import VersionSettings
from wire.broker import Broker
from wire.clock import Clock
from wire.errors import EdgebedError, TryAgain, Unreachable
from wire.model_package import MAX_LISTING, PackedFile, read_listing
from wire.printable import printable
from wire.topics import Address

log = logging.getLogger("edgebed.model")

_CHUNK = 65_536
_TIMEOUT_S = 10.0  # without a byte
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 300.0
_SPARE_BYTES = 1_000_000  # of the disk, which a download leaves to the outbox and to the state of the slots
_MOST_ANSWER = 2 * MAX_LISTING


class _Answer(Struct):
    listing: msgspec.Raw


class Download:
    """Fetches packages for `agent.slots`. `identity` is the folder of the enrolment; None without one.

    A connection that breaks, and a collector that does not answer, is tried again until the caller cancels,
    at most every 5 minutes. What arrived stays over a restart and is not asked for again.
    """

    def __init__(
        self,
        settings: VersionSettings,
        node: Address,
        identity: Path | None,
        store: ModelStore,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._node = node
        self._identity = identity
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # one download at a time: a device has one link

    @classmethod
    def of(
        cls, settings: VersionSettings, node: Address, broker: Broker, store: ModelStore, clock: Clock
    ) -> Self | None:
        """What the config asks for; None without a collector."""
        return cls(settings, node, folder_of(broker), store, clock) if settings.url else None

    async def __call__(self, slot: str, digest: str) -> None:
        """Put a package into the store.

        Raises:
            EdgebedError: it cannot be had: the collector refuses, what it sends is not the package, or there
                is no room for it.
        """
        stopped = threading.Event()
        wait_s = _FIRST_WAIT_S
        try:
            while True:
                had = await asyncio.to_thread(self._arrived, digest)
                try:
                    await asyncio.to_thread(self._fetch, digest, stopped)
                    break
                except Unreachable as error:
                    if await asyncio.to_thread(self._arrived, digest) > had:
                        wait_s = _FIRST_WAIT_S
                    log.warning(
                        "model %s: the download is tried again in %.0f s: %s",
                        slot,
                        wait_s,
                        printable(error, 300),
                    )
                    await self._clock.sleep(wait_s)
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        finally:
            stopped.set()
        await asyncio.to_thread(self._store.take, digest)

    def _arrived(self, digest: str) -> int:
        folder = self._store.incoming(digest)
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def _fetch(self, digest: str, stopped: threading.Event) -> None:
        """Download what is missing of a package; returns early once it is stopped."""
        with self._lock:
            base = f"{self._settings.url.rstrip('/')}/api/v1/models/{self._node.tenant}/{digest}"
            with _asking():
                body = read(base, self._node.text, self._identity, self._clock, _MOST_ANSWER)
            try:
                listing = read_listing(bytes(msgspec.json.decode(body, type=_Answer).listing), digest)
            except (msgspec.MsgspecError, UnicodeDecodeError, EdgebedError) as error:
                raise _wrong(
                    f"the collector answers with another package: {printable(error, 300)}"
                ) from error
            if listing.size > self._settings.max_mb * 1e6:
                text = f"the package has {listing.size / 1e6:.1f} MB: more than `versions.max_mb`"
                raise ModelError(text).coded("slot-store-full")
            folder = self._store.incoming(digest)
            try:
                _remove_others(folder, listing.files.keys())
                self._require_room(listing.size - self._arrived(digest))
                for name in sorted(listing.files):
                    if stopped.is_set():
                        return
                    self._file(f"{base}/files/{quote(name)}", folder / name, listing.files[name], stopped)
            except OSError as error:
                raise EdgebedError(str(full := unwritten(folder, error))).coded(full.reason_code) from error

    def _require_room(self, size: int) -> None:
        """Refuse what would fill the disk: telemetry may need it. Raises EdgebedError, OSError."""
        free = shutil.disk_usage(self._store.folder).free
        if free < size + _SPARE_BYTES:
            text = (
                f"{size / 1e6:.1f} MB are missing of the package, and the disk of {self._store.folder} has"
                f" {free / 1e6:.1f} MB free: free some space, {_SPARE_BYTES / 1e6:g} MB must be left"
            )
            raise EdgebedError(text).coded("disk-full")

    def _file(self, url: str, path: Path, file: PackedFile, stopped: threading.Event) -> None:
        """Download one file, or the rest of it.

        What a power cut left may be wrong: then it is downloaded once more from its beginning.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = path.exists()
        if self._rest(url, path, file, stopped) or stopped.is_set():
            return
        path.unlink()
        if resumed and (self._rest(url, path, file, stopped) or stopped.is_set()):
            return
        path.unlink(missing_ok=True)
        raise _wrong(f"{printable(path.name, 80)} that was downloaded is not the file that was listed")

    def _rest(self, url: str, path: Path, file: PackedFile, stopped: threading.Event) -> bool:
        """Append what is missing of a file; whether the whole has its sha256."""
        found = hashlib.sha256()
        with path.open("a+b") as target:
            target.seek(0)
            while part := target.read(_CHUNK):
                found.update(part)
            at = target.tell()
            if at < file.size:
                self._append(url, target, found, file.size, stopped)
            return target.tell() == file.size and found.hexdigest() == file.sha256

    def _append(
        self, url: str, target: IO[bytes], found: hashlib._Hash, size: int, stopped: threading.Event
    ) -> None:
        at = target.tell()
        headers = {"Range": f"bytes={at}-"} if at else {}
        with (
            _asking(),
            opened(url, self._node.text, self._identity, self._clock, headers, _TIMEOUT_S) as answer,
        ):
            if at and answer.status != http.client.PARTIAL_CONTENT:
                target.truncate(0)
                raise Unreachable(f"{url} does not continue a file that was broken off")
            began_s, left = self._clock.monotonic(), size - at
            while left and not stopped.is_set():
                part = _part(answer, url, min(_CHUNK, left))
                target.write(part)
                found.update(part)
                left -= len(part)
                self._pace(size - at - left, began_s, stopped)

    def _pace(self, done: int, began_s: float, stopped: threading.Event) -> None:
        """Wait until `done` bytes may have arrived."""
        if self._settings.kb_per_s:
            due_s = began_s + done / (self._settings.kb_per_s * 1_000)
            stopped.wait(max(0.0, due_s - self._clock.monotonic()))


@contextmanager
def _asking() -> Iterator[None]:
    """Give a refusal its code; one that passes is tried again."""
    try:
        yield
    except TryAgain as error:
        raise Unreachable(str(error)) from error
    except Unreachable:
        raise
    except EdgebedError as error:
        raise error.coded("slot-download-refused", detail=str(error)) from error


def _part(answer: http.client.HTTPResponse, url: str, most: int) -> bytes:
    """The next bytes of an answer.

    Raises:
        Unreachable: the connection ended.
    """
    try:
        part = answer.read(most)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"the connection to {url} ended: {error}") from error
    if not part:
        raise Unreachable(f"the connection to {url} ended too early")
    return part


def _wrong(text: str) -> ModelError:
    return ModelError(text).coded("slot-download-wrong")


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """Remove what is not a file of the package, or a folder of one."""
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        is_folder = path.is_dir() and not path.is_symlink()
        if path.relative_to(folder).as_posix() in (folders if is_folder else names) and not path.is_symlink():
            continue
        if is_folder:
            path.rmdir()
        else:
            path.unlink()
