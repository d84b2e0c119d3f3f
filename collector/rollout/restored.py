"""Finds a `state.db` that is older than what the rollouts have done since: it came from a backup.

The fact `rollouts` of `state.db` counts what was kept of rollouts, and a file beside it has the same number.
A backup has no such file, and a `state.db` that was put back alone has a smaller number.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from collector.state.state_file import Db

log = logging.getLogger(__name__)

FILE = "rollouts.count"
_MAX_BYTES = 32
_KEY = "rollouts"


class KeptCount:
    """The number of the newest change of a rollout, in `state.db` and beside it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def is_behind(self, db: Db) -> bool:
        """Whether rollouts have gone on after this `state.db` was copied."""
        kept, noted = _count(db), self._noted()
        return kept < noted or (noted == 0 and kept > 1)  # a kill can leave the first one without its file

    def next(self, db: Db) -> int:
        """Count one more, in a transaction; returns the number for `note`."""
        number = max(_count(db), self._noted()) + 1
        db.execute("INSERT OR REPLACE INTO fact(key, value) VALUES (?, ?)", (_KEY, str(number)))
        return number

    def note(self, number: int) -> None:
        """Have the number beside `state.db`, after the transaction that counted it."""
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_text(f"{number}\n")
            fresh.replace(self._path)
        except OSError as error:  # then a restored state.db may not be found
            log.warning("%s cannot be written: %s", self._path, error.strerror or error)

    def _noted(self) -> int:
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            text = file.read(_MAX_BYTES).strip()
            return int(text) if text.isdigit() else 0
        return 0


def _count(db: Db) -> int:
    found = db.execute("SELECT value FROM fact WHERE key = ?", (_KEY,)).fetchone()
    return int(found[0]) if found is not None and found[0].isdigit() else 0
