"""The audit: who did what to a store, when, from where, and with which result."""

from __future__ import annotations

import json
import logging
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from collector.state.state_file import Db, StateFile
from wire.clock import Clock
from wire.errors import EdgebedError

log = logging.getLogger(__name__)

COMMAND_LINE = "command line"
LOGIN_FAILED = "login failed"
MAX_ENTRIES = 100_000  # the oldest go first
MAX_FAILED = 10_000  # failed logins: who guesses passwords pushes out no other act
EVERYWHERE = "*"
_MAX_CHARS = 500  # of a text


class AuditEntry(Struct, frozen=True):
    """One act; `subject` is what it was done to, `origin` where it came from.

    `scope` is the node or prefix that it concerns.
    """

    at_ms: int
    who: str
    what: str
    subject: str
    origin: str
    result: str
    scope: str = EVERYWHERE
    id: int = 0  # a later entry has a greater one


class Audit:
    """The acts in a `state.db`; they are added, never changed."""

    def __init__(self, state: StateFile) -> None:
        self._state = state

    def add(self, entry: AuditEntry) -> None:
        """Write an entry to disk.

        Raises:
            EdgebedError: as `StateFile.transaction`.
        """
        with self._state.transaction() as db:
            write(db, entry)

    def note(self, entry: AuditEntry) -> None:
        """Write an entry to disk; the log has why it is not there."""
        try:
            self.add(entry)
        except EdgebedError as error:
            log.warning("this is not in the audit: %s of %s: %s", entry.what, entry.subject, error)

    def newest(
        self, limit: int, *, sees: Callable[[str], bool] = lambda _scope: True, before: int = 2**62
    ) -> list[AuditEntry]:
        """The newest entries of the scopes that `sees` allows, the newest first."""
        with self._state.transaction(writes=False) as db:
            scopes = [each for (each,) in db.execute("SELECT DISTINCT scope FROM audit") if sees(each)]
            found = db.execute(
                "SELECT at_ms, who, what, subject, origin, result, scope, id FROM audit WHERE id < ?"
                " AND scope IN (SELECT value FROM json_each(?)) ORDER BY id DESC LIMIT ?",
                (before, json.dumps(scopes), limit),
            ).fetchall()
        return [AuditEntry(*row) for row in found]


def write(db: Db, entry: AuditEntry) -> None:
    """Add an entry in a transaction, so that the act and its entry are on disk together."""
    texts = (entry.who, entry.what, entry.subject, entry.origin, entry.result, entry.scope)
    # a path may have bytes that are not text
    clean = [text.encode("utf-8", "replace").decode()[:_MAX_CHARS] for text in texts]
    at = db.execute(
        "INSERT INTO audit(at_ms, who, what, subject, origin, result, scope) VALUES (?,?,?,?,?,?,?)",
        (entry.at_ms, *clean),
    ).lastrowid
    db.execute("DELETE FROM audit WHERE id <= ?", ((at or 0) - MAX_ENTRIES,))
    if entry.what == LOGIN_FAILED:
        db.execute(
            "DELETE FROM audit WHERE id <= (SELECT id FROM audit WHERE what = ?"
            " ORDER BY id DESC LIMIT 1 OFFSET ?) AND what = ?",
            (LOGIN_FAILED, MAX_FAILED, LOGIN_FAILED),
        )


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
    state: StateFile,
    clock: Clock,
    what: str,
    subject: str,
    warn: Callable[[str], object],
    scope: str = EVERYWHERE,
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
            entry = AuditEntry(clock.now_ms(), user(), what, subject, COMMAND_LINE, result, scope)
            Audit(state).add(entry)
        except EdgebedError as error:
            warn(f"this is not in the audit: {error}")
