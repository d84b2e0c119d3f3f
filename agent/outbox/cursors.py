"""Read cursors of the outbox: which records of one kind are unread, newest and overtaken."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from agent.outbox.record import PAGE
from agent.outbox.segment import Segment

MAX_CURSORS = 8  # each cursor leaves a hole in the numbers a collector has, until it is drained
_OPEN = 1 << 62


@dataclass(slots=True, eq=False)
class ReadCursor:
    """A stretch of unread records: from a place in one segment to a place in the same or a later segment.

    `passed` is the number of records before `at`. `at` is 0 until reading enters that segment; it then
    starts at the segment's `low`.
    """

    generation: int = 0
    at: int = 0
    passed: int = 0
    to_generation: int = _OPEN
    to_at: int = _OPEN


class Place(NamedTuple):
    """Where reading continues: from `at` to `end` in a segment."""

    cursor: ReadCursor
    segment: Segment
    at: int
    end: int


class ReadCursors:
    """The cursors in the order of their records; the newest is last and has no end. Guarded by the lock."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments  # the reader's own list: a segment that left it is skipped
        self._cursors = [ReadCursor()]

    def __iter__(self) -> Iterator[ReadCursor]:
        return iter(self._cursors)

    @property
    def newest(self) -> ReadCursor:
        """The cursor over everything committed since the last split."""
        return self._cursors[-1]

    def oldest_overtaken(self) -> ReadCursor | None:
        """The first cursor of the backlog; cursors that were read to their end are removed."""
        while len(self._cursors) > 1:
            if self.place(self._cursors[0]):
                return self._cursors[0]
            del self._cursors[0]
        return None

    def place(self, cursor: ReadCursor) -> Place | None:
        """Where to continue; None if nothing can be read now."""
        while True:
            at = self._index(cursor.generation)
            if at == len(self._segments) or self._segments[at].generation > cursor.to_generation:
                return None
            segment = self._segments[at]
            if segment.generation != cursor.generation or not cursor.at:
                cursor.generation, cursor.at, cursor.passed = segment.generation, segment.low, segment.done
            end = cursor.to_at if segment.generation == cursor.to_generation else segment.end
            if cursor.at < end:
                return Place(cursor, segment, cursor.at, end)
            if segment.generation == cursor.to_generation:
                return None
            if cursor is self.newest and not segment.sealed:  # it may still grow
                return None
            cursor.generation, cursor.at = cursor.generation + 1, 0

    def split(self) -> bool:
        """End the newest cursor here and start another; False if nothing is unread or there are too many."""
        newest = self.newest
        if len(self._cursors) >= MAX_CURSORS or self.place(newest) is None:
            return False
        last = self._segments[-1]
        passed = last.count  # read before `end`: the writer sets them in this order
        if last.end == PAGE:  # an empty segment can still be given up: then the one before it is the last
            return False
        newest.to_generation, newest.to_at = last.generation, last.end
        self._cursors.append(ReadCursor(last.generation, newest.to_at, passed))
        return True

    def is_behind(self, size: int) -> bool:
        """Whether the newest cursor has more than `size` unread bytes."""
        for segment in self._segments[self._index(self.newest.generation) :]:
            size -= sum(end - start for start, end, _ in _parts(self.newest, segment))
            if size < 0:
                return True
        return False

    def parts(self, segment: Segment) -> list[tuple[int, int, int]]:
        """The unread stretches of a segment: start, end, and the number of records before the start."""
        return [part for cursor in self._cursors for part in _parts(cursor, segment)]

    def touched(self) -> list[Segment]:
        """The segments from which something was read: all except those in the middle of a cursor."""
        found: list[Segment] = []
        at = 0
        for cursor in self._cursors:
            end = self._index(cursor.generation) + 1
            found += self._segments[at:end]
            at = max(at, end, self._index(cursor.to_generation))  # both may be one segment
        return found

    def _index(self, generation: int) -> int:
        return bisect_left(self._segments, generation, key=_generation)


def _parts(cursor: ReadCursor, segment: Segment) -> Iterator[tuple[int, int, int]]:
    if not cursor.generation <= segment.generation <= cursor.to_generation:
        return
    start, passed = segment.low, segment.done
    if segment.generation == cursor.generation and cursor.at:
        start, passed = cursor.at, cursor.passed
    end = cursor.to_at if segment.generation == cursor.to_generation else segment.end
    if start < end:
        yield start, end, passed


def _generation(segment: Segment) -> int:
    return segment.generation
