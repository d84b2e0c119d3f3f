"""The errors that edgebed raises deliberately, each with the exit code of its command.

    EdgebedError                 1   a failure, described in one sentence
    |-- ConfigError             78   a file of the user is wrong; lists every mistake
    |-- Unreachable             69   a broker, port or service does not answer
    |-- TryAgain                75   the same command can succeed later: disk full, lock held
    |-- WireError                1   bytes or a topic that violate the wire contract
    `-- (adapters.base.AdapterError, agent.inference.decoders.ModelError, ... derive from EdgebedError)

Exit codes follow sysexits.h where it has one.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from wire.reasons import Reason


class EdgebedError(Exception):
    """A failure with a sentence for the user; `exit_code` is the exit code of the command.

    `reason_code` is the code of the sentence in `wire.reasons.CODES`. A class can have a default; `coded`
    sets a more precise one.
    """

    exit_code: ClassVar[int] = 1
    reason_code: str = ""
    reason_args: Mapping[str, Any] = {}

    def coded(self, code: str, /, **args: Any) -> Self:
        """Set the code and its args; returns the error."""
        self.reason_code, self.reason_args = code, args
        return self

    @property
    def reason(self) -> Reason:
        """The sentence with its code and args."""
        return Reason(str(self), self.reason_code, self.reason_args)


class Unreachable(EdgebedError):
    """A peer that does not answer (EX_UNAVAILABLE)."""

    exit_code = 69


class TryAgain(EdgebedError):
    """The same command can succeed later without a change (EX_TEMPFAIL)."""

    exit_code = 75


class ConfigError(EdgebedError):
    """A file of the user is wrong; `mistakes` has one `file:line:col: sentence` each (EX_CONFIG)."""

    exit_code = 78

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


def unwritable(what: str, error: OSError) -> EdgebedError:
    """The error for a folder that cannot be written: `TryAgain` for a full disk, else `ConfigError`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TryAgain(f"{what} cannot be written: the disk is full; free some space")
    reason = error.strerror or error
    if error.errno == errno.ENOENT:
        return ConfigError(f"{what} cannot be written: {reason}; create its folder or choose another")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return ConfigError(f"{what} cannot be written: a part of this path is a file; choose another")
    return ConfigError(f"{what} cannot be written: {reason}; make it writable or choose another")


class WireError(EdgebedError):
    """Bytes, a topic or a message that violate the wire contract; the text gives the reason."""


def on_purpose(group: BaseExceptionGroup[BaseException]) -> EdgebedError | None:
    """The first `EdgebedError` of a group; None if the group contains only bugs."""
    for error in group.exceptions:
        found = on_purpose(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, EdgebedError):
            return found
    return None
