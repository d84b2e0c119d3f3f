"""State of the outbox: every change that another thread can see is one method here.

The outbox calls each method with its lock held. No method touches the disk. docs/architecture.md lists the
changes, their threads and the tests that force the interleavings.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import NamedTuple

from agent.outbox.buffer import Buffer
from agent.outbox.copies import Copies
from agent.outbox.cursors import Place
from agent.outbox.eviction import Evicted
from agent.outbox.gaps import GapReason, reason_of
from agent.outbox.message import Message
from agent.outbox.reader import Left, Reader
from agent.outbox.record import KINDS, PAGE, Blob, Kind, Record
from agent.outbox.recovery import Recovered
from agent.outbox.segment import DamagedStretch, Header, Run, Segment, SegmentTotals
from agent.outbox.settings import OutboxStats
from wire.clock import Clock
from wire.custody import CUSTODY
from wire.ranges import Range, Ranges
from wire.topics import NODE_ITSELF


class Plan(NamedTuple):
    """What to write next, and the header of a new segment if the last one of its kind has no room."""

    header: Header | None
    events_first: bool


class Acked(NamedTuple):
    """What an acknowledgement did: how many records it released, and which of its numbers wait for whom."""

    released: int = 0
    waiting: Ranges = Ranges()
    lacking: tuple[str, ...] = ()


class Group(NamedTuple):
    """What one commit writes, in the order of its numbers; every seq up to `settled` is settled."""

    runs: list[tuple[Segment, list[Blob]]]
    settled: int

    @property
    def segments(self) -> list[Segment]:
        """The segments that it touches."""
        return list(dict(self.runs))


class OutboxState:
    """What waits in memory and on disk, what was read, and what must be declared lost."""

    def __init__(self, found: Recovered, segment_size: int, clock: Clock, copies: Copies) -> None:
        self.torn_bytes = found.torn_bytes
        self.trouble = ""  # the error of the disk while nothing can be written; "" if everything works
        self.trouble_code = ""
        self.buffer = Buffer(found.ep, found.head, segment_size // 2, clock)
        self.readers = {kind: Reader(found.segments[kind]) for kind in KINDS}
        self.torn = Ranges(found.torn)  # declared at the start
        self.copies = copies
        self._segment_size = segment_size
        self._generation = found.generation
        self._freed: list[Segment] = []  # nothing waits in them: their files can be reused
        self._dropped: list[Segment] = []  # dropped, but their gap events are not on disk yet
        lost: dict[GapReason, list[Range]] = {"torn": found.torn, "damaged": found.damaged}
        for why, ranges in lost.items():
            self.buffer.gaps.add(why, ranges)
            if ranges:  # their class is unknown
                self.buffer.drops.setdefault("unknown", {})[why] = (sum(b - a + 1 for a, b in ranges), 0)
        for kind in KINDS:
            self.buffer.dropped[kind] = found.dropped[kind].dropped
            self.buffer.dropped_rows[kind] = found.dropped[kind].dropped_rows

    @property
    def segments(self) -> list[Segment]:
        """All segments that are part of the outbox."""
        return [segment for reader in self.readers.values() for segment in reader.segments]

    @property
    def every(self) -> list[Segment]:
        """All segments whose files may be open."""
        return [*self.segments, *self._freed, *self._dropped]

    @property
    def pending(self) -> int:
        """The number of dropped segments whose files cannot be reused yet."""
        return len(self._dropped)

    @property
    def reusable(self) -> bool:
        """Whether the files of some segments are free, or will be when their gaps are on disk."""
        return bool(self._freed or self._dropped)

    def rows(self, kind: Kind) -> int:
        """The number of rows of a kind that were ever committed."""
        known = self.readers[kind].segments
        return known[-1].before.rows + known[-1].rows if known else 0

    def stats(self, oldest_s: float, lowest: int | None) -> OutboxStats:
        """The numbers of this moment, with the age of the oldest record and the lowest seq that waits."""
        for reader in self.readers.values():
            reader.settle()
        every = self.segments
        head = self.buffer.settled
        return OutboxStats(
            oldest_s=oldest_s,
            acked=head if lowest is None else lowest - 1,
            depth=sum(each.count - each.acked for each in every),
            bytes=sum(each.end - each.low for each in every),
            head=head,
            taken_rows=sum(map(self.rows, KINDS)),
            dropped_rows=sum(self.buffer.dropped_rows.values()),
            dropped={kind: self.buffer.dropped[kind] for kind in KINDS},
            torn_bytes=self.torn_bytes,
            trouble=self.trouble,
            trouble_code=self.trouble_code,
        )

    # --- appending

    def append(self, message: Message) -> tuple[int, bool]:
        """Number and buffer a message; returns its seq, and whether it is the only one that waits."""
        seq = self.buffer.add(message)
        first = len(self.buffer) == 1
        self.buffer.shed("disk" if self.trouble else "overload")
        return seq, first

    # --- committing

    def plan(self, free_files: int) -> Plan | None:
        """Number the gap events that are due, and choose what to write next; None if nothing waits."""
        if not self.trouble:  # while nothing can be written, gap events would only displace events
            self.buffer.declare()
        events_first = bool(self.trouble or (self._dropped and free_files <= self._files_for_events()))
        kind = self.buffer.next(events_first=events_first)
        if kind is None:
            return None
        known = self.readers[kind].segments
        base, need, total = self.buffer.first_waiting(kind)
        if known and (known[-1].room >= total or known[-1].room >= max(need, known[-1].size // 8)):
            return Plan(None, events_first)
        before = SegmentTotals(self.rows(kind), self.buffer.dropped[kind], self.buffer.dropped_rows[kind])
        header = Header(kind, self.buffer.ep, self._generation + 1, base, self._segment_size, before)
        return Plan(header, events_first)

    def _files_for_events(self) -> int:
        """How many free files the gap event of a dropped segment may need.

        Data that need a file wait for that event only if no other file is free: the next one holds the
        numbers that it declares. If it passes them and the process is killed, their numbers are missing below
        its own and are declared `torn`.
        """
        known = self.readers["event"].segments
        return 0 if known and known[-1].room >= self.buffer.waiting_bytes("event") else 1

    def begun(self, segment: Segment) -> None:
        """Append a segment whose header is on disk."""
        self._generation = segment.generation
        self.readers[segment.kind].segments.append(segment)

    def pop(self, *, events_first: bool) -> Group:
        """Take out of the buffer what fits into the last segments; `publish` or `put_back` must follow."""
        settled = self.buffer.settled
        last = {kind: reader.segments[-1] for kind, reader in self.readers.items() if reader.segments}
        rooms = {kind: last[kind].room if kind in last else 0 for kind in KINDS}
        runs = self.buffer.pop(rooms, events_first=events_first)
        return Group([(last[kind], blobs) for kind, blobs in runs], settled)

    def publish(self, group: Group) -> list[Segment]:
        """Count a flushed group as committed; returns the segments that are full now: seal them."""
        for segment in group.segments:
            segment.publish()
        self.buffer.written()
        known = [each for segment in group.segments for each in self.readers[segment.kind].segments[:-1]]
        full = [segment for segment in known if not segment.sealed]
        for segment in full:
            segment.set_sealed()
        if full:
            self._collect()
        return full

    def put_back(self, group: Group) -> list[Segment]:
        """Let a group wait again and stop using its segments: what they hold after `end` is unknown.

        Returns the ones that hold nothing: their files are free.
        """
        self.buffer.put_back()
        empty = [segment for segment in group.segments if not segment.count]
        for segment in group.segments:
            segment.give_up()
        for segment in empty:
            self.readers[segment.kind].remove(segment)
        return empty

    def failed(self, error: OSError) -> bool:
        """Note that the disk takes nothing; returns whether this is new."""
        new = not self.trouble
        self.trouble = error.strerror or str(error)
        self.trouble_code = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk-failed"
        return new

    def works(self) -> None:
        """Note that the disk takes everything."""
        self.trouble = self.trouble_code = ""

    # --- reusing files

    def free(self) -> list[tuple[Segment, bytes | None]]:
        """Segments whose files are free, with their last notes; dropped ones when their gaps are on disk."""
        lowest = self.buffer.gaps.lowest()
        declared = [each for each in self._dropped if lowest is None or lowest > each.last_seq]
        self._dropped = [each for each in self._dropped if each not in declared]
        free, self._freed = [*self._freed, *declared], []
        return [(segment, segment.note_empty()) for segment in free]

    def victim(self) -> Segment | None:
        """The segment to drop next: the oldest data, then the oldest events; never one that is written to."""
        known = (self.readers[kind].segments for kind in KINDS)
        return next((segments[0] for segments in known if len(segments) > 1), None)

    def drop(self, victim: Segment) -> Left | None:
        """Take a segment out of the outbox; returns what waited there, None if it is already out."""
        left = self.readers[victim.kind].evict(victim)
        if left is not None:
            self._dropped.append(victim)
        return left

    def lose(self, kind: Kind, why: GapReason, evicted: Evicted) -> None:
        """Note what was lost with a dropped segment; its gaps and statements are written again."""
        self.buffer.gaps.add(why, evicted.lost)
        self.copies.lose(evicted.lost)
        for gap in evicted.gaps:
            self.buffer.gaps.add(reason_of(gap), gap.lost)
        self.buffer.count_dropped(kind, why, evicted.messages, evicted.rows)
        for statement in evicted.statements:  # kept as long as possible: they prove what was taken
            self.buffer.add(Message("event", NODE_ITSELF, CUSTODY, statement))

    def sacrifice(self) -> Segment | None:
        """A dropped segment whose file must be reused at once: a crash before the next write hides it."""
        return self._dropped.pop(0) if self._dropped else None

    def notes(self) -> list[tuple[Segment, bytes]]:
        """The marks to write now; none while lost numbers are not declared on disk."""
        if self.buffer.gaps.lowest() is not None:
            return []
        found: list[tuple[Segment, bytes]] = []
        for kind, reader in self.readers.items():
            reader.settle()
            for segment in reader.segments:
                if segment.low == PAGE and segment is not reader.segments[-1]:
                    continue
                note = segment.note(self.buffer.dropped[kind], self.buffer.dropped_rows[kind])
                if note is not None:
                    found.append((segment, note))
        return found

    # --- reading

    def took(self, place: Place, run: Run, damaged: Ranges) -> list[Record] | None:
        """Note what was read at a place and which numbers are lost with its damage.

        Returns the records to give out, or None if the place is gone.
        """
        records = self.readers[place.segment.kind].took(place, run, self.copies.released)
        if records is not None:
            self.damaged(run.damage, damaged)
            self._collect()
        return records

    def beside(self, kind: Kind, lost: DamagedStretch) -> list[tuple[Segment, int]]:
        """Segments of the other kind, with their ends, that may hold numbers of a damaged stretch."""
        other: Kind = "event" if kind == "data" else "data"
        segments = self.readers[other].segments
        return [
            (each, each.end) for each in segments if each.base <= lost.last and lost.first <= each.last_seq
        ]

    def damaged(self, stretch: DamagedStretch | None, lost: Ranges) -> None:
        """Note damage and the numbers that are lost with it."""
        if stretch is not None:
            self.torn_bytes += stretch.size
            self.buffer.gaps.add("damaged", lost)

    def overtake(self, behind: int) -> bool:
        """Leave waiting records to the backlog if they exceed `behind` bytes."""
        cursors = [reader.cursors for reader in self.readers.values()]
        if not any(each.is_behind(behind) for each in cursors):
            return False
        split = [each.split() for each in cursors]  # all of them
        return any(split)

    def ack(self, ranges: Ranges) -> int:
        """Release taken records; returns how many."""
        count = sum(reader.ack(ranges) for reader in self.readers.values())
        self._collect()
        return count

    def ack_by(self, by: str, ranges: Ranges) -> Acked:
        """Note what one collector has, and release what all have."""
        taken = [(seq, seq) for reader in self.readers.values() for seq in reader.sent(ranges)]
        aside = [part for first, last in ranges for part in self.copies.aside.within(first, last)]
        sent = Ranges(sorted([*taken, *aside]))
        released = self.copies.ack(by, sent)
        number = sum(reader.ack(released) for reader in self.readers.values())
        for reader in self.readers.values():
            reader.release_aside(self.copies.aside)
        self._collect()
        waiting = sent.without(released)
        return Acked(number, waiting, tuple(self.copies.lacking(waiting)))

    def set_aside(self, seqs: Iterable[int]) -> None:
        """Let taken records that some collectors have wait on disk alone, until `rewind`."""
        numbers = list(seqs)
        for reader in self.readers.values():
            self.copies.set_aside(reader.set_aside(numbers))

    def rewind(self) -> None:
        """Let everything be taken again that is not released."""
        self.copies.rewind()
        for reader in self.readers.values():
            reader.rewind()
        self._collect()

    def _collect(self) -> None:
        for reader in self.readers.values():
            self._freed += reader.finished()
