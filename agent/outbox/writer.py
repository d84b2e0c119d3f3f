"""What the outbox does on the disk: write groups, rotate segments, drop the oldest when there is no room."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path

from agent.outbox.buffer import Buffer
from agent.outbox.gaps import Why, why_of
from agent.outbox.message import Message
from agent.outbox.reader import Journal, Lost
from agent.outbox.recovery import Recovered
from agent.outbox.segment import KINDS, PAGE, Kind, Segment, Totals
from agent.outbox.segment_pool import SPARE, Pool
from wire.custody import CUSTODY
from wire.ranges import Ranges
from wire.topics import NODE_ITSELF

log = logging.getLogger(__name__)

MARK_EVERY_S = 1.0
_TELL_EVERY_S = 60.0  # that the outbox is full


class Committer:
    """The outbox's hand on the disk; one thread commits at a time, the outbox sees to that.

    `lock` guards attributes and is never held over disk work, `taking` is held by whoever reads.
    """

    def __init__(
        self,
        pool: Pool,
        state: Recovered,
        journals: dict[Kind, Journal],
        buffer: Buffer,
        *,
        lock: threading.Lock,
        taking: threading.Lock,
    ) -> None:
        self.torn_bytes = state.torn_bytes
        self.trouble = ""  # why nothing can be written now
        self._pool = pool
        self._journals = journals
        self._buffer = buffer
        self._lock = lock
        self._taking = taking
        self._generation = state.generation
        self._torn = state.torn
        self._freed: list[Segment] = []  # nothing waits in them
        self._condemned: list[Segment] = []  # dropped, but the disk does not say so yet
        self._groups = 0  # written since the start
        self._marked_at = time.monotonic()
        self._told_at = -_TELL_EVERY_S

    def commit(self, *, last: bool = False) -> bool:
        """Write what is buffered; whether something was written. `trouble` says what the disk has against it.

        `last`: note in any case how far it is acknowledged.
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
                if not self.trouble:  # while nothing can be written, gaps would only crowd out events
                    self._buffer.declare()
                # A gap goes ahead of data that need a file: what it names is in the next files to be used.
                events_first = bool(self._condemned or self.trouble)
                kind = self._buffer.next(events_first=events_first)
            if kind is None:
                return
            self._write(kind, events_first=events_first)

    def _write(self, kind: Kind, *, events_first: bool) -> None:
        """Write both kinds in the order of their numbers, each flushed once, in the segments there are.

        A kill on the way leaves the first of them: no number is missing below one that is there.
        """
        active = {each: journal.segments[-1] for each, journal in self._journals.items() if journal.segments}
        active[kind] = self._segment_for(kind)
        with self._lock:
            sure = self._buffer.floor
            rooms = {each: active[each].room if each in active else 0 for each in KINDS}
            runs = self._buffer.pop(rooms, events_first=events_first)
        touched = {each: active[each] for each, _ in runs}
        try:
            for each, group in runs:
                active[each].write(group, sure)
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
            known = [segment for each in touched for segment in self._journals[each].segments[:-1]]
            unsealed = [segment for segment in known if not segment.sealed]
            for segment in unsealed:
                segment.sealed = True
            self.collect()
        for segment in unsealed:
            with contextlib.suppress(OSError):  # without a seal the next open scans it, nothing else
                segment.seal()
            segment.close()

    def _segment_for(self, kind: Kind) -> Segment:
        """Where the next group goes: the active segment, or a new one when that is nearly full."""
        known = self._journals[kind].segments
        with self._lock:
            base, need, total = self._buffer.wants(kind)
            before = Totals(self.rows(kind), self._buffer.dropped[kind], self._buffer.dropped_rows[kind])
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
        """After a failed write nobody knows what the files hold behind `end`: nothing more goes there."""
        empty = [segment for segment in touched if not segment.count]
        with self._lock:
            self._buffer.put_back()
            for segment in touched:
                segment.give_up()
            for segment in empty:
                self._journals[segment.kind].remove(segment)
        for segment in empty:
            self._pool.give(segment.path)

    def collect(self) -> None:
        """Segments in which nothing waits any more are free from the next commit on. Needs the lock."""
        for journal in self._journals.values():
            self._freed += journal.finished()

    def _recycle(self) -> None:
        """Files in which nothing waits become free, dropped ones once it is on disk that they were."""
        with self._lock:
            free, self._freed = self._freed, []
            if self._buffer.losses.lowest() is None:
                free += self._condemned
                self._condemned = []
        for segment in free:
            segment.low, segment.done = segment.end, segment.count
            with contextlib.suppress(OSError):  # without the mark it is sent once more after a restart
                segment.mark(segment.note(segment.before.dropped, segment.before.dropped_rows))
            segment.close()
            self._pool.give(segment.path)

    def _make_spare(self) -> None:
        """Grow, or drop the oldest, data first, so that the next segments have files."""
        while len(self._pool) + len(self._condemned) < SPARE:
            why: Why = "quota" if self._pool.full else "disk"
            try:
                self._pool.grow()
            except OSError as error:
                log.debug("no more segments: %s", error.strerror)
                victims = (self._journals[kind].segments for kind in KINDS)
                victim = next((known[0] for known in victims if len(known) > 1), None)
                if victim is None:
                    return
                self._drop(victim, why)

    def _file(self) -> Path:
        try:
            return self._pool.get()
        except OSError:
            if not self._condemned:
                raise
            # What it held is declared in the next write; only a crash before that leaves it undeclared.
            condemned = self._condemned.pop(0)
            condemned.close()
            return condemned.path

    def _drop(self, victim: Segment, why: Why) -> None:
        evicted = self._journals[victim.kind].evict(victim)
        if evicted is None:  # the last acknowledgement came first
            self._recycle()
            return
        lost = evicted.lost
        if time.monotonic() > self._told_at + _TELL_EVERY_S:
            self._told_at = time.monotonic()
            log.warning(
                "outbox full (%s): the oldest %d %s messages are dropped", why, len(lost), victim.kind
            )
        with self._lock:
            self._buffer.losses.add(why, ((each.seq, each.seq) for each in lost))
            for gap in evicted.gaps:
                self._buffer.losses.add(why_of(gap), gap.lost)
            self._buffer.count_dropped(victim.kind, why, len(lost), sum(each.rows for each in lost))
            for statement in evicted.statements:  # what was taken is known as long as anything is
                self._buffer.add(Message("event", NODE_ITSELF, CUSTODY, statement))
            self._condemned.append(victim)
        for each in evicted.damage:
            self.damaged(victim.kind, each)

    def damaged(self, kind: Kind, lost: Lost) -> None:
        """Declare what a damaged stretch held: numbers of this kind, so none that another record has."""
        log.warning("%d damaged bytes skipped in the outbox", lost.size)
        try:
            known = self._journals["event" if kind == "data" else "data"].present(lost.first, lost.last)
        except OSError:  # declared too widely: what arrives all the same is taken out of a gap again
            known = Ranges()
        known.update(self._torn)
        with self._lock:
            self.torn_bytes += lost.size
            self._buffer.losses.add("damaged", known.missing(lost.first, lost.last))

    def _mark(self) -> None:
        self._marked_at = time.monotonic()
        with self._taking, self._lock:  # what a reader skipped as damaged is declared before it is passed
            if self._buffer.losses.lowest() is not None:
                return
            for journal in self._journals.values():
                journal.settle()
            dropped, dropped_rows = self._buffer.dropped, self._buffer.dropped_rows
            moved = [
                (segment, segment.note(dropped[segment.kind], dropped_rows[segment.kind]))
                for journal in self._journals.values()
                for segment in journal.segments
                if segment.marked != (segment.low, segment.end, dropped[segment.kind])
                and (segment.low > PAGE or segment is journal.segments[-1])
            ]
        for segment, note in moved:
            with contextlib.suppress(OSError):
                segment.mark(note)

    def close(self) -> None:
        """Release the files. Needs the lock."""
        known = [segment for journal in self._journals.values() for segment in journal.segments]
        for segment in (*known, *self._freed, *self._condemned):
            segment.close()

    def rows(self, kind: Kind) -> int:
        """How many rows of a kind were ever committed. Needs the lock."""
        known = self._journals[kind].segments
        return known[-1].before.rows + known[-1].rows if known else 0

    def _failed(self, error: OSError) -> None:
        if not self.trouble:
            log.error("the outbox cannot write: %s; the newest messages wait in memory", error.strerror)
        self.trouble = error.strerror or str(error)

    def _works(self) -> None:
        if self.trouble:
            log.warning("the outbox can write again")
        self.trouble = ""
