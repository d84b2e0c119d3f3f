"""Reads a password or a token from a file that no other user can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wire.errors import ConfigError

_MAX_FILE = 4096  # bytes


def read_secret(path: Path, option: str, what: str) -> str:
    """The first line of a file; `option` names the file, `what` the secret.

    Raises:
        ConfigError: the file cannot be read, is empty, or other users can read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise ConfigError(
            f"{option} {path} has mode {stat.S_IMODE(mode):04o}: other users could read the {what}; "
            f"run chmod 600 {path}"
        )
    try:
        lines = raw.decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option} {path} is not text in UTF-8") from error
    if len(raw) > _MAX_FILE or not lines or not lines[0]:
        raise ConfigError(f"{option} {path}: its first line must be the {what}")
    return lines[0]
