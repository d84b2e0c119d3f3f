"""The outbox itself: takes messages, commits them to disk in groups, gives them out until acknowledged.

This class owns every lock; no other class of the outbox gets one. A step that others can see is one call of
`OutboxState` under `_lock`; between two such calls the disk works without it. Locks are taken in this order:

    _committing  held by the one thread that commits or closes: it alone writes, opens and closes segments
    _taking      held by the one thread that takes: a cursor does not move while its records are read
    _lock        guards the state; held for microseconds, never while the disk works
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agent.outbox import renewal
from agent.outbox.copies import Copies
from agent.outbox.eviction import lost_with
from agent.outbox.gaps import GapReason
from agent.outbox.message import Message
from agent.outbox.record import KINDS, Kind, Record
from agent.outbox.recovery import Recovered, recover
from agent.outbox.row_counter import DayPart
from agent.outbox.segment import DamagedStretch, Header, Segment
from agent.outbox.segment_pool import SPARE, SegmentPool
from agent.outbox.settings import OutboxSettings, OutboxStats
from agent.outbox.state import Acked, Group, OutboxState, Plan
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.errors import TryAgain, unwritable
from wire.ranges import Ranges

log = logging.getLogger(__name__)

MARK_EVERY_S = 1.0
_LOG_EVERY_S = 60.0  # between two warnings that the outbox is full


class Outbox:
    """A durable, numbered queue of messages. Thread-safe; made by `open`.

    `append` belongs in the event loop and never waits for the disk; `commit` waits and belongs in a thread.
    `ep` is the random id of this outbox, a part of every message's identity.
    """

    def __init__(
        self, folder: int, pool: SegmentPool, found: Recovered, clock: Clock, copies: Copies
    ) -> None:
        self.ep = found.ep
        self._committing = threading.Lock()
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._state = OutboxState(found, pool.segment_size, clock, copies)
        self._folder = folder
        self._pool = pool
        self._clock = clock
        self._groups = 0  # written since the start
        self._marked_at = time.monotonic()
        self._logged_at = -_LOG_EVERY_S
        self._on_append: Callable[[], object] = _nothing
        self._on_commit: Callable[[], object] = _nothing

    @classmethod
    def open(cls, folder: Path, settings: OutboxSettings, clock: Clock) -> Outbox:
        """Open or create the outbox in `folder`; damaged files are read as far as possible.

        Blocks for tens of milliseconds. A full disk does not raise: see `OutboxStats.trouble`.

        Raises:
            ConfigError: the folder cannot be created, read or written.
            TryAgain: another process has it open, or the disk is full.
        """
        if renewal.is_asked(folder):
            try:
                cls._renew(folder, settings, clock)
            except OSError as error:
                raise unwritable(f"the outbox in {folder}", error) from error
        return cls._open(folder, settings, clock)

    @classmethod
    def _open(cls, folder: Path, settings: OutboxSettings, clock: Clock) -> Outbox:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unwritable(f"the outbox in {folder}", error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = recover(folder)
            pool = SegmentPool(folder, settings.max_mb * 1_000_000, found.free)
        except BlockingIOError as error:
            os.close(fd)
            raise TryAgain(f"{folder} is open in another process: stop that agent first") from error
        except OSError as error:
            os.close(fd)
            raise unwritable(f"the outbox in {folder}", error) from error
        return cls(fd, pool, found, clock, Copies(settings.ack_from))

    @classmethod
    def _renew(cls, folder: Path, settings: OutboxSettings, clock: Clock) -> None:
        """Give what waits in `folder` a new ep, or end a renewal that was interrupted. Raises OSError."""
        if (fresh := renewal.prepare(folder)) is not None:
            with contextlib.ExitStack() as opened:
                old = cls._open(folder, settings, clock)
                opened.callback(old.close)
                new = cls._open(fresh, settings, clock)
                opened.callback(new.close)
                count = renewal.fill(old, new, fresh)
            log.warning("outbox %s continues as %s with %d waiting messages", old.ep, new.ep, count)
        renewal.replace(folder)

    def ask_renewal(self) -> None:
        """Have the next open start a new ep: a collector has other messages with the numbers of this one.

        Raises:
            OSError: the disk takes nothing.
        """
        renewal.ask(self._pool.folder)

    # --- what it is and holds

    @property
    def trouble(self) -> str:
        """Why nothing can be written now; "" if everything works."""
        return self._state.trouble

    @property
    def head(self) -> int:
        """The highest seq given so far, on disk or not."""
        return self._state.buffer.head

    def stats(self) -> OutboxStats:
        """The numbers of this moment; may read a few bytes from the disk."""
        waiting = self._waiting()
        oldest_s = max(map(self._age_s, waiting), default=0.0)
        with self._lock:
            return self._state.stats(oldest_s, min((each.seq for each in waiting), default=None))

    def parts(self, *, closed: bool = False) -> list[DayPart]:
        """The parts of days to state now; with `closed`, only if a part of a day has ended."""
        with self._lock:
            row_counter = self._state.buffer.row_counter
            return [] if closed and not row_counter.has_closed else row_counter.parts()

    @property
    def unstated(self) -> bool:
        """Whether a message was taken that no statement covers."""
        return self._state.buffer.row_counter.unstated

    @property
    def has_closed(self) -> bool:
        """Whether a part of a day has ended that no statement covers."""
        return self._state.buffer.row_counter.has_closed

    def drops(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Messages and rows declared lost since the start, by class and reason."""
        with self._lock:
            return {kind: dict(reasons) for kind, reasons in self._state.buffer.drops.items()}

    def on_append(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the appending thread when a first message waits for a commit."""
        self._on_append = callback

    def on_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the committing thread after a commit that wrote something."""
        self._on_commit = callback

    # --- appending

    def append(self, message: Message) -> int:
        """Number, stamp and buffer a message; returns its seq. It counts as taken only after `commit`.

        Writes `ep` and `seq` into the body. Never raises for the message's content and never waits for the
        disk: a message that cannot be kept is counted and declared in a gap.
        """
        with self._lock:
            seq, first = self._state.append(message)
        if first:
            self._on_append()
        return seq

    # --- committing; every method below needs `_committing`

    def commit(self) -> bool:
        """Write what is buffered and wait for the disk; False while the disk takes nothing."""
        with self._committing:
            if self._folder < 0:
                return True
            groups = self._groups
            try:
                self._drain()
            except OSError as error:
                self._failed(error)
            else:
                self._works()
            if time.monotonic() >= self._marked_at + MARK_EVERY_S:
                self._mark()
        if self._groups > groups:
            self._on_commit()
        return not self.trouble

    def close(self) -> None:
        """Commit, write the marks, release the folder. Safe to call twice."""
        self.commit()
        with self._committing:
            if self._folder < 0:
                return
            self._mark()
            with self._lock:
                if unwritten := len(self._state.buffer):
                    why = self.trouble or "for an unknown reason"
                    log.error(
                        "%d messages could not be written (%s): they are lost with this process",
                        unwritten, why,
                    )  # fmt: skip
                for segment in self._state.every:
                    segment.close()
            os.close(self._folder)
            self._folder = -1

    def _drain(self) -> None:
        while True:
            if self._state.reusable:
                self._recycle()
            self._make_spare()
            with self._lock:
                plan = self._state.plan(len(self._pool))
            if plan is None:
                return
            self._write(plan)

    def _write(self, plan: Plan) -> None:
        """Write both kinds in the order of their numbers into the last segments, and flush each once.

        A kill leaves the first of these numbers on disk: no number below a present one is missing.
        """
        if plan.header is not None:
            self._begin(plan.header)
        with self._lock:
            group = self._state.pop(events_first=plan.events_first)
        try:
            for segment, blobs in group.runs:
                segment.write(blobs, group.settled)
            for segment in group.segments:
                segment.flush()
        except OSError:
            self._abandon(group)
            raise
        self._works()
        with self._lock:
            full = self._state.publish(group)
        self._groups += bool(group.runs)
        for segment in full:
            with contextlib.suppress(OSError):  # without a seal the next open scans the segment
                segment.seal()
            segment.close()

    def _begin(self, header: Header) -> None:
        """Start a new segment in a free file."""
        path = self._file()
        segment = Segment(path, header)
        try:
            segment.begin()
        except OSError:
            segment.close()
            self._pool.give(path)
            raise
        with self._lock:
            self._state.begun(segment)

    def _abandon(self, group: Group) -> None:
        with self._lock:
            empty = self._state.put_back(group)
        for segment in group.segments:
            segment.close()
        for segment in empty:
            self._pool.give(segment.path)

    def _file(self) -> Path:
        try:
            return self._pool.get()
        except OSError:
            with self._lock:
                dropped = self._state.sacrifice()
            if dropped is None:
                raise
            dropped.close()
            return dropped.path

    def _recycle(self) -> None:
        """Return free files to the pool; dropped ones only when their gap events are on disk."""
        with self._lock:
            free = self._state.free()
        for segment, note in free:
            self._note(segment, note)
            segment.close()
            self._pool.give(segment.path)

    def _make_spare(self) -> None:
        """Ensure files for the next segments: add some, or drop the oldest segment, data first."""
        if self._state.pending:  # one gap after the other: the next would be numbered behind more data
            return
        while len(self._pool) + self._state.pending < SPARE:
            why: GapReason = "quota" if self._pool.full else "disk"
            try:
                self._pool.grow()
            except OSError as error:
                log.debug("no more segments: %s", error.strerror)
                with self._lock:
                    victim = self._state.victim()
                if victim is None:
                    return
                self._drop(victim, why)

    def _drop(self, victim: Segment, why: GapReason) -> None:
        data = victim.read(0, victim.end)
        with self._lock:
            left = self._state.drop(victim)
        if left is None:  # its last acknowledgement came in time
            self._recycle()
            return
        evicted = lost_with(victim, data, left, self._state.copies.released)
        if time.monotonic() > self._logged_at + _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            log.warning(
                "outbox full (%s): the oldest %d %s messages are dropped", why, evicted.messages, victim.kind
            )
        damaged = self._lost_in(victim.kind, evicted.damage)
        with self._lock:
            self._state.lose(victim.kind, why, evicted)
            self._state.damaged(evicted.damage, damaged)

    def _mark(self) -> None:
        self._marked_at = time.monotonic()
        with self._lock:
            notes = self._state.notes()
        for segment, note in notes:
            self._note(segment, note)

    def _note(self, segment: Segment, note: bytes | None) -> None:
        if note is not None:
            with contextlib.suppress(OSError):  # without the mark its records are sent again after a restart
                segment.mark(note)

    def _failed(self, error: OSError) -> None:
        with self._lock:
            new = self._state.failed(error)
        if new:
            log.error("the outbox cannot write: %s; the newest messages wait in memory", error.strerror)

    def _works(self) -> None:
        if self.trouble:
            with self._lock:
                self._state.works()
            log.warning("the outbox can write again")

    # --- taking

    def take(self, messages: int, size: int) -> list[Record]:
        """The next committed records not taken since `open`: events first, oldest first.

        At most `messages` records of about `size` bytes, without the overtaken ones. Reads the disk: call it
        in a thread.

        Raises:
            OSError: a temporary error, such as too many open files; nothing is lost.
        """
        records: list[Record] = []
        with self._taking, _raising_without(records):
            for kind in reversed(KINDS):
                self._take(kind, records, messages, size - _size(records))
        return records

    def overtake(self, behind: int) -> bool:
        """Leave waiting records to `take_overtaken` if they exceed `behind` bytes: new records go first."""
        with self._taking, self._lock:
            return self._state.overtake(behind)

    def take_overtaken(self, messages: int, size: int) -> list[Record]:
        """The next overtaken records, as `take`, but in the order of their numbers: few holes remain.

        Raises:
            OSError: a temporary error; nothing is lost.
        """
        records: list[Record] = []
        with self._taking, _raising_without(records):
            while (
                len(records) < messages
                and _size(records) < size
                and self._take_lowest(records, messages, size - _size(records))
            ):
                pass
        return records

    def ack(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Release taken records, whichever collector has them; returns how many. Others are ignored."""
        known = ranges if isinstance(ranges, Ranges) else Ranges(ranges)
        with self._lock:
            return self._state.ack(known)

    def ack_by(self, by: str, ranges: Ranges) -> Acked:
        """Note what a collector has; what every collector of `ack_from` has is released.

        Without `ack_from` each acknowledgement releases. Another collector's releases nothing.
        """
        names = self._state.copies.names
        if names and by not in names:
            return Acked()
        with self._lock:
            return self._state.ack_by(by, ranges) if names else Acked(self._state.ack(ranges))

    @property
    def aside(self) -> bool:
        """Whether records wait on disk that some collectors of `ack_from` have and others lack."""
        return bool(self._state.copies.aside)

    def set_aside(self, seqs: Iterable[int]) -> None:
        """Let taken records wait on disk alone: a collector of `ack_from` lacks them, and is away."""
        with self._lock:
            self._state.set_aside(seqs)

    def rewind(self) -> None:
        """Let everything be taken again that is not released, as after a restart."""
        with self._taking, self._lock:
            self._state.rewind()

    def _take_lowest(self, records: list[Record], messages: int, size: int) -> bool:
        """Add the next overtaken records of one kind, up to the lowest of the other; False at the end."""
        firsts: list[tuple[int, Kind]] = []
        for kind in KINDS:
            with self._lock:
                place = self._state.readers[kind].place(backlog=True)
            if place is not None:
                found = place.segment.peek(place.at, place.end)
                firsts.append((0 if found is None else found.seq, kind))  # damage goes first
        if not firsts:
            return False
        (_, kind), *others = sorted(firsts)
        below = others[0][0] if others else None
        self._take(kind, records, messages, size, backlog=True, below=below)
        return True

    def _take(
        self,
        kind: Kind,
        records: list[Record],
        messages: int,
        size: int,
        *,
        backlog: bool = False,
        below: int | None = None,
    ) -> None:
        """Add the next records of a kind, until there are `messages`, `size` more bytes, or the seq `below`.

        Raises:
            OSError: the disk cannot be read; what was added before stays taken.
        """
        while len(records) < messages and size > 0:
            with self._lock:
                place = self._state.readers[kind].place(backlog=backlog)
            if place is None:
                return
            run = place.segment.read_run(place.at, place.end, messages - len(records), size, below)
            damaged = self._lost_in(kind, run.damage)
            with self._lock:
                found = self._state.took(place, run, damaged)
            if found is None:
                continue
            records += found
            size -= sum(each.size for each in run.records)
            if run.ended:
                return

    def _lost_in(self, kind: Kind, stretch: DamagedStretch | None) -> Ranges:
        """The numbers of a damaged stretch, except those that are on disk elsewhere or declared."""
        if stretch is None:
            return Ranges()
        log.warning("%d damaged bytes skipped in the outbox", stretch.size)
        with self._lock:
            segments = self._state.beside(kind, stretch)
        known = Ranges(self._state.torn)
        with contextlib.suppress(
            OSError
        ):  # then too many are declared: those that arrive leave the gap again
            for segment, end in segments:
                every = segment.records.walk(segment.read(0, end), [])
                known.update((each.seq, each.seq) for each in every)
        return Ranges(known.missing(stretch.first, stretch.last))

    def _waiting(self) -> list[Record]:
        """The oldest records that wait, one or two of each kind."""
        with self._lock:
            places = [reader.oldest() for reader in self._state.readers.values()]
        found = [taken for taken, _ in places if taken is not None]
        for _, place in places:
            if place is not None:
                with contextlib.suppress(OSError):
                    unread = place.segment.peek(place.at, place.end)
                    found += [] if unread is None else [unread]
        return found

    def _age_s(self, waiting: Record) -> float:
        if waiting.boot == self._state.buffer.boot:  # the wall clock may have been set since
            at_ns = waiting.at_ms * NS_PER_MS - waiting.offset_ns
            return max(0.0, (self._clock.monotonic_ns() - at_ns) / NS_PER_S)
        return max(0.0, (self._clock.now_ms() - waiting.at_ms) / 1000)


@contextlib.contextmanager
def _raising_without(records: list[Record]) -> Iterator[None]:
    """Let an OSError pass only if nothing was read.

    A record is given out once. So what was read is returned, and the next call meets the error again.
    """
    try:
        yield
    except OSError:
        if not records:
            raise


def _size(records: list[Record]) -> int:
    return sum(len(each.body) for each in records)


def _nothing() -> None:
    pass
