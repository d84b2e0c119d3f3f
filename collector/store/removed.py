"""Counts the messages that retention removed, so that the ledger does not report them as gone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

FILE = "removed.json"
MAX_FILES = 5_000


class _Noted(Struct):
    messages: dict[str, int] = {}  # by node
    files: list[str] = []  # the newest that were counted


class Removed:
    """A small file in the store's folder. Any thread may read; the writer adds."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def messages(self) -> dict[str, int] | None:
        """How many of each node; None when the file is absent or cannot be read."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Noted).messages
        except (OSError, msgspec.MsgspecError, ValueError):
            return None

    def files(self) -> set[str]:
        """The newest files that were removed; empty when the file is absent or cannot be read."""
        try:
            return set(msgspec.json.decode(self._path.read_bytes(), type=_Noted).files)
        except (OSError, msgspec.MsgspecError, ValueError):
            return set()

    def add(self, messages: dict[str, int], files: Iterable[str] = ()) -> None:
        """Add what is being removed with these files; a file counts once.

        Raises:
            OSError: it is not on disk.
        """
        try:
            noted = msgspec.json.decode(self._path.read_bytes(), type=_Noted)
        except (FileNotFoundError, msgspec.MsgspecError, ValueError):
            noted = _Noted()
        new = [name for name in files if name not in noted.files]
        if new or not files:
            for node, n in messages.items():
                noted.messages[node] = noted.messages.get(node, 0) + n
        noted.files = [*noted.files, *new][-MAX_FILES:]
        work = self._path.with_suffix(".new")
        with work.open("wb") as file:
            file.write(msgspec.json.encode(noted))
            file.flush()
            os.fsync(file.fileno())
        work.replace(self._path)
