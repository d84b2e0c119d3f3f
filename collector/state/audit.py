"""The audit: who did what to a store, when, from where, and with which result."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from collector.state.state_file import StateFile
from wire.clock import Clock
from wire.errors import EdgebedError

COMMAND_LINE = "command line"
MAX_ENTRIES = 100_000  # the oldest go first
_MAX_CHARS = 500  # of a text


class AuditEntry(Struct, frozen=True):
    """One act; `subject` is what it was done to, `origin` where it came from."""

    at_ms: int
    who: str
    what: str
    subject: str
    origin: str
    result: str


class Audit:
    """The acts in a `state.db`; they are added, never changed."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def add(self, entry: AuditEntry) -> None:
        """Write an entry to disk.

        Raises:
            EdgebedError: as `StateFile.transaction`.
        """
        texts = (entry.who, entry.what, entry.subject, entry.origin, entry.result)
        # a path may have bytes that are not text
        clean = [text.encode("utf-8", "replace").decode()[:_MAX_CHARS] for text in texts]
        with self._state.transaction() as db:
            at = db.execute(
                "INSERT INTO audit(at_ms, who, what, subject, origin, result) VALUES (?,?,?,?,?,?)",
                (entry.at_ms, *clean),
            ).lastrowid
            db.execute("DELETE FROM audit WHERE id <= ?", ((at or 0) - MAX_ENTRIES,))

    def newest(self, limit: int) -> list[AuditEntry]:
        """The newest entries, the newest first."""
        with self._state.transaction() as db:
            found = db.execute(
                "SELECT at_ms, who, what, subject, origin, result FROM audit ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [AuditEntry(*row) for row in found]


def user() -> str:
    """The name of the user who runs this process; with sudo, also who called it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    caller = os.environ.get("SUDO_USER", "")
    return f"{name} (sudo of {caller})" if caller and os.getuid() == 0 else name


@contextmanager
def audited(
    state: StateFile, clock: Clock, what: str, subject: str, warn: Callable[[str], object]
) -> Iterator[None]:
    """Write the result of a command to the audit at the end of the block; `warn` gets why it is not there.

    A damaged `state.db` must not stop a command that repairs or saves the store.
    """
    result = "done"
    try:
        yield
    except BaseException as error:
        result = f"failed: {error}" if isinstance(error, EdgebedError) else "interrupted"
        raise
    finally:
        try:
            entry = AuditEntry(clock.now_ms(), user(), what, subject, COMMAND_LINE, result)
            Audit(state).add(entry)
        except EdgebedError as error:
            warn(f"this is not in the audit: {error}")
