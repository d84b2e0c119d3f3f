"""Writer of the outbox: writes groups, rotates segments, drops the oldest segments when the disk is full."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from pathlib import Path

from agent.outbox.buffer import Buffer
from agent.outbox.gaps import GapReason, reason_of
from agent.outbox.message import Message
from agent.outbox.reader import DamagedStretch, Reader
from agent.outbox.recovery import Recovered
from agent.outbox.segment import KINDS, PAGE, Kind, Segment, SegmentTotals
from agent.outbox.segment_pool import SPARE, SegmentPool
from wire.custody import CUSTODY
from wire.ranges import Ranges
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

MARK_EVERY_S = 1.0
_LOG_EVERY_S = 60.0  # between two warnings that the outbox is full


class Writer:
    """Writes the outbox's files. The outbox ensures that one thread commits at a time.

    `lock` guards attributes and is never held over disk work. A reading thread holds `taking`.
    """

    def __init__(
        self,
        pool: SegmentPool,
        state: Recovered,
        readers: dict[Kind, Reader],
        buffer: Buffer,
        *,
        lock: threading.Lock,
        taking: threading.Lock,
    ) -> None:
        self.torn_bytes = state.torn_bytes
        self.trouble = ""  # the error of the disk while nothing can be written; "" if everything works
        self.trouble_code = ""
        self._pool = pool
        self._readers = readers
        self._buffer = buffer
        self._lock = lock
        self._taking = taking
        self._generation = state.generation
        self._torn = state.torn
        self._freed: list[Segment] = []  # nothing waits in them: their files can be reused
        self._dropped: list[Segment] = []  # dropped, but their gap events are not on disk yet
        self._groups = 0  # written since the start
        self._marked_at = time.monotonic()
        self._logged_at = -_LOG_EVERY_S

    def commit(self, *, last: bool = False) -> bool:
        """Write what is buffered; returns whether something was written. `trouble` holds the disk's error.

        With `last`, always write the marks of what is acknowledged.
        """
        groups = self._groups
        try:
            self._drain()
        except OSError as error:
            self._failed(error)
        else:
            self._works()
        if last or time.monotonic() >= self._marked_at + MARK_EVERY_S:
            self._mark()
        return self._groups > groups

    def _drain(self) -> None:
        while True:
            self._recycle()
            self._make_spare()
            with self._lock:
                if not self.trouble:  # while nothing can be written, gap events would only displace events
                    self._buffer.declare()
                # Gap events go before data that need a file: that file holds the numbers they declare.
                events_first = bool(self._dropped or self.trouble)
                kind = self._buffer.next(events_first=events_first)
            if kind is None:
                return
            self._write(kind, events_first=events_first)

    def _write(self, kind: Kind, *, events_first: bool) -> None:
        """Write both kinds in the order of their numbers into the present segments, and flush each once.

        A kill leaves the first of these numbers on disk: no number below a present one is missing.
        """
        active = {each: reader.segments[-1] for each, reader in self._readers.items() if reader.segments}
        active[kind] = self._segment_for(kind)
        with self._lock:
            settled = self._buffer.settled
            rooms = {each: active[each].room if each in active else 0 for each in KINDS}
            runs = self._buffer.pop(rooms, events_first=events_first)
        touched = {each: active[each] for each, _ in runs}
        try:
            for each, group in runs:
                active[each].write(group, settled)
            for segment in touched.values():
                segment.flush()
        except OSError:
            self._abandon(list(touched.values()))
            raise
        self._works()
        with self._lock:
            for segment in touched.values():
                segment.publish()
            self._buffer.written()
            self._groups += bool(runs)
            known = [segment for each in touched for segment in self._readers[each].segments[:-1]]
            unsealed = [segment for segment in known if not segment.sealed]
            for segment in unsealed:
                segment.sealed = True
            self.collect()
        for segment in unsealed:
            with contextlib.suppress(OSError):  # without a seal the next open scans the segment
                segment.seal()
            segment.close()

    def _segment_for(self, kind: Kind) -> Segment:
        """The segment for the next group: the active one, or a new one when that is nearly full."""
        known = self._readers[kind].segments
        with self._lock:
            base, need, total = self._buffer.first_waiting(kind)
            before = SegmentTotals(
                self.rows(kind), self._buffer.dropped[kind], self._buffer.dropped_rows[kind]
            )
        if known and (known[-1].room >= total or known[-1].room >= max(need, known[-1].size // 8)):
            return known[-1]
        path = self._file()
        segment = Segment(
            path, kind, self._buffer.ep, self._generation + 1, base, self._pool.segment_size, before
        )
        segment.last_seq = base - 1
        try:
            segment.begin()
        except OSError:
            segment.close()
            self._pool.give(path)
            raise
        self._generation += 1
        with self._lock:
            known.append(segment)
        return segment

    def _abandon(self, touched: list[Segment]) -> None:
        """Stop using segments after a failed write: what they hold after `end` is unknown."""
        empty = [segment for segment in touched if not segment.count]
        with self._lock:
            self._buffer.put_back()
            for segment in touched:
                segment.give_up()
            for segment in empty:
                self._readers[segment.kind].remove(segment)
        for segment in empty:
            self._pool.give(segment.path)

    def collect(self) -> None:
        """Free the segments in which nothing waits; the next commit reuses their files. Needs the lock."""
        for reader in self._readers.values():
            self._freed += reader.finished()

    def _recycle(self) -> None:
        """Return free files to the pool; dropped ones only when their gap events are on disk."""
        with self._lock:
            free, self._freed = self._freed, []
            if self._buffer.gaps.lowest() is None:
                free += self._dropped
                self._dropped = []
        for segment in free:
            segment.low, segment.done = segment.end, segment.count
            with contextlib.suppress(OSError):  # without the mark its records are sent again after a restart
                segment.mark(segment.note(segment.before.dropped, segment.before.dropped_rows))
            segment.close()
            self._pool.give(segment.path)

    def _make_spare(self) -> None:
        """Ensure files for the next segments: add some, or drop the oldest segment, data first."""
        while len(self._pool) + len(self._dropped) < SPARE:
            why: GapReason = "quota" if self._pool.full else "disk"
            try:
                self._pool.grow()
            except OSError as error:
                log.debug("no more segments: %s", error.strerror)
                victims = (self._readers[kind].segments for kind in KINDS)
                victim = next((known[0] for known in victims if len(known) > 1), None)
                if victim is None:
                    return
                self._drop(victim, why)

    def _file(self) -> Path:
        try:
            return self._pool.get()
        except OSError:
            if not self._dropped:
                raise
            # The next write declares the records it held. A crash before that leaves them undeclared.
            dropped = self._dropped.pop(0)
            dropped.close()
            return dropped.path

    def _drop(self, victim: Segment, why: GapReason) -> None:
        evicted = self._readers[victim.kind].evict(victim)
        if evicted is None:  # its last acknowledgement came in time
            self._recycle()
            return
        lost = evicted.lost
        if time.monotonic() > self._logged_at + _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.warning(
                "outbox full (%s): the oldest %d %s messages are dropped", why, len(lost), victim.kind
            )
        with self._lock:
            self._buffer.gaps.add(why, ((each.seq, each.seq) for each in lost))
            for gap in evicted.gaps:
                self._buffer.gaps.add(reason_of(gap), gap.lost)
            self._buffer.count_dropped(victim.kind, why, len(lost), sum(each.rows for each in lost))
            for statement in evicted.statements:  # kept as long as possible: they prove what was taken
                self._buffer.add(Message("event", NODE_ITSELF, CUSTODY, statement))
            self._dropped.append(victim)
        for each in evicted.damage:
            self.damaged(victim.kind, each)

    def damaged(self, kind: Kind, lost: DamagedStretch) -> None:
        """Declare the numbers of a damaged stretch lost, except those that are on disk elsewhere."""
        log.warning("%d damaged bytes skipped in the outbox", lost.size)
        try:
            known = self._readers["event" if kind == "data" else "data"].present(lost.first, lost.last)
        except OSError:  # too many numbers are declared: those that arrive are taken out of the gap again
            known = Ranges()
        known.update(self._torn)
        with self._lock:
            self.torn_bytes += lost.size
            self._buffer.gaps.add("damaged", known.missing(lost.first, lost.last))

    def _mark(self) -> None:
        self._marked_at = time.monotonic()
        with (
            self._taking,
            self._lock,
        ):  # skipped damage is declared before the mark passes it
            if self._buffer.gaps.lowest() is not None:
                return
            for reader in self._readers.values():
                reader.settle()
            dropped, dropped_rows = self._buffer.dropped, self._buffer.dropped_rows
            moved = [
                (segment, segment.note(dropped[segment.kind], dropped_rows[segment.kind]))
                for reader in self._readers.values()
                for segment in reader.segments
                if segment.marked != (segment.low, segment.end, dropped[segment.kind])
                and (segment.low > PAGE or segment is reader.segments[-1])
            ]
        for segment, note in moved:
            with contextlib.suppress(OSError):
                segment.mark(note)

    def close(self) -> None:
        """Close all files. Needs the lock."""
        known = [segment for reader in self._readers.values() for segment in reader.segments]
        for segment in (*known, *self._freed, *self._dropped):
            segment.close()

    def rows(self, kind: Kind) -> int:
        """The number of rows of a kind that were ever committed. Needs the lock."""
        known = self._readers[kind].segments
        return known[-1].before.rows + known[-1].rows if known else 0

    def _failed(self, error: OSError) -> None:
        if not self.trouble:
            log.error("the outbox cannot write: %s; the newest messages wait in memory", error.strerror)
        self.trouble = error.strerror or str(error)
        self.trouble_code = "disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk-failed"

    def _works(self) -> None:
        if self.trouble:
            log.warning("the outbox can write again")
        self.trouble = self.trouble_code = ""
