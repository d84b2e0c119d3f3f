"""The segments of one kind in order: where reading stands, what was taken and waits to be acknowledged."""

from __future__ import annotations

import errno
import os
import threading
from typing import NamedTuple

import msgspec
from msgspec import Struct

from agent.losses import TYPE
from agent.segments import MAX_RECORD, OVERHEAD, PAGE, UNSYNCED, Found, Kind, Segment
from wire.messages import Event
from wire.ranges import Ranges
from wire.topics import NODE_ITSELF

_CHUNK = 262_144  # bytes read at once
_GAP_TAIL = f"{NODE_ITSELF}/{TYPE}".encode()
_FOR_EVER = (errno.EIO, errno.ENOENT, errno.ESTALE, errno.EBADMSG)


class Record(Struct, frozen=True, gc=False):
    """One committed message on its way out; `tail` is `device/name`, `at_ms` when it was appended.

    `offset_ns` is wall clock minus monotonic clock at that time, `boot` names the run of the machine: with
    them the times in an `unsynced` body can be corrected once the clock is set.
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


class Lost(NamedTuple):
    """A stretch of bytes that cannot be read; what was in it had seqs from `first` to `last`."""

    size: int
    first: int
    last: int


class Evicted(NamedTuple):
    """What an evicted segment held that was not acknowledged: records, gaps among them, damage on the way."""

    lost: list[Found]
    gaps: list[Event]
    damage: list[Lost]


class _Taken(NamedTuple):
    """A record that was read and not acknowledged yet; `before` counts those in front of it."""

    segment: Segment
    found: Found
    before: int


class Journal:
    """All segments of one kind, oldest first; the last one is written to.

    `lock` guards every attribute; it is held for microseconds and never while the disk works. The outbox
    sees to it that one thread takes at a time.
    """

    def __init__(self, kind: Kind, lock: threading.Lock, segments: list[Segment]) -> None:
        self.kind: Kind = kind
        self.segments = segments
        self._lock = lock
        self._taken: dict[int, _Taken] = {}  # by seq, in the order of reading
        self._reading: Segment | None = None
        self._at = PAGE  # where reading stands in it
        self._passed = 0  # how many of its records lie before

    def take(self, messages: int, size: int) -> tuple[list[Record], list[Lost]]:
        """The next records, and what turned out to be damaged on the way to them. Raises OSError."""
        records: list[Record] = []
        lost: list[Lost] = []
        while len(records) < messages and size > 0:
            with self._lock:
                segment, at, end = self._next()
            if segment is None:
                break
            data = read(segment, at, min(end, at + _CHUNK))
            found, upto, damage = _parse(segment, data, at, end, messages - len(records), size)
            with self._lock:
                if segment.gone:  # dropped while we read: these may be bytes of its successor
                    continue
                for each in found:
                    if each.seq in self._taken:
                        # a write that failed reached the disk all the same, and was repeated elsewhere
                        segment.acked += 1
                    else:
                        self._taken[each.seq] = _Taken(segment, each, self._passed)
                        records.append(_record(segment, data, each, each.at - at))
                    self._passed += 1
                self._at = upto
            lost += damage
            size -= sum(each.size for each in found)
        return records, lost

    def ack(self, ranges: Ranges) -> int:
        """Let taken records go; returns how many. Needs the lock."""
        known = [seq for seq in self._taken if seq in ranges]
        for seq in known:
            self._taken.pop(seq).segment.acked += 1
        return len(known)

    def finished(self) -> list[Segment]:
        """Remove the segments in which nothing waits any more. Needs the lock."""
        done: list[Segment] = []
        for segment in self.segments:
            if not self._is_read(segment):
                break
            if segment.sealed and segment.acked >= segment.count:
                segment.low, segment.done = segment.end, segment.count
                done.append(segment)
        for segment in done:
            self.remove(segment)
        return done

    def evict(self, segment: Segment) -> Evicted | None:
        """Remove the oldest segment with what waits in it; None if nothing did any more. Raises OSError."""
        data = read(segment, 0, segment.end)
        with self._lock:
            if segment.gone:
                return None
            waiting = {seq for seq, taken in self._taken.items() if taken.segment is segment}
            for seq in waiting:
                del self._taken[seq]
            if self._is_read(segment):
                unread = segment.end
            else:
                unread = self._at if self._reading is segment else segment.low
            self.remove(segment)
        damage: list[tuple[int, int]] = []
        every = segment.walk(data, PAGE, damage)
        lost = [each for each in every if each.at >= unread or each.seq in waiting]
        gaps = [gap for each in lost if (gap := _gap_in(data, each))]
        hurt = [Lost(sum(size for _, size in damage), segment.base, segment.last_seq)] if damage else []
        return Evicted(lost, gaps, hurt)

    def present(self, first: int, last: int) -> Ranges:
        """Which of these seqs are on disk in this kind. Raises OSError."""
        with self._lock:
            every = [each for each in self.segments if each.base <= last and first <= each.last_seq]
        found = Ranges()
        for segment in every:
            data = read(segment, 0, segment.end)
            found.update((each.seq, each.seq) for each in segment.walk(data, PAGE, []))
        return found

    def remove(self, segment: Segment) -> None:
        """Forget a segment; reading goes on in the next one. Needs the lock."""
        segment.gone = True
        at = self.segments.index(segment)
        del self.segments[at]
        if self._reading is segment:
            self._reading = None
            if at < len(self.segments):
                self._turn_to(self.segments[at])
        segment.close()

    def settle(self) -> None:
        """Bring `low` and `done` of each segment up to date. Needs the lock."""
        oldest: dict[int, _Taken] = {}
        for taken in self._taken.values():
            oldest.setdefault(taken.segment.generation, taken)
        for segment in self.segments:
            if first := oldest.get(segment.generation):
                segment.low, segment.done = first.found.at, first.before
            elif self._is_read(segment):
                segment.low, segment.done = segment.end, segment.count
            elif self._reading is segment:
                segment.low, segment.done = self._at, self._passed

    def oldest(self) -> Found | None:
        """The oldest record that waits; may read a few bytes."""
        with self._lock:
            if self._taken:
                return next(iter(self._taken.values())).found
            segment, at, end = self._next()
        if segment is None:
            return None
        try:
            return segment.parse(read(segment, at, min(end, at + MAX_RECORD)), 0, at)
        except OSError:
            return None

    def _is_read(self, segment: Segment) -> bool:
        if self._reading is None:
            return False
        if self._reading is segment:
            return self._at >= segment.end
        return segment.generation < self._reading.generation

    def _next(self) -> tuple[Segment | None, int, int]:
        while self.segments:
            segment = self._reading
            if segment is None:
                self._turn_to(self.segments[0])
                continue
            if self._at < segment.end:
                return segment, self._at, segment.end
            if not segment.sealed:
                break
            segment.count = self._passed  # fewer than it was sealed with where some could not be read
            self._turn_to(self.segments[self.segments.index(segment) + 1])
        return None, 0, 0

    def _turn_to(self, segment: Segment) -> None:
        self._reading, self._at, self._passed = segment, segment.low, segment.done


def read(segment: Segment, start: int, end: int) -> bytes:
    """The bytes `start..end` of a segment's file, zeros where the disk has none for us.

    Raises OSError only for what may pass, as too many open files.
    """
    try:
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)  # its own: others may close theirs meanwhile
    except OSError as error:
        if error.errno not in _FOR_EVER:
            raise
        return bytes(end - start)
    try:
        return os.pread(fd, end - start, start).ljust(end - start, b"\0")
    except OSError as error:
        if error.errno not in _FOR_EVER:
            raise
        return b"".join(_page(fd, at, min(PAGE, end - at)) for at in range(start, end, PAGE))
    finally:
        os.close(fd)


def _page(fd: int, at: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, at).ljust(size, b"\0")
    except OSError:
        return bytes(size)  # a bad sector costs the records it holds, not all that follow


def _parse(
    segment: Segment, data: bytes, start: int, end: int, messages: int, size: int
) -> tuple[list[Found], int, list[Lost]]:
    """Records from `start` on, up to a number, a size or a damage; where to go on; what was skipped."""
    found: list[Found] = []
    at = start
    while at < start + len(data) and len(found) < messages and size > 0:
        each = segment.parse(data, at - start, start)
        if each is None:
            if at + MAX_RECORD > start + len(data) and start + len(data) < end:
                break  # cut off by the chunk, not by damage
            upto, lost = _skip(segment, at, end)
            return found, upto, [lost]
        found.append(each)
        at += each.size
        size -= each.size
    return found, at, []


def _skip(segment: Segment, at: int, end: int) -> tuple[int, Lost]:
    """Find the next valid record after a damage at `at`: its offset, and what lies in between."""
    data = read(segment, 0, end)
    first, last, upto = segment.base, segment.last_seq, end
    for each in segment.walk(data, PAGE, []):
        if each.at > at:
            last, upto = each.seq - 1, each.at
            break
        first = each.seq + 1
    return upto, Lost(upto - at, first, last)


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


def _gap_in(data: bytes, found: Found) -> Event | None:
    body = found.at + OVERHEAD + found.tail
    if data[found.at + OVERHEAD : body] != _GAP_TAIL:
        return None
    return msgspec.json.decode(data[body : found.at + found.size], type=Event)
