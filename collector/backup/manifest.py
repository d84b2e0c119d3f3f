"""`backup.json`: which files a backup has. It is written last, so a folder without it is not a backup."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from collector.ingest import in_hand
from collector.ledger import accepted_keys
from collector.state.state_file import STATE
from collector.store import checkpoint, removed
from collector.store.day_schema import StoreError
from collector.store.snapshot import BLOCK, Step
from wire.errors import EdgebedError

MANIFEST = "backup.json"
FORMAT = 1
MAX_BYTES = 16 * 1024 * 1024  # of the manifest
MARKS = checkpoint.COPY
PLAIN = (accepted_keys.FILE, in_hand.STATE, removed.FILE)  # `removed` is the last to be copied
SET_ASIDE = in_hand.FOLDER  # the bytes of messages that ended the collector
_DAY = r"\d{6}-\d{4}-\d{2}-\d{2}\.db"
_NAMES = re.compile(
    rf"{_DAY}|{_DAY}\.damaged(-wal|-journal)?|{SET_ASIDE}/[0-9a-f]{{32}}|"
    + "|".join(map(re.escape, (MARKS, STATE, *PLAIN)))
)
_DAY_FILE = re.compile(_DAY)


class BackedUpFile(Struct, frozen=True, omit_defaults=True):
    """One file of a backup; for a day file that ended, with size and time of change in the store."""

    name: str
    bytes: int
    sha256: str
    schema: int = 0
    damage: str = ""  # what was wrong with the file in the store already
    source_bytes: int = 0
    source_ns: int = 0


class Manifest(Struct, frozen=True):
    """A whole backup; `at_ms` is when its newest day file was as it is here."""

    format: int
    edgebed: str
    store: str
    at_ms: int
    files: list[BackedUpFile]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(one.bytes for one in self.files)

    def days(self) -> list[BackedUpFile]:
        """The day files, in the order in which they were written."""
        return sorted((one for one in self.files if is_day(one.name)), key=lambda one: one.name)


class _Head(Struct):
    """What a manifest of any version has."""

    format: int
    edgebed: str


def is_name(name: str) -> bool:
    """Whether a backup may have a file of this name."""
    return _NAMES.fullmatch(name) is not None


def is_day(name: str) -> bool:
    """Whether a file of this name is a day file."""
    return _DAY_FILE.fullmatch(name) is not None


def require_readable(paths: Iterable[Path]) -> None:
    """Raise when this user may not read a file; SQLite only states that it cannot open it.

    Raises:
        EdgebedError: it names the file.
    """
    for path in paths:
        if path.exists() and not os.access(path, os.R_OK):
            raise EdgebedError(f"{path} cannot be read: permission denied; run this as the collector's user")


def names_in(folder: Path) -> set[str]:
    """The names of all files below a folder."""
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }


def read(folder: Path) -> Manifest:
    """The manifest of a backup.

    Raises:
        StoreError: a newer version of edgebed made it.
        EdgebedError: the folder is not a whole backup.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
        head = msgspec.json.decode(body, type=_Head)
        if head.format > FORMAT:
            raise StoreError(
                f"{folder} was written by a newer version of edgebed ({head.edgebed}): upgrade edgebed"
            )
        found = msgspec.json.decode(body, type=Manifest)
    except FileNotFoundError as error:
        raise EdgebedError(f"{folder} is not a finished backup: it has no {MANIFEST}") from error
    except OSError as error:
        raise EdgebedError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EdgebedError(f"{path} is damaged ({error}): use another backup") from error
    names = [one.name for one in found.files]
    wrong = [name for name in names if not is_name(name)]
    if wrong or len(set(names)) != len(names):
        raise EdgebedError(
            f"{path} names files that no store has: {', '.join(map(repr, wrong[:3])) or 'twice'}"
        )
    return found


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest to disk, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    work = folder / f"{MANIFEST}.new"
    with work.open("xb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    work.replace(folder / MANIFEST)


def sha256_of(path: Path, step: Step) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
            step(len(block))
    return found.hexdigest()
