"""What is taken is on disk: numbered messages in segments, committed in groups, kept until acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.buffer import Buffer
from agent.journal import Journal, Lost, Record
from agent.losses import Why, why_of
from agent.message import Message
from agent.outbox_types import OutboxSettings, OutboxStats
from agent.pool import SPARE, Pool
from agent.recovery import Recovered, recover
from agent.segments import KINDS, PAGE, Found, Kind, Segment, Totals
from agent.tally import Part
from wire import custody
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.errors import TryAgain, unwritable
from wire.ranges import Range, Ranges
from wire.topics import NODE_ITSELF

__all__ = ["Outbox", "OutboxSettings", "OutboxStats", "Record", "keep_committing"]

log = logging.getLogger(__name__)

_MARK_EVERY_S = 1.0
_RETRY_S = 1.0
_TELL_EVERY_S = 60.0  # that the outbox is full


class Outbox:
    """Thread-safe. `append` is for the event loop and never waits for the disk; `commit` does, elsewhere.

    Use `open`. `ep` is the random id of this outbox, part of every message's identity.
    """

    def __init__(self, folder: int, pool: Pool, state: Recovered, clock: Clock) -> None:
        self.ep = state.ep
        self.torn_bytes = state.torn_bytes
        self.trouble = ""
        self._folder = folder
        self._pool = pool
        self._clock = clock
        self._generation = state.generation
        self._torn = state.torn
        self._lock = threading.Lock()  # guards attributes; held for microseconds, never over disk work
        self._disk = threading.Lock()  # one commits
        self._taking = threading.Lock()  # one takes
        self._journals = {kind: Journal(kind, self._lock, state.segments[kind]) for kind in KINDS}
        self._buffer = Buffer(state.ep, state.head, pool.segment_size // 2, clock)
        self._buffer.losses.add("torn", state.torn)
        self._buffer.losses.add("damaged", state.damaged)
        found: dict[Why, list[Range]] = {"torn": state.torn, "damaged": state.damaged}
        for why, lost in found.items():
            if lost:  # of which class they were nobody knows
                self._buffer.drops.setdefault("unknown", {})[why] = (sum(b - a + 1 for a, b in lost), 0)
        for kind in KINDS:
            self._buffer.dropped[kind] = state.dropped[kind].dropped
            self._buffer.dropped_rows[kind] = state.dropped[kind].dropped_rows
        self._freed: list[Segment] = []  # nothing waits in them
        self._condemned: list[Segment] = []  # dropped, but the disk does not say so yet
        self._groups = 0  # written since the start
        self._marked_at = time.monotonic()
        self._told_at = -_TELL_EVERY_S
        self._on_append: Callable[[], object] = _nothing
        self._on_commit: Callable[[], object] = _nothing

    @classmethod
    def open(cls, folder: Path, settings: OutboxSettings, clock: Clock) -> Outbox:
        """Open or create the outbox in `folder`; torn and corrupted files are read as far as they go.

        Blocks for tens of milliseconds. A full disk is no error: see `OutboxStats.trouble`.

        Raises:
            ConfigError: the folder cannot be created, read or written.
            TryAgain: another process has it open, or the disk is full.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unwritable(f"the outbox in {folder}", error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = recover(folder)
            pool = Pool(folder, settings.max_mb * 1_000_000, state.free)
        except BlockingIOError as error:
            os.close(fd)
            raise TryAgain(f"{folder} is open in another process: stop that agent first") from error
        except OSError as error:
            os.close(fd)
            raise unwritable(f"the outbox in {folder}", error) from error
        return cls(fd, pool, state, clock)

    @property
    def head(self) -> int:
        """The highest seq given, on disk or not."""
        return self._buffer.head

    def append(self, message: Message) -> int:
        """Number, stamp and buffer a message; returns its seq. It counts as taken only after `commit`.

        Writes `ep` and `seq` into the body. Never raises for what the message holds, never waits for the
        disk: what cannot be kept is counted and declared in a gap.
        """
        with self._lock:
            seq = self._buffer.add(message)
            first = len(self._buffer) == 1
            self._buffer.shed("disk" if self.trouble else "overload")
        if first:
            self._on_append()
        return seq

    def commit(self) -> bool:
        """Write what is buffered and wait until the disk has it; False while the disk takes nothing."""
        with self._disk:
            if self._folder < 0:
                return True
            groups = self._groups
            try:
                self._drain()
            except OSError as error:
                self._failed(error)
            else:
                self._works()
            self._mark()
            wrote = self._groups > groups
        if wrote:
            self._on_commit()
        return not self.trouble

    def take(self, messages: int, size: int) -> list[Record]:
        """The next committed records that were not taken since open: events first, oldest first.

        At most `messages` of them and about `size` bytes, none of what was overtaken. Reads the disk: call
        it in a thread.

        Raises:
            OSError: for a reason that may pass, as too many open files; nothing is lost by it.
        """
        records: list[Record] = []
        with self._taking:
            for kind in reversed(KINDS):
                records += self._taken(kind, messages - len(records), size - _size(records))
            with self._lock:
                self._collect()
        return records

    def overtake(self, behind: int) -> bool:
        """Leave what waits to `take_overtaken` if it is more than `behind` bytes: what comes goes first."""
        with self._taking, self._lock:
            journals = self._journals.values()
            if not any(journal.is_behind(behind) for journal in journals):
                return False
            split = [journal.overtake() for journal in journals]
            return any(split)

    def take_overtaken(self, messages: int, size: int) -> list[Record]:
        """As `take`, of what was overtaken; by number, so that a collector is left with few holes.

        Raises:
            OSError: for a reason that may pass; nothing is lost by it.
        """
        records: list[Record] = []
        with self._taking:
            while messages > len(records) and size > _size(records):
                firsts = {kind: self._journals[kind].next_overtaken() for kind in KINDS}
                known = sorted((seq, kind) for kind, seq in firsts.items() if seq is not None)
                if not known:
                    break
                (_, kind), below = known[0], known[1][0] if len(known) > 1 else None
                records += self._taken(
                    kind, messages - len(records), size - _size(records), backlog=True, below=below
                )
            with self._lock:
                self._collect()
        return records

    def _taken(
        self, kind: Kind, messages: int, size: int, *, backlog: bool = False, below: int | None = None
    ) -> list[Record]:
        found, lost = self._journals[kind].take(messages, size, backlog=backlog, below=below)
        for each in lost:
            self._damaged(kind, each)
        return found

    def parts(self, *, closed: bool = False) -> list[Part]:
        """What was taken and is to be stated now; `closed`: only if a part of a day has ended."""
        with self._lock:
            tally = self._buffer.tally
            return [] if closed and not tally.turned else tally.parts()

    @property
    def news(self) -> bool:
        """Whether something was taken that no statement tells of."""
        return self._buffer.tally.news

    def drops(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Since the start, by class and reason: messages and rows that are declared lost."""
        with self._lock:
            return {kind: dict(reasons) for kind, reasons in self._buffer.drops.items()}

    def ack(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Let records go that were taken; returns how many. Unknown numbers are ignored."""
        known = ranges if isinstance(ranges, Ranges) else Ranges(ranges)
        with self._lock:
            count = sum(journal.ack(known) for journal in self._journals.values())
            self._collect()
        return count

    def on_append(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, in the appending thread, when a first message waits for a commit."""
        self._on_append = callback

    def on_commit(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, in the committing thread, after a commit that wrote something."""
        self._on_commit = callback

    def stats(self) -> OutboxStats:
        """A look at the numbers; reads a few bytes at most."""
        waiting = [found for journal in self._journals.values() if (found := journal.oldest())]
        with self._lock:
            for journal in self._journals.values():
                journal.settle()
            every = [each for journal in self._journals.values() for each in journal.segments]
            head = self._buffer.floor
            return OutboxStats(
                depth=sum(each.count - each.acked for each in every),
                oldest_s=max(map(self._age_s, waiting), default=0.0),
                bytes=sum(each.end - each.low for each in every),
                head=head,
                acked=min((each.seq - 1 for each in waiting), default=head),
                taken_rows=sum(map(self._rows, KINDS)),
                dropped_rows=sum(self._buffer.dropped_rows.values()),
                dropped={kind: self._buffer.dropped[kind] for kind in KINDS},
                torn_bytes=self.torn_bytes,
                trouble=self.trouble,
            )

    def close(self) -> None:
        """Commit, note what was acknowledged, release the folder. Safe to call twice."""
        self._marked_at = -_MARK_EVERY_S
        self.commit()
        with self._disk, self._lock:
            if self._folder < 0:
                return
            if unwritten := len(self._buffer):
                why = self.trouble or "no reason was given"
                log.error("%d messages could not be written (%s) and end with this process", unwritten, why)
            for journal in self._journals.values():
                for segment in journal.segments:
                    segment.close()
            os.close(self._folder)
            self._folder = -1

    # Below, the one thread that commits: it alone writes, rotates and drops.

    def _drain(self) -> None:
        while True:
            self._recycle()
            self._make_spare()
            with self._lock:
                if not self.trouble:  # while nothing can be written, gaps would only crowd out events
                    self._buffer.declare()
                kind = self._buffer.next()
            if kind is None:
                return
            self._write(kind)

    def _write(self, kind: Kind) -> None:
        segment = self._segment_for(kind)
        with self._lock:
            sure = self._buffer.floor
            group = self._buffer.pop(kind, segment.room)
        try:
            segment.write(group, sure)
        except OSError:
            self._abandon(segment)
            raise
        self._works()
        known = self._journals[kind].segments
        with self._lock:
            self._buffer.written()
            self._groups += 1
            unsealed = [each for each in known[:-1] if not each.sealed]
            for each in unsealed:
                each.sealed = True
            self._collect()
        for each in unsealed:
            with contextlib.suppress(OSError):  # without a seal the next open scans it, nothing else
                each.seal()
            each.close()

    def _segment_for(self, kind: Kind) -> Segment:
        """Where the next group goes: the active segment, or a new one when that is nearly full."""
        known = self._journals[kind].segments
        with self._lock:
            base, need, total = self._buffer.wants(kind)
            before = Totals(self._rows(kind), self._buffer.dropped[kind], self._buffer.dropped_rows[kind])
        if known and (known[-1].room >= total or known[-1].room >= max(need, known[-1].size // 8)):
            return known[-1]
        path = self._file()
        segment = Segment(path, kind, self.ep, self._generation + 1, base, self._pool.segment_size, before)
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

    def _abandon(self, segment: Segment) -> None:
        """After a failed write nobody knows what the file holds behind `end`: nothing more goes there."""
        with self._lock:
            self._buffer.put_back(segment.kind)
            segment.size = segment.end
            segment.close()
            if segment.count:
                return
            self._journals[segment.kind].remove(segment)
        self._pool.give(segment.path)

    def _collect(self) -> None:
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
                segment.mark(segment.before.dropped, segment.before.dropped_rows)
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
            return self._condemned.pop(0).path

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
                self._buffer.add(Message("event", NODE_ITSELF, custody.TYPE, statement))
            self._condemned.append(victim)
        for each in evicted.damage:
            self._damaged(victim.kind, each)

    def _damaged(self, kind: Kind, lost: Lost) -> None:
        """Declare what a damaged stretch held: numbers of this kind, so none that another record has."""
        log.warning("%d damaged bytes skipped in the outbox", lost.size)
        known = self._journals["event" if kind == "data" else "data"].present(lost.first, lost.last)
        known.update(self._torn)
        with self._lock:
            self.torn_bytes += lost.size
            self._buffer.losses.add("damaged", known.missing(lost.first, lost.last))

    def _mark(self) -> None:
        if time.monotonic() < self._marked_at + _MARK_EVERY_S:
            return
        self._marked_at = time.monotonic()
        with self._taking, self._lock:  # what a reader skipped as damaged is declared before it is passed
            if self._buffer.losses.lowest() is not None:
                return
            for journal in self._journals.values():
                journal.settle()
            moved = [
                segment
                for journal in self._journals.values()
                for segment in journal.segments
                if segment.marked != (segment.low, segment.end, self._buffer.dropped[segment.kind])
                and (segment.low > PAGE or segment is journal.segments[-1])
            ]
        for segment in moved:
            with contextlib.suppress(OSError):
                segment.mark(self._buffer.dropped[segment.kind], self._buffer.dropped_rows[segment.kind])

    def _rows(self, kind: Kind) -> int:
        known = self._journals[kind].segments
        return known[-1].before.rows + known[-1].rows if known else 0

    def _age_s(self, found: Found) -> float:
        if found.boot == self._buffer.boot:  # the wall clock may have been set since
            at_ns = found.at_ms * NS_PER_MS - found.offset_ns
            return max(0.0, (self._clock.monotonic_ns() - at_ns) / NS_PER_S)
        return max(0.0, (self._clock.now_ms() - found.at_ms) / 1000)

    def _failed(self, error: OSError) -> None:
        if not self.trouble:
            log.error("the outbox cannot write: %s; the newest messages wait in memory", error.strerror)
        self.trouble = error.strerror or str(error)

    def _works(self) -> None:
        if self.trouble:
            log.warning("the outbox can write again")
        self.trouble = ""


async def keep_committing(outbox: Outbox, group_commit_ms: int) -> None:
    """The committer task: for ever, commits in a worker thread `group_commit_ms` after a first append."""
    loop, appended = asyncio.get_running_loop(), asyncio.Event()
    outbox.on_append(lambda: loop.call_soon_threadsafe(appended.set))
    appended.set()  # something may have been appended before anybody listened
    while True:
        with contextlib.suppress(TimeoutError):  # now and then without cause: acknowledgements are noted
            async with asyncio.timeout(_MARK_EVERY_S):
                await appended.wait()
        appended.clear()
        await asyncio.sleep(group_commit_ms / 1000)
        if not await asyncio.to_thread(outbox.commit):
            await asyncio.sleep(_RETRY_S)
            appended.set()


def _size(records: list[Record]) -> int:
    return sum(len(each.body) for each in records)


def _nothing() -> None:
    pass
