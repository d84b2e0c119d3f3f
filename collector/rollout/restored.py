"""Finds a `state.db` that is older than what the rollouts have done since: it came from a backup.

The fact `rollouts` of `state.db` counts what was kept of rollouts, and a file beside it has the same number.
A restore writes a word to this file instead, since a backup of an earlier release has no such fact.
A `state.db` that was put back alone has a smaller number than the file, or there is no file.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from collector.state.state_file import Db

log = logging.getLogger(__name__)

FILE = "rollouts.count"
_MAX_BYTES = 32
_KEY = "rollouts"
_RESTORED = "restored"


def mark_restored(folder: Path) -> None:
    """Note in a restored store that its `state.db` is an older copy, until its rollouts are held.

    Raises:
        OSError: it cannot be written.
    """
    _write(folder / FILE, _RESTORED)


class KeptCount:
    """The number of the newest change of a rollout, in `state.db` and beside it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def is_behind(self, db: Db) -> bool:
        """Whether rollouts have gone on after this `state.db` was copied."""
        kept, noted = _count(db), self._noted()
        if noted is None:
            return True
        return kept < noted or (noted == 0 and kept > 1)  # a kill can leave the first one without its file

    def next(self, db: Db) -> int:
        """Count one more, in a transaction; returns the number for `note`."""
        number = max(_count(db), self._noted() or 0) + 1
        db.execute("INSERT OR REPLACE INTO fact(key, value) VALUES (?, ?)", (_KEY, str(number)))
        return number

    def note(self, number: int) -> None:
        """Have the number beside `state.db`, after the transaction that counted it."""
        try:
            _write(self._path, str(number))
        except OSError as error:  # then an older state.db may not be found, or be held once more
            log.warning("%s cannot be written: %s", self._path, error.strerror or error)

    def _noted(self) -> int | None:
        """The number beside `state.db`, 0 without one; None after a restore."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            text = file.read(_MAX_BYTES).strip()
            if text == _RESTORED.encode():
                return None
            return int(text) if text.isdigit() else 0
        return 0


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _count(db: Db) -> int:
    found = db.execute("SELECT value FROM fact WHERE key = ?", (_KEY,)).fetchone()
    return int(found[0]) if found is not None and found[0].isdigit() else 0
