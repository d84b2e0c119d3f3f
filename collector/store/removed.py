"""Counts what retention removed with whole day files, so that the ledger does not report it as gone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from wire.ranges import Range, Ranges

FILE = "removed.json"
MAX_FILES = 5_000


class Pruned(Struct, omit_defaults=True):
    """What was removed of one outbox: messages and rows of a class, by their numbers and days of receipt."""

    node: str
    ep: str
    cls: str
    messages: int = 0
    rows: int = 0
    numbers: list[Range] = []
    first_day: str = ""
    last_day: str = ""

    @property
    def key(self) -> str:
        """Class, node and outbox as one text."""
        return f"{self.cls}/{self.node}/{self.ep}"

    def add(self, other: Pruned) -> None:
        """Add what was removed at another time."""
        self.messages += other.messages
        self.rows += other.rows
        numbers = Ranges(self.numbers)
        numbers.update(Ranges(other.numbers))
        self.numbers = list(numbers)
        self.first_day = min(filter(None, (self.first_day, other.first_day)), default="")
        self.last_day = max(self.last_day, other.last_day)

    def spanned(self) -> Pruned:
        """The same with one range, from the first to the last number."""
        span = [(self.numbers[0][0], self.numbers[-1][1])] if self.numbers else []
        return msgspec.structs.replace(self, numbers=span)


class PrunedSum(Struct):
    """What retention removed of one outbox and class in all; numbers `first..last` are not all of it."""

    cls: str
    messages: int
    rows: int
    first: int
    last: int
    first_day: str
    last_day: str


def joined(several: Iterable[Pruned]) -> list[Pruned]:
    """One of each outbox and class."""
    found: dict[str, Pruned] = {}
    for one in several:
        found.setdefault(one.key, Pruned(one.node, one.ep, one.cls)).add(one)
    return list(found.values())


class _Noted(Struct):
    messages: dict[str, int] = {}  # by node
    files: list[str] = []  # the newest that were counted
    pruned: list[Pruned] = []  # the same by outbox and class, since a release that notes it


class Removed:
    """A small file in the store's folder. Any thread may read; the writer adds."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def _noted(self) -> _Noted | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Noted)
        except (OSError, msgspec.MsgspecError, ValueError):
            return None

    def messages(self) -> dict[str, int] | None:
        """How many of each node; None when the file is absent or cannot be read."""
        noted = self._noted()
        return None if noted is None else noted.messages

    def files(self) -> set[str]:
        """The newest files that were removed; empty when the file is absent or cannot be read."""
        noted = self._noted()
        return set() if noted is None else set(noted.files)

    def pruned(self) -> list[Pruned]:
        """What was removed of each outbox and class; empty when the file is absent or cannot be read."""
        noted = self._noted()
        return [] if noted is None else noted.pruned

    def add(self, messages: dict[str, int], files: Iterable[str] = (), pruned: Iterable[Pruned] = ()) -> None:
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
            noted.pruned = joined(one.spanned() for one in (*noted.pruned, *pruned))
        noted.files = [*noted.files, *new][-MAX_FILES:]
        work = self._path.with_suffix(".new")
        with work.open("wb") as file:
            file.write(msgspec.json.encode(noted))
            file.flush()
            os.fsync(file.fileno())
        work.replace(self._path)
