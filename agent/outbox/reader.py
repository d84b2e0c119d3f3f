"""Reader of the outbox: gives out the records of one kind and keeps them until they are acknowledged."""

from __future__ import annotations

import errno
import os
import threading
from typing import NamedTuple

import msgspec
from msgspec import Struct

from agent.outbox.cursors import ReadCursors
from agent.outbox.gaps import GAP
from agent.outbox.segment import MAX_RECORD, OVERHEAD, PAGE, UNSYNCED, Found, Kind, Segment
from wire.custody import CUSTODY
from wire.messages import Event
from wire.ranges import Ranges
from wire.topics import NODE_ITSELF

_CHUNK = 262_144  # bytes read at once
_GAP_TAIL = f"{NODE_ITSELF}/{GAP}".encode()
_STATEMENT_TAIL = f"{NODE_ITSELF}/{CUSTODY}".encode()
_PERMANENT = (errno.EIO, errno.ENOENT, errno.ESTALE, errno.EBADMSG)


class Record(Struct, frozen=True, gc=False):
    """One committed message, ready to be sent; `tail` is `device/name`, `at_ms` the time of its append.

    `offset_ns` is wall clock minus monotonic clock at that time, `boot` names the run of the machine. Both
    are needed to correct the times in an `unsynced` body when the clock is set.
    """

    seq: int
    cls: Kind
    tail: str
    body: bytes
    at_ms: int
    offset_ns: int
    boot: int
    rows: int
    unsynced: bool


class DamagedStretch(NamedTuple):
    """A stretch of bytes that cannot be read; its records had seqs from `first` to `last`."""

    size: int
    first: int
    last: int


class Evicted(NamedTuple):
    """The unacknowledged records of an evicted segment, the gap events among them, and its damage.

    `statements` are its newest unread custody statements, up to a quarter of the segment.
    """

    lost: list[Found]
    gaps: list[Event]
    statements: list[Event]
    damage: list[DamagedStretch]


class _Taken(NamedTuple):
    """A record that was read and not acknowledged yet; `before` counts the records before it."""

    segment: Segment
    found: Found
    before: int


class Reader:
    """Reads the segments of one kind, oldest first; the writer appends to the last one.

    `lock` guards every attribute; it is held for microseconds and never while the disk works. The outbox
    ensures that one thread takes at a time.
    """

    def __init__(self, kind: Kind, lock: threading.Lock, segments: list[Segment]) -> None:
        self.kind: Kind = kind
        self.segments = segments
        self._lock = lock
        self._taken: dict[int, _Taken] = {}  # by seq, in the order of reading
        self._cursors = ReadCursors(segments)

    def take(
        self, messages: int, size: int, *, backlog: bool = False, below: int | None = None
    ) -> tuple[list[Record], list[DamagedStretch]]:
        """The next records, and the damaged stretches before them.

        They come from the newest cursor, or with `backlog` from the oldest overtaken one. `below` limits them
        to smaller seqs.

        Raises:
            OSError: nothing was taken. An error after the first record ends the reading instead.
        """
        records: list[Record] = []
        lost: list[DamagedStretch] = []
        while len(records) < messages and size > 0:
            with self._lock:
                cursor = self._cursors.oldest_overtaken() if backlog else self._cursors.newest
                place = self._cursors.place(cursor) if cursor is not None else None
            if cursor is None or place is None:
                break
            segment, at, end = place
            try:
                data = read(segment, at, min(end, at + _CHUNK))
                found, upto, damage, done = _parse(
                    segment, data, at, end, messages - len(records), size, below
                )
            except OSError:
                if records or lost:
                    break  # a record is given out once: return these, the next call meets the error again
                raise
            with self._lock:
                if segment.gone:  # dropped during the read: these bytes may belong to its successor
                    continue
                for each in found:
                    if each.seq in self._taken:
                        # a failed write reached the disk after all, and was repeated elsewhere
                        segment.acked += 1
                    else:
                        self._taken[each.seq] = _Taken(segment, each, cursor.passed)
                        records.append(_record(segment, data, each, each.at - at))
                    cursor.passed += 1
                segment.seen += len(found)
                cursor.at = upto
            lost += damage
            size -= sum(each.size for each in found)
            if done:
                break
        return records, lost

    def overtake(self) -> bool:
        """Move all committed, unread records to the backlog. Needs the lock."""
        return self._cursors.split()

    def is_behind(self, size: int) -> bool:
        """Whether more than `size` bytes wait to be read, not counting the backlog. Needs the lock."""
        return self._cursors.is_behind(size)

    def next_overtaken(self) -> int | None:
        """The seq of the next record of the backlog, 0 if damage comes first, None without a backlog.

        Raises OSError.
        """
        with self._lock:
            cursor = self._cursors.oldest_overtaken()
            place = self._cursors.place(cursor) if cursor is not None else None
        if place is None:
            return None
        found = _peek(*place)
        return 0 if found is None else found.seq

    def ack(self, ranges: Ranges) -> int:
        """Release taken records; returns how many. Needs the lock."""
        known = [seq for seq in self._taken if seq in ranges]
        for seq in known:
            self._taken.pop(seq).segment.acked += 1
        return len(known)

    def finished(self) -> list[Segment]:
        """Remove and return the segments in which nothing waits. Needs the lock."""
        done = [
            segment
            for segment in self._cursors.touched()
            if segment.sealed and segment.acked >= segment.seen and not self._cursors.parts(segment)
        ]
        for segment in done:
            segment.low, segment.done = segment.end, segment.count
            self.remove(segment)
        return done

    def evict(self, segment: Segment) -> Evicted | None:
        """Remove the oldest segment and return what waited in it; None if nothing waited. Raises OSError."""
        data = read(segment, 0, segment.end)
        with self._lock:
            if segment.gone:
                return None
            waiting = {seq for seq, taken in self._taken.items() if taken.segment is segment}
            for seq in waiting:
                del self._taken[seq]
            unread = [(start, end) for start, end, _ in self._cursors.parts(segment)]
            self.remove(segment)
        damage: list[tuple[int, int]] = []
        every = segment.walk(data, PAGE, damage)
        lost = [
            each
            for each in every
            if each.seq in waiting or any(start <= each.at < end for start, end in unread)
        ]
        gaps = [event for each in lost if (event := _event_in(data, each, _GAP_TAIL))]
        statements: list[Event] = []
        room = segment.size // 4
        for each in reversed(lost):
            if each.seq not in waiting and (event := _event_in(data, each, _STATEMENT_TAIL)):
                room -= each.size
                if room < 0:
                    break
                statements.insert(0, event)
        damaged = (
            [DamagedStretch(sum(size for _, size in damage), segment.base, segment.last_seq)]
            if damage
            else []
        )
        return Evicted(lost, gaps, statements, damaged)

    def present(self, first: int, last: int) -> Ranges:
        """The seqs from `first` to `last` that are on disk in this kind. Raises OSError."""
        with self._lock:
            every = [each for each in self.segments if each.base <= last and first <= each.last_seq]
        found = Ranges()
        for segment in every:
            data = read(segment, 0, segment.end)
            found.update((each.seq, each.seq) for each in segment.walk(data, PAGE, []))
        return found

    def remove(self, segment: Segment) -> None:
        """Forget a segment; reading continues in the next one. Needs the lock.

        Its descriptor stays open: the writer may be writing there in another thread, and closes it later.
        """
        segment.gone = True
        self.segments.remove(segment)

    def settle(self) -> None:
        """Update `low` and `done` of each segment. Needs the lock."""
        oldest: dict[int, _Taken] = {}
        for taken in self._taken.values():
            known = oldest.setdefault(taken.segment.generation, taken)
            if taken.found.at < known.found.at:  # newest records are read before the records they overtook
                oldest[taken.segment.generation] = taken
        for segment in self._cursors.touched():
            places = [(start, passed) for start, _, passed in self._cursors.parts(segment)]
            if first := oldest.get(segment.generation):
                places.append((first.found.at, first.before))
            segment.low, segment.done = min(places, default=(segment.end, segment.count))

    def oldest(self) -> Found | None:
        """The oldest record that waits; may read a few bytes from the disk."""
        with self._lock:
            taken = min(self._taken, default=None)
            found = [] if taken is None else [self._taken[taken].found]
            places = [place for cursor in self._cursors if (place := self._cursors.place(cursor))]
        for place in places[:1]:  # places are in the order of their records
            try:
                unread = _peek(*place)
            except OSError:
                continue
            found += [] if unread is None else [unread]
        return min(found, key=lambda each: each.seq, default=None)


def _peek(segment: Segment, at: int, end: int) -> Found | None:
    return segment.parse(read(segment, at, min(end, at + MAX_RECORD)), 0, at)


def read(segment: Segment, start: int, end: int) -> bytes:
    """The bytes `start..end` of a segment's file, with zeros where the disk cannot read them.

    Raises OSError only for temporary errors, such as too many open files.
    """
    try:
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)  # another thread may close the segment's own
    except OSError as error:
        if error.errno not in _PERMANENT:
            raise
        return bytes(end - start)
    try:
        return os.pread(fd, end - start, start).ljust(end - start, b"\0")
    except OSError as error:
        if error.errno not in _PERMANENT:
            raise
        return b"".join(_page(fd, at, min(PAGE, end - at)) for at in range(start, end, PAGE))
    finally:
        os.close(fd)


def _page(fd: int, at: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, at).ljust(size, b"\0")
    except OSError:
        return bytes(size)  # a bad sector costs its own records, not those after it


def _parse(
    segment: Segment, data: bytes, start: int, end: int, messages: int, size: int, below: int | None
) -> tuple[list[Found], int, list[DamagedStretch], bool]:
    """The records from `start` on, up to a count, a size, a seq or damage.

    Returns the records, the offset to continue at, the damage skipped, and whether `below` ended the reading.
    """
    found: list[Found] = []
    at = start
    while at < start + len(data) and len(found) < messages and size > 0:
        each = segment.parse(data, at - start, start)
        if each is None:
            if at + MAX_RECORD > start + len(data) and start + len(data) < end:
                break  # cut off by the chunk, not by damage
            upto, lost = _skip(segment, at, end)
            return found, upto, [lost], False
        if below is not None and each.seq >= below:
            return found, at, [], True
        found.append(each)
        at += each.size
        size -= each.size
    return found, at, [], False


def _skip(segment: Segment, at: int, end: int) -> tuple[int, DamagedStretch]:
    """The offset of the next valid record after damage at `at` (`end` at most), and the stretch before it."""
    data = read(segment, 0, segment.end)
    first, last, upto = segment.base, segment.last_seq, end
    for each in segment.walk(data, PAGE, []):
        if each.at > at:
            last, upto = each.seq - 1, min(each.at, end)
            break
        first = each.seq + 1
    return upto, DamagedStretch(upto - at, first, last)


def _record(segment: Segment, data: bytes, found: Found, at: int) -> Record:
    begin = at + OVERHEAD
    body = begin + found.tail
    return Record(
        found.seq,
        segment.kind,
        data[begin:body].decode("ascii", "replace"),
        data[body : at + found.size],
        found.at_ms,
        found.offset_ns,
        found.boot,
        found.rows,
        bool(found.flags & UNSYNCED),
    )


def _event_in(data: bytes, found: Found, tail: bytes) -> Event | None:
    body = found.at + OVERHEAD + found.tail
    if data[found.at + OVERHEAD : body] != tail:
        return None
    try:
        return msgspec.json.decode(data[body : found.at + found.size], type=Event)
    except msgspec.MsgspecError:  # written by another version: it counts as any other lost record
        return None
