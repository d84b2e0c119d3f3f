"""Reader: the segments of one kind, which of their records were read, and which are not acknowledged yet."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from msgspec.structs import replace

from agent.outbox.cursors import Place, ReadCursors
from agent.outbox.record import Record
from agent.outbox.segment import Run, Segment
from wire.ranges import Ranges


class Left(NamedTuple):
    """What waited in an evicted segment: numbers that were read, stretches that were not, what is aside."""

    seqs: set[int]
    unread: list[tuple[int, int]]
    aside: int  # from this offset on, records that are not released wait as well


class _Taken(NamedTuple):
    """A record that was read, without tail and body, until its ack; `before` counts those before it."""

    segment: Segment
    before: int
    record: Record


class _Aside(NamedTuple):
    """The records of one segment that were set aside: the first of them, and how many."""

    first: _Taken
    records: int


class Reader:
    """Gives out the records of one kind, oldest first. Needs the outbox's lock and never touches the disk."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments  # records are appended to the last one
        self.cursors = ReadCursors(segments)
        self._taken: dict[int, _Taken] = {}  # by seq, in the order of reading
        self._aside: dict[int, _Aside] = {}  # by generation

    def place(self, *, backlog: bool = False) -> Place | None:
        """The place of the next records: at the newest cursor, or at the oldest of the backlog."""
        cursor = self.cursors.oldest_overtaken() if backlog else self.cursors.newest
        return self.cursors.place(cursor) if cursor is not None else None

    def took(self, place: Place, run: Run, released: Ranges) -> list[Record] | None:
        """Note what was read at a place; returns the records to give out, None if the place is gone.

        Records that were released before a rewind are not given out again.
        """
        cursor, segment = place.cursor, place.segment
        if segment.gone:  # dropped during the read: these bytes may belong to its successor
            return None
        records: list[Record] = []
        for each in run.records:
            # in `_taken`: a failed write reached the disk after all, and was repeated
            if each.seq in self._taken or (released and each.seq in released):
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

    def sent(self, ranges: Ranges) -> list[int]:
        """The numbers among these that were given out and wait."""
        return [seq for seq in self._taken if seq in ranges]

    def set_aside(self, seqs: Iterable[int]) -> list[int]:
        """Forget records that were given out, without an acknowledgement; returns the numbers that waited."""
        known = [seq for seq in seqs if seq in self._taken]
        for seq in known:
            taken = self._taken.pop(seq)
            first, records = self._aside.get(taken.segment.generation, _Aside(taken, 0))
            if taken.record.at < first.record.at:
                first = taken
            self._aside[taken.segment.generation] = _Aside(first, records + 1)
        return known

    def release_aside(self, left: Ranges) -> None:
        """Acknowledge what was set aside in each segment without a number that is `left`."""
        for generation, (first, records) in list(self._aside.items()):
            segment = first.segment
            if not left.within(segment.base, segment.last_seq):
                segment.acknowledge(records)
                del self._aside[generation]

    def rewind(self) -> None:
        """Read everything again that is not acknowledged, as after a restart."""
        self.settle()
        self._taken.clear()
        self._aside.clear()
        for segment in self.segments:
            segment.rewind()
        self.cursors = ReadCursors(self.segments)

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
        aside = self._aside.pop(segment.generation, None)
        self.remove(segment)
        return Left(waiting, unread, segment.end if aside is None else aside.first.record.at)

    def remove(self, segment: Segment) -> None:
        """Forget a segment; reading continues in the next one."""
        segment.retire()
        self.segments.remove(segment)

    def settle(self) -> None:
        """Move `low` and `done` of each segment up to the first record that waits there."""
        oldest: dict[int, _Taken] = {}
        for taken in (*self._taken.values(), *(aside.first for aside in self._aside.values())):
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
        waiting = [self._taken[seq].record for seq in (min(self._taken, default=0),) if seq]
        waiting += [aside.first.record for aside in self._aside.values()]
        places = (place for cursor in self.cursors if (place := self.cursors.place(cursor)))
        return min(waiting, key=attrgetter("seq"), default=None), next(places, None)
