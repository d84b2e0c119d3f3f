"""Reader: the segments of one kind, which of their records were read, and which are not acknowledged yet."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from agent.outbox.cursors import Place, ReadCursors
from agent.outbox.record import Record
from agent.outbox.segment import Run, Segment
from wire.ranges import Ranges


class Left(NamedTuple):
    """What waited in a segment that was evicted: numbers that were read, and stretches that were not."""

    seqs: set[int]
    unread: list[tuple[int, int]]


class _Taken(NamedTuple):
    """A record that was read, without tail and body, until its ack; `before` counts those before it."""

    segment: Segment
    before: int
    record: Record


class Reader:
    """Gives out the records of one kind, oldest first. Needs the outbox's lock and never touches the disk."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments  # records are appended to the last one
        self.cursors = ReadCursors(segments)
        self._taken: dict[int, _Taken] = {}  # by seq, in the order of reading

    def place(self, *, backlog: bool = False) -> Place | None:
        """The place of the next records: at the newest cursor, or at the oldest of the backlog."""
        cursor = self.cursors.oldest_overtaken() if backlog else self.cursors.newest
        return self.cursors.place(cursor) if cursor is not None else None

    def took(self, place: Place, run: Run) -> list[Record] | None:
        """Note what was read at a place; returns the records to give out, None if the place is gone."""
        cursor, segment = place.cursor, place.segment
        if segment.gone:  # dropped during the read: these bytes may belong to its successor
            return None
        records: list[Record] = []
        for each in run.records:
            if each.seq in self._taken:  # a failed write reached the disk after all, and was repeated
                segment.acknowledge()
            else:
                self._taken[each.seq] = _Taken(segment, cursor.passed, replace(each, tail="", body=b""))
                records.append(each)
            cursor.passed += 1
        segment.took(len(run.records))
        cursor.at = run.upto
        return records

    def ack(self, ranges: Ranges) -> int:
        """Release taken records; returns how many."""
        known = [seq for seq in self._taken if seq in ranges]
        for seq in known:
            self._taken.pop(seq).segment.acknowledge()
        return len(known)

    def finished(self) -> list[Segment]:
        """Remove and return the segments in which nothing waits."""
        done = [
            segment
            for segment in self.cursors.touched()
            if segment.is_finished and not self.cursors.parts(segment)
        ]
        for segment in done:
            self.remove(segment)
        return done

    def evict(self, segment: Segment) -> Left | None:
        """Remove a segment and return what waited in it; None if it is no longer part of the outbox."""
        if segment.gone:
            return None
        waiting = {seq for seq, taken in self._taken.items() if taken.segment is segment}
        for seq in waiting:
            del self._taken[seq]
        unread = [(start, end) for start, end, _ in self.cursors.parts(segment)]
        self.remove(segment)
        return Left(waiting, unread)

    def remove(self, segment: Segment) -> None:
        """Forget a segment; reading continues in the next one."""
        segment.retire()
        self.segments.remove(segment)

    def settle(self) -> None:
        """Move `low` and `done` of each segment up to the first record that waits there."""
        oldest: dict[int, _Taken] = {}
        for taken in self._taken.values():
            known = oldest.setdefault(taken.segment.generation, taken)
            if taken.record.at < known.record.at:  # newest records are read before the records they overtook
                oldest[taken.segment.generation] = taken
        for segment in self.cursors.touched():
            places = [(start, passed) for start, _, passed in self.cursors.parts(segment)]
            if first := oldest.get(segment.generation):
                places.append((first.record.at, first.before))
            segment.settle(*min(places, default=(segment.end, segment.count)))

    def oldest(self) -> tuple[Record | None, Place | None]:
        """The oldest record that was read and waits (no body), and the place of the oldest unread one."""
        taken = min(self._taken, default=None)
        places = (place for cursor in self.cursors if (place := self.cursors.place(cursor)))
        return None if taken is None else self._taken[taken].record, next(places, None)
