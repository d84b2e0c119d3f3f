"""Checks a backup, or a store beside its collector: files, pages, chunks, and the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from collector.backup import manifest as manifests
from collector.backup.manifest import MANIFEST, MARKS, Manifest, names_in, sha256_of
from collector.backup.pace import Pace
from collector.backup.work_folder import UNFINISHED
from collector.ledger.comparison import compared
from collector.ledger.ledger import Ledger
from collector.state.migrations import STEPS
from collector.state.state_file import STATE
from collector.store.day_schema import StoreError, identity
from collector.store.folder import aside, begins_later, day_files
from collector.store.group import Saved
from collector.store.pruned import of_files
from collector.store.removed import Pruned, Removed
from collector.store.snapshot import schema_of
from collector.store.soundness import SHOWN, Content, check_day, check_pages
from collector.store.source import Source
from collector.store.sqlite_source import SqliteSource
from collector.store.store import DayName, peek
from wire.errors import EdgebedError
from wire.printable import counted


@dataclass(slots=True)
class Verified:
    """What a check found; `problems` is empty when all is sound."""

    manifest: Manifest | None = None  # of a backup
    days: int = 0
    bytes: int = 0
    content: Content = field(default_factory=Content)
    is_intact: bool = True  # the files are those that were backed up
    missing: int = 0  # messages that are marked as stored and in no file
    problems: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """What was read."""
        held = self.content
        return (
            f"{counted(self.days, 'day file')}, {self.bytes / 1e6:.1f} MB, "
            f"{counted(held.messages, 'message')}, {counted(held.rows, 'row')}, "
            f"{counted(held.events, 'event')}"
        )


def verify(folder: Path, pace: Pace) -> Verified:
    """Read all of a backup or of a store, and change nothing.

    Raises:
        EdgebedError: it is neither, or a newer version of edgebed wrote it.
        TryAgain: a file is locked.
        Stopped: `pace` was stopped.
    """
    found = Verified()
    if (folder / UNFINISHED).exists():
        raise EdgebedError(f"{folder} is not a finished backup: the command that made it was ended")
    if (folder / MANIFEST).exists() or not (day_files(folder) or aside(folder)):
        found.manifest = manifests.read(folder)
        found.problems += changed_files(folder, found.manifest, pace)
        if found.problems:
            found.is_intact = False
            return found  # the files are not those of the backup: what they hold says nothing
    manifests.require_readable(day_files(folder))
    saved = _saved(folder, found)  # before the files: what is marked now was written before
    for path in day_files(folder):
        size = path.stat().st_size
        pace.begin(f"check {path.name}", size)
        check_day(path, found.content, pace.step)
        found.days += 1
        found.bytes += size
    found.problems += found.content.problems
    found.problems += [f"{path.name}: this day file was damaged and set aside" for path in aside(folder)]
    for name in (MARKS, STATE):
        if (folder / name).exists():
            pace.begin(f"check {name}")
            found.problems += check_pages(folder / name, pace.step)
    _require_known(folder)
    if found.content.twice:
        found.problems.append(f"{counted(found.content.twice, 'message')} are stored twice")
    if saved is not None:
        _compare(folder, saved, found)
    return found


def changed_files(folder: Path, manifest: Manifest, pace: Pace) -> list[str]:
    """How the files of a backup differ from its manifest."""
    found = []
    names = {one.name for one in manifest.files}
    more = sorted(names_in(folder) - names - {MANIFEST})
    if more:
        found.append(f"it has files that it should not have: {', '.join(more[:SHOWN])}")
    for one in manifest.files:
        path = folder / one.name
        pace.begin(f"hash {one.name}", one.bytes)
        if path.is_symlink() or not path.is_file():
            found.append(f"{one.name} is missing" if not path.is_symlink() else f"{one.name} is a link")
        elif path.stat().st_size != one.bytes:
            found.append(f"{one.name} has {path.stat().st_size} bytes instead of {one.bytes}")
        elif sha256_of(path, pace.step) != one.sha256:
            found.append(f"{one.name} is not the file that was backed up: its SHA-256 differs")
    return found


def _saved(folder: Path, found: Verified) -> Saved | None:
    """The marks of a store; None when no file gives them."""
    try:
        return peek(folder)
    except StoreError:
        if day_files(folder):
            raise
        found.problems.append("no day file is readable")
        return None


def _require_known(folder: Path) -> None:
    known, has = len(STEPS), schema_of(folder / STATE)
    if has > known:
        raise StoreError(
            f"{folder / STATE} was written by a newer version of edgebed (schema {has}, this one knows "
            f"{known}): upgrade edgebed"
        )


class _Notes(Removed):
    """What retention removed, for a reader: it adds nothing."""

    def add(
        self, messages: Mapping[str, int], files: Iterable[str] = (), pruned: Iterable[Pruned] = ()
    ) -> None:
        """Change nothing."""


class _AtRest:
    """A store that is read only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.removed: Removed = _Notes(folder)

    def source(self) -> Source:
        return SqliteSource(self.folder)

    def files(self) -> set[DayName]:
        return {(path.name, identity(path)) for path in day_files(self.folder)}

    def pruned(self) -> list[Pruned]:
        return list(of_files(self.folder))

    def has_begun_later(self) -> bool:
        return begins_later(self.folder)


def _compare(folder: Path, saved: Saved, found: Verified) -> None:
    gone = compared(_AtRest(folder), Ledger(saved.marks, saved.states))
    found.missing = sum(one.numbers.count() for one in gone.values())
    if found.missing:
        (node, ep), one = min(gone.items())
        first, last = next(iter(one.numbers))
        found.problems.append(
            f"{counted(found.missing, 'message')} that are marked as stored are in no day file, "
            f"such as {first}-{last} of {node} ep {ep}"
        )
