"""A disk that loses its power: any part of the writes since the last flush may be missing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

What = Literal["create", "write", "size", "unlink", "rename", "sync", "sync-folder", "say"]

SECTOR = 512  # bytes that a disk writes whole or not at all


@dataclass(frozen=True, slots=True)
class Op:
    """One step of a write log; `path` and `to` are names in the one folder that was recorded.

    `at` is the offset of a write or the new size; `said` is what the program reported at this point.
    """

    what: What
    path: str = ""
    at: int = 0
    data: bytes = b""
    to: str = ""
    said: Any = None


class Disk:
    """One folder on a disk with a volatile cache: `apply` the steps of a write log, then `cut` it.

    A cut may leave:

    - Files: every write before the last fsync or fdatasync of the file. Of later writes, each sector by
      itself has any of its states since then: in any order, torn anywhere between sectors. The size has any
      of its values since then. A sector that did not arrive in a file that grew is zeros.
    - A file that was made shorter and not flushed since: either it has the old length, without any later
      write, or it is shorter.
    - Names: every change before the last fsync of the folder. Of later changes, those up to some point, in
      their order. The content of a file and its name do not depend on each other.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self._names = {name: _File(data) for name, data in (files or {}).items()}  # as programs see them
        self._durable = dict(self._names)
        self._changes: list[dict[str, _File | None]] = []  # of names, since the folder was flushed

    def apply(self, op: Op) -> None:
        """Apply one step of the log."""
        if op.what in {"create", "unlink", "rename"}:
            self._rename(op)
        elif op.what == "sync-folder":
            self._durable = dict(self._names)
            self._changes.clear()
        elif op.what != "say" and op.path in self._names:  # else: it was removed while still open
            file = self._names[op.path]
            if op.what == "sync":
                file.flush()
            else:
                file.add(op)

    def _rename(self, op: Op) -> None:
        change: dict[str, _File | None] = {op.path: None}
        if op.what == "create":
            change[op.path] = _File(b"")
        elif op.what == "rename":
            change[op.to] = self._names[op.path]
        _change(self._names, change)
        self._changes.append(change)

    def files(self) -> dict[str, bytes]:
        """What programs read while the power is on."""
        return {name: bytes(file.now) for name, file in self._names.items()}

    def cut(self, rng: random.Random) -> dict[str, bytes]:
        """One of the possible contents after a power failure at this point."""
        manner = rng.choice(("nothing", "everything", "in order", "most", "some", "few"))
        count = len(self._changes)
        kept = {"nothing": 0, "everything": count}.get(manner, rng.randint(0, count))
        names = dict(self._durable)
        for change in self._changes[:kept]:
            _change(names, change)
        return {name: file.remains(manner, rng) for name, file in sorted(names.items())}


def cuts(
    ops: Sequence[Op],
    hear: Callable[[Any], object],
    count: int,
    rng: random.Random,
    before: dict[str, bytes] | None = None,
) -> Iterator[dict[str, bytes]]:
    """Replay a log on the files `before`, and cut the power about `count` times, spread over the log.

    Everything said up to a cut goes to `hear` before the outcome of that cut is yielded.
    """
    disk = Disk(before)
    share = count / max(1, sum(op.what != "say" for op in ops))
    for op in ops:
        disk.apply(op)
        if op.what == "say":
            hear(op.said)
            continue
        for _ in range(int(share) + (rng.random() < share % 1)):
            yield disk.cut(rng)


def replayed(ops: Iterable[Op], before: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """The files after a log, without a power failure."""
    disk = Disk(before)
    for op in ops:
        disk.apply(op)
    return disk.files()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Make `folder` hold these files and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _change(names: dict[str, _File], change: dict[str, _File | None]) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


class _File:
    """The durable content, the writes since the last flush, and the sum of both."""

    __slots__ = ("durable", "now", "pending")

    def __init__(self, data: bytes) -> None:
        self.durable = bytearray(data)
        self.now = bytearray(data)
        self.pending: list[Op] = []

    def add(self, op: Op) -> None:
        _do(self.now, op)
        self.pending.append(op)

    def flush(self) -> None:
        for op in self.pending:
            _do(self.durable, op)
        self.pending.clear()

    def remains(self, manner: str, rng: random.Random) -> bytes:
        if manner == "nothing" or not self.pending:
            return bytes(self.durable)
        if manner == "everything":
            return bytes(self.now)
        if manner == "in order":  # the disk writes in order, and the last write is torn
            data = bytearray(self.durable)
            *whole, last = self.pending[: rng.randint(1, len(self.pending))]
            for op in (*whole, _torn(last, rng)):
                _do(data, op)
            return bytes(data)
        return self._any(rng, {"most": 0.97, "some": 0.5, "few": 0.03}[manner])

    def _any(self, rng: random.Random, share: float) -> bytes:
        """Each sector in any of its states; in the newest with a probability of `share`."""
        cuts = [at for at, shrinks in enumerate(self._shrinks()) if shrinks]
        done = rng.randint(0, len(cuts))  # how many of the truncations reached the disk
        data, pending = bytearray(self.durable), self.pending
        if done < len(cuts):
            pending = pending[: cuts[done]]
        if done:
            for op in pending[: cuts[done - 1] + 1]:  # bytes behind the end are gone; the rest may be newer
                _do(data, op)
            pending = pending[cuts[done - 1] + 1 :]
        sizes, states = [len(data)], dict[int, list[bytes]]()
        now = bytearray(data)
        for op in pending:
            _do(now, op)
            sizes.append(len(now))
            for sector in _sectors(op):
                states.setdefault(sector, [_sector(data, sector)]).append(_sector(now, sector))
        size = sizes[-1] if rng.random() < share else rng.choice(sizes)
        data.extend(bytes(max(0, size - len(data))))
        for sector, versions in states.items():
            chosen = versions[-1] if rng.random() < share else rng.choice(versions[:-1])
            data[sector * SECTOR : sector * SECTOR + len(chosen)] = chosen
        return bytes(data[:size])

    def _shrinks(self) -> Iterator[bool]:
        size = len(self.durable)
        for op in self.pending:
            yield op.what == "size" and op.at < size
            size = op.at if op.what == "size" else max(size, op.at + len(op.data))


def _do(data: bytearray, op: Op) -> None:
    if op.what == "size":
        del data[op.at :]
        data.extend(bytes(op.at - len(data)))
    elif op.data:
        data.extend(bytes(max(0, op.at - len(data))))
        data[op.at : op.at + len(op.data)] = op.data


def _torn(op: Op, rng: random.Random) -> Op:
    whole = op.at % SECTOR + len(op.data)
    end = min(rng.randint(0, whole // SECTOR + 1) * SECTOR, whole) - op.at % SECTOR
    return Op(op.what, op.path, op.at, op.data[: max(0, end)])


def _sectors(op: Op) -> range:
    if op.what != "write":
        return range(0)
    return range(op.at // SECTOR, -(-(op.at + len(op.data)) // SECTOR))


def _sector(data: bytearray, sector: int) -> bytes:
    return bytes(data[sector * SECTOR : sector * SECTOR + SECTOR]).ljust(SECTOR, b"\0")
