"""Gathers chunks of one stream, in any order, into arrays; each message counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from collector.store.chunk import as_floats
from collector.store.source import StoredChunk
from wire.messages import Quality

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
_AT_ONCE = 200_000  # rows of chunks that wait to be made into arrays
_NEVER = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a stream; `is_new` is false for those of a message that was there before.

    `outboxes` are places in the list of outboxes, and `places` those of a row in its message.
    """

    times: Ints
    outboxes: NDArray[np.int32]
    seqs: Ints
    places: NDArray[np.int32]
    grades: NDArray[np.uint8]
    is_new: Flags
    values: dict[str, NDArray[np.float64]]

    @classmethod
    def joined(cls, parts: Sequence[Rows], names: Sequence[str]) -> Rows:
        """All parts, with these fields."""
        return cls(
            _joined([each.times for each in parts], np.int64),
            _joined([each.outboxes for each in parts], np.int32),
            _joined([each.seqs for each in parts], np.int64),
            _joined([each.places for each in parts], np.int32),
            _joined([each.grades for each in parts], np.uint8),
            _joined([each.is_new for each in parts], np.bool_),
            {name: _joined([each.values[name] for each in parts], np.float64) for name in names},
        )

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Rows:
        """Some of the rows, or all in another order."""
        return Rows(
            self.times[chosen],
            self.outboxes[chosen],
            self.seqs[chosen],
            self.places[chosen],
            self.grades[chosen],
            self.is_new[chosen],
            {name: column[chosen] for name, column in self.values.items()},
        )

    def in_order(self, names: Sequence[str]) -> Rows:
        """By time, outbox, number of the message and place in it; `names` are those of the outboxes."""
        if not (np.diff(self.times) <= 0).any():
            return self
        ranks = np.argsort(np.argsort(np.array(names)))[self.outboxes]
        return self.where(np.lexsort((self.places, self.seqs, ranks, self.times)))


class Seen(NamedTuple):
    """Messages of one outbox by number, each once: their first and last times in us."""

    seqs: Ints
    firsts: Ints
    lasts: Ints


@dataclass(slots=True)
class _Waiting:
    """A chunk that was read, with the numbers and rows of its messages, and which of these are new."""

    chunk: StoredChunk
    outbox: int
    seqs: Ints
    counts: Ints
    is_new: Flags


@dataclass
class RowBlocks:
    """Arrays of the chunks that were added; `names` are the fields to keep."""

    names: list[str]
    outboxes: list[str] = field(default_factory=list)
    _known: dict[str, set[int]] = field(default_factory=dict)
    _waiting: list[_Waiting] = field(default_factory=list)
    _rows: int = 0  # of those
    _seen: list[tuple[NDArray[np.int32], Ints, Ints, Ints]] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether `take` should be called before more chunks come."""
        return self._rows >= _AT_ONCE

    def add(self, chunk: StoredChunk) -> Flags:
        """Take a chunk with rows; returns which of its rows are of messages that were not there before."""
        if chunk.ep not in self._known:
            self._known[chunk.ep] = set()
            self.outboxes.append(chunk.ep)
        known = self._known[chunk.ep]
        seqs, counts, is_new = numbered(chunk.content.head.messages, known, note=not chunk.is_beside)
        at = self.outboxes.index(chunk.ep)
        self._waiting.append(_Waiting(chunk, at, seqs, counts, is_new))
        self._rows += len(chunk.content.times)
        return np.repeat(is_new, counts)

    def take(self) -> Rows | None:
        """The rows since the last call, in the order of the chunks; those beside the span are left out."""
        waiting, self._waiting, self._rows = self._waiting, [], 0
        if not waiting:
            return None
        times = np.concatenate([each.chunk.content.times for each in waiting])
        counts = np.concatenate([each.counts for each in waiting])
        seqs = np.concatenate([each.seqs for each in waiting])
        is_new = np.concatenate([each.is_new for each in waiting])
        grades = np.frombuffer(b"".join(bytes(each.chunk.content.quality) for each in waiting), np.uint8)
        of_messages = np.repeat(
            np.array([each.outbox for each in waiting], np.int32), [len(each.seqs) for each in waiting]
        )
        starts = np.cumsum(counts) - counts
        firsts, lasts = _edges(times, grades, starts)
        self._seen.append((of_messages[is_new], seqs[is_new], firsts[is_new], lasts[is_new]))
        found = Rows(
            times,
            np.repeat(of_messages, counts),
            np.repeat(seqs, counts),
            (np.arange(len(times)) - np.repeat(starts, counts)).astype(np.int32),
            grades,
            np.repeat(is_new, counts),
            {name: np.concatenate([_column(each.chunk, name) for each in waiting]) for name in self.names},
        )
        beside = [each.chunk.is_beside for each in waiting]
        if any(beside):
            found = found.where(~np.repeat(beside, [len(each.chunk.content.times) for each in waiting]))
        return found

    def messages(self) -> dict[str, Seen]:
        """The messages that were seen, by outbox; also those beside the span. Call `take` before."""
        if not self._seen:
            return {}
        outboxes, *columns = (np.concatenate([each[at] for each in self._seen]) for at in range(4))
        found = {}
        for at, ep in enumerate(self.outboxes):
            seqs, firsts, lasts = (column[outboxes == at] for column in columns)
            order = np.lexsort((lasts, firsts, seqs))
            one = Seen(seqs[order], firsts[order], lasts[order])
            again = np.ones(len(seqs), np.bool_)
            if len(seqs):
                again[1:] = np.any([np.diff(each) != 0 for each in one], axis=0)
                found[ep] = Seen(*(each[again] for each in one))
        return found


def _joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, kind)


def numbered(
    messages: Sequence[tuple[int, int]], known: set[int], *, note: bool = True
) -> tuple[Ints, Ints, Flags]:
    """The numbers and rows of the messages of a chunk, and which of them are not known yet.

    Those without rows are left out: they are damage. A known one is in two chunks or day files.
    """
    table = np.array(messages, np.int64).reshape(-1, 2)
    if (table[:, 1] < 1).any():
        table = table[table[:, 1] > 0]
    numbers = table[:, 0].tolist()
    new = set(numbers)
    is_new = np.ones(len(numbers), np.bool_)
    if len(new) < len(numbers) or not known.isdisjoint(new):
        before = set(known)
        for at, number in enumerate(numbers):
            is_new[at] = number not in before
            before.add(number)
    if note:
        known |= new
    return table[:, 0], table[:, 1], is_new


def _edges(times: Ints, grades: NDArray[np.uint8], starts: Ints) -> tuple[Ints, Ints]:
    """The first and last time of each message; one old time of a device does not date its message."""
    if not len(starts):
        return starts, starts
    firsts, lasts = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
    back = grades == Quality.TIME_BACKWARD
    if back.any():
        low = np.minimum.reduceat(np.where(back, _NEVER.max, times), starts)
        high = np.maximum.reduceat(np.where(back, _NEVER.min, times), starts)
        dated = np.logical_or.reduceat(~back, starts)
        firsts, lasts = np.where(dated, low, firsts), np.where(dated, high, lasts)
    return firsts, lasts


def _column(chunk: StoredChunk, name: str) -> NDArray[np.float64]:
    column = chunk.content.columns.get(name)
    return np.full(len(chunk.content.times), np.nan) if column is None else as_floats(column)
