"""What must survive the loss of a day file: marks and node states; with a copy on disk."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import msgspec

from collector.store.day_schema import identity
from collector.store.group import Group, Saved
from collector.store.marks import Account, Book, encoded, read_account
from wire.clock import Clock

COPY = "marks.db"
COPY_EVERY_S = 2.0
KEPT = ("custody/", "key/")  # states that a node does not send again


class Checkpoint:
    """The newest marks and states, in RAM and, at most seconds later, in a file of their own.

    Marks and rows share the day file. Without the copy, a damaged day file would destroy the marks of all
    days, and every message that nodes send again would count as new. The copy may lag by seconds, which is
    safe: a message without a mark is stored again, beside the damaged file.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / COPY
        self._clock = clock
        self._marks: dict[tuple[str, str], Account] = {}
        self._states: dict[str, bytes] = {}
        self._quarantined = 0
        self._dirty: dict[tuple[str, str], Account] | None = None  # None: the copy needs all
        self._dirty_states: dict[str, bytes] = {}  # of custody; nodes send the other states again
        self._copied_at = clock.monotonic()
        self._identity: tuple[int, int] | None = None  # of the copy that was written last
        self.problem = ""

    def restore(self, saved: Saved) -> None:
        """Add the saved state of a file: marks are united, of all else the newest is added last."""
        for mark in saved.marks:
            key = (mark.node, mark.ep)
            known = self._marks.get(key)
            self._marks[key] = mark if known is None else _union(known, mark)
        self._states.update(saved.states)
        self._quarantined = max(self._quarantined, saved.quarantined)

    def note(self, group: Group) -> None:
        """Take over the changes of a committed group."""
        for mark in group.marks:
            self._marks[(mark.node, mark.ep)] = mark
        if self._dirty is not None:
            self._dirty.update({(mark.node, mark.ep): mark for mark in group.marks})
        self._dirty_states.update(group.custody)
        for key, body in {**group.states, **group.custody}.items():
            if body:
                self._states[key] = body
            else:
                self._states.pop(key, None)
        self._quarantined += len(group.quarantine)

    def saved(self) -> Saved:
        """All of it, for the first transaction of a new file."""
        return Saved(list(self._marks.values()), dict(self._states), self._quarantined)

    def copy(self, *, now: bool = False) -> None:
        """Update the copy, at most every two seconds unless `now`; never raises."""
        if not now and self._clock.monotonic() - self._copied_at < COPY_EVERY_S:
            return
        if not self._is_in_place():
            self._dirty = None  # removed or replaced: write all of it
        if self._dirty is not None and not self._dirty:
            return
        self._copied_at = self._clock.monotonic()
        try:
            self._write()
        except (sqlite3.Error, OSError) as error:
            # not raised: the group is committed, so its commit must not fail here
            self.problem = f"{COPY}: {error}"
            self._dirty = None
            if not isinstance(error, sqlite3.OperationalError):
                self._remove()
        else:
            self.problem = ""
            self._dirty, self._dirty_states = {}, {}
            self._identity = identity(self._path)

    def _is_in_place(self) -> bool:
        try:
            return identity(self._path) == self._identity
        except OSError:
            return False

    def _remove(self) -> None:
        for name in (COPY, f"{COPY}-wal", f"{COPY}-shm"):
            with suppress(OSError):
                self._path.with_name(name).unlink()

    def _write(self) -> None:
        db = sqlite3.connect(self._path, timeout=0.1, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # a copy may lag but must not tear
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "CREATE TABLE IF NOT EXISTS mark"
                "(node TEXT, ep TEXT, body BLOB NOT NULL, PRIMARY KEY(node, ep)) WITHOUT ROWID"
            )
            marks = self._marks if self._dirty is None else self._dirty
            db.executemany(
                "INSERT OR REPLACE INTO mark VALUES (?,?,?)",
                [(node, ep, encoded(mark)) for (node, ep), mark in marks.items()],
            )
            db.execute(
                "CREATE TABLE IF NOT EXISTS state(key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID"
            )
            kept = {key: body for key, body in self._states.items() if key.startswith(KEPT)}
            states = kept if self._dirty is None else self._dirty_states
            db.executemany("INSERT OR REPLACE INTO state VALUES (?,?)", states.items())
            db.execute("COMMIT")
        finally:
            db.close()


def read_copy(folder: Path) -> Saved:
    """Marks and statements in the copy; empty when it is absent or damaged."""
    path = folder / COPY
    if not path.exists():
        return Saved()
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)
        try:
            marks = [read_account(body) for (body,) in db.execute("SELECT body FROM mark")]
            states: dict[str, bytes] = {}
            with suppress(sqlite3.OperationalError):  # a copy of a version without statements
                states = dict(db.execute("SELECT key, body FROM state"))
            return Saved(marks, states)
        finally:
            db.close()
    except (sqlite3.Error, msgspec.MsgspecError, TypeError, ValueError):
        return Saved()  # the next write makes it again from the day files


def _union(left: Account, right: Account) -> Account:
    newer, older = (left, right) if left.last >= right.last else (right, left)
    newer.stored.update(older.stored)
    newer.lost = newer.lost or older.lost
    newer.claim = newer.claim or older.claim
    newer.holes = newer.holes or older.holes
    newer.heads = newer.heads or older.heads
    newer.book = older.book if newer.book == Book() else newer.book.united(older.book)
    return newer
