"""Every error edgebed raises on purpose, with the exit code its command ends with.

    EdgebedError                 1   something failed and was said so in one sentence
    |-- ConfigError             78   a file the user wrote is wrong; lists every mistake
    |-- Unreachable             69   a broker, port or service that is not there
    |-- TryAgain                75   a condition that passes by itself: disk full, lock held
    |-- WireError                1   bytes or a topic that do not keep the contract
    `-- (adapters.base.AdapterError, agent.inference.package.ModelError, ... derive from EdgebedError)

Exit codes follow sysexits.h where it has one.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class EdgebedError(Exception):
    """A failure with a sentence for the user; `exit_code` is what a command ends with."""

    exit_code: ClassVar[int] = 1


class Unreachable(EdgebedError):
    """A peer that should be there is not (EX_UNAVAILABLE)."""

    exit_code = 69


class TryAgain(EdgebedError):
    """The same command can succeed later without a change (EX_TEMPFAIL)."""

    exit_code = 75


class ConfigError(EdgebedError):
    """A file the user wrote is wrong; `mistakes` holds one `file:line:col: sentence` each (EX_CONFIG)."""

    exit_code = 78

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def unwritable(what: str, error: OSError) -> EdgebedError:
    """The error for a folder that cannot be used: a full disk passes by itself, anything else does not."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TryAgain(f"{what} cannot be written: the disk is full; make room")
    reason = error.strerror or error
    if error.errno == errno.ENOENT:
        return ConfigError(f"{what} cannot be written: {reason}; make its folder, or name another")
    return ConfigError(f"{what} cannot be written: {reason}; give it to this user or name another")


class WireError(EdgebedError):
    """Bytes, a topic or a message that do not keep the wire contract; the text says why."""


def on_purpose(group: BaseExceptionGroup[BaseException]) -> EdgebedError | None:
    """The first error of a group that was raised on purpose; None where all of them are bugs."""
    for error in group.exceptions:
        found = on_purpose(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, EdgebedError):
            return found
    return None
