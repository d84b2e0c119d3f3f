"""The outbox itself: takes messages, commits them to disk in groups, gives them out until acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.outbox.buffer import Buffer
from agent.outbox.gaps import GapReason
from agent.outbox.message import Message
from agent.outbox.reader import Reader, Record
from agent.outbox.recovery import Recovered, recover
from agent.outbox.row_counter import DayPart
from agent.outbox.segment import KINDS, Found, Kind
from agent.outbox.segment_pool import SegmentPool
from agent.outbox.writer import MARK_EVERY_S, Writer
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.errors import TryAgain, unwritable
from wire.ranges import Range, Ranges

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class OutboxSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `outbox:` section of an agent's configuration."""

    max_mb: Annotated[
        int,
        Meta(ge=1, le=16_384, description="Disk space in MB; when full, the oldest data are dropped."),
    ] = 256
    group_commit_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="How long messages wait to share one write to disk.")
    ] = 50
    drain_kb_per_s: Annotated[
        int,
        Meta(
            ge=0, le=1_000_000, description="Rate limit of a backlog; 0 = no limit. New data are not limited."
        ),
    ] = 1_000
    packs: Annotated[
        bool,
        Meta(description="A backlog may travel as packs of several messages, if the collector reads packs."),
    ] = True
    ack: Annotated[
        Literal["collector", "puback"],
        Meta(description="What releases a message: the ack of the collector, or (lossy) of the broker."),
    ] = "collector"


@dataclass(slots=True)
class OutboxStats:
    """Numbers of the outbox at one moment; they count what is on disk, not what is buffered."""

    depth: int = 0  # messages not acknowledged
    oldest_s: float = 0.0  # age of the oldest of them
    bytes: int = 0  # their size on disk
    head: int = 0  # every seq up to this one is on disk, acknowledged or declared lost
    acked: int = 0  # no seq up to this one waits
    taken_rows: int = 0  # since the outbox was created
    dropped_rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # class -> messages, since it was created
    torn_bytes: int = 0  # damaged bytes skipped since this start
    trouble: str = ""  # why nothing can be written now; "" if everything works
    trouble_code: str = ""


class Outbox:
    """A durable, numbered queue of messages. Thread-safe; made by `open`.

    `append` belongs in the event loop and never waits for the disk; `commit` waits and belongs in a thread.
    `ep` is the random id of this outbox, a part of every message's identity.
    """

    def __init__(self, folder: int, pool: SegmentPool, state: Recovered, clock: Clock) -> None:
        self.ep = state.ep
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()  # guards attributes; held for microseconds, never over disk work
        self._disk = threading.Lock()  # held by the one thread that commits
        self._taking = threading.Lock()  # held by the one thread that takes
        self._readers = {kind: Reader(kind, self._lock, state.segments[kind]) for kind in KINDS}
        self._buffer = Buffer(state.ep, state.head, pool.segment_size // 2, clock)
        self._buffer.gaps.add("torn", state.torn)
        self._buffer.gaps.add("damaged", state.damaged)
        found: dict[GapReason, list[Range]] = {"torn": state.torn, "damaged": state.damaged}
        for why, lost in found.items():
            if lost:  # their class is unknown
                self._buffer.drops.setdefault("unknown", {})[why] = (sum(b - a + 1 for a, b in lost), 0)
        for kind in KINDS:
            self._buffer.dropped[kind] = state.dropped[kind].dropped
            self._buffer.dropped_rows[kind] = state.dropped[kind].dropped_rows
        self._writer = Writer(pool, state, self._readers, self._buffer, lock=self._lock, taking=self._taking)
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
            pool = SegmentPool(folder, settings.max_mb * 1_000_000, state.free)
        except BlockingIOError as error:
            os.close(fd)
            raise TryAgain(f"{folder} is open in another process: stop that agent first") from error
        except OSError as error:
            os.close(fd)
            raise unwritable(f"the outbox in {folder}", error) from error
        return cls(fd, pool, state, clock)

    @property
    def trouble(self) -> str:
        """Why nothing can be written now; "" if everything works."""
        return self._writer.trouble

    @property
    def torn_bytes(self) -> int:
        """Damaged bytes skipped since the start."""
        return self._writer.torn_bytes

    @property
    def head(self) -> int:
        """The highest seq given so far, on disk or not."""
        return self._buffer.head

    def append(self, message: Message) -> int:
        """Number, stamp and buffer a message; returns its seq. It counts as taken only after `commit`.

        Writes `ep` and `seq` into the body. Never raises for the message's content and never waits for the
        disk: a message that cannot be kept is counted and declared in a gap.
        """
        with self._lock:
            seq = self._buffer.add(message)
            first = len(self._buffer) == 1
            self._buffer.shed("disk" if self.trouble else "overload")
        if first:
            self._on_append()
        return seq

    def commit(self) -> bool:
        """Write what is buffered and wait for the disk; False while the disk takes nothing."""
        return self._commit()

    def _commit(self, *, last: bool = False) -> bool:
        with self._disk:
            if self._folder < 0:
                return True
            wrote = self._writer.commit(last=last)
        if wrote:
            self._on_commit()
        return not self.trouble

    def take(self, messages: int, size: int) -> list[Record]:
        """The next committed records not taken since `open`: events first, oldest first.

        At most `messages` records of about `size` bytes, without the overtaken ones. Reads the disk: call it
        in a thread.

        Raises:
            OSError: a temporary error, such as too many open files; nothing is lost.
        """
        records: list[Record] = []
        with self._taking:
            for kind in reversed(KINDS):
                try:
                    records += self._taken(kind, messages - len(records), size - _size(records))
                except OSError:
                    if not records:
                        raise
                    break  # a record is given out once: the next call meets the error again
            with self._lock:
                self._writer.collect()
        return records

    def overtake(self, behind: int) -> bool:
        """Leave waiting records to `take_overtaken` if they exceed `behind` bytes: new records go first."""
        with self._taking, self._lock:
            readers = self._readers.values()
            if not any(reader.is_behind(behind) for reader in readers):
                return False
            split = [reader.overtake() for reader in readers]
            return any(split)

    def take_overtaken(self, messages: int, size: int) -> list[Record]:
        """The next overtaken records, as `take`, but in the order of their numbers: few holes remain.

        Raises:
            OSError: a temporary error; nothing is lost.
        """
        records: list[Record] = []
        with self._taking:
            while messages > len(records) and size > _size(records):
                try:
                    found = self._next_overtaken(messages - len(records), size - _size(records))
                except OSError:
                    if not records:
                        raise
                    break
                if found is None:
                    break
                records += found
            with self._lock:
                self._writer.collect()
        return records

    def _next_overtaken(self, messages: int, size: int) -> list[Record] | None:
        """The next records of the kind with the lowest number, up to the other kind's; None at the end."""
        firsts = {kind: self._readers[kind].next_overtaken() for kind in KINDS}
        known = sorted((seq, kind) for kind, seq in firsts.items() if seq is not None)
        if not known:
            return None
        (_, kind), below = known[0], known[1][0] if len(known) > 1 else None
        return self._taken(kind, messages, size, backlog=True, below=below)

    def _taken(
        self, kind: Kind, messages: int, size: int, *, backlog: bool = False, below: int | None = None
    ) -> list[Record]:
        found, lost = self._readers[kind].take(messages, size, backlog=backlog, below=below)
        for each in lost:
            self._writer.damaged(kind, each)
        return found

    def parts(self, *, closed: bool = False) -> list[DayPart]:
        """The parts of days to state now; with `closed`, only if a part of a day has ended."""
        with self._lock:
            row_counter = self._buffer.row_counter
            return [] if closed and not row_counter.has_closed else row_counter.parts()

    @property
    def unstated(self) -> bool:
        """Whether a message was taken that no statement covers."""
        return self._buffer.row_counter.unstated

    @property
    def has_closed(self) -> bool:
        """Whether a part of a day has ended that no statement covers."""
        return self._buffer.row_counter.has_closed

    def drops(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Messages and rows declared lost since the start, by class and reason."""
        with self._lock:
            return {kind: dict(reasons) for kind, reasons in self._buffer.drops.items()}

    def ack(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Release taken records; returns how many. Unknown numbers are ignored."""
        known = ranges if isinstance(ranges, Ranges) else Ranges(ranges)
        with self._lock:
            count = sum(reader.ack(known) for reader in self._readers.values())
            self._writer.collect()
        return count

    def on_append(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the appending thread when a first message waits for a commit."""
        self._on_append = callback

    def on_commit(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the committing thread after a commit that wrote something."""
        self._on_commit = callback

    def stats(self) -> OutboxStats:
        """The numbers of this moment; may read a few bytes from the disk."""
        waiting = [found for reader in self._readers.values() if (found := reader.oldest())]
        with self._lock:
            for reader in self._readers.values():
                reader.settle()
            every = [each for reader in self._readers.values() for each in reader.segments]
            head = self._buffer.settled
            return OutboxStats(
                depth=sum(each.count - each.acked for each in every),
                oldest_s=max(map(self._age_s, waiting), default=0.0),
                bytes=sum(each.end - each.low for each in every),
                head=head,
                acked=min((each.seq - 1 for each in waiting), default=head),
                taken_rows=sum(map(self._writer.rows, KINDS)),
                dropped_rows=sum(self._buffer.dropped_rows.values()),
                dropped={kind: self._buffer.dropped[kind] for kind in KINDS},
                torn_bytes=self.torn_bytes,
                trouble=self.trouble,
                trouble_code=self._writer.trouble_code,
            )

    def close(self) -> None:
        """Commit, write the marks, release the folder. Safe to call twice."""
        self._commit(last=True)
        with self._disk, self._lock:
            if self._folder < 0:
                return
            if unwritten := len(self._buffer):
                why = self.trouble or "for an unknown reason"
                log.error(
                    "%d messages could not be written (%s): they are lost with this process", unwritten, why
                )
            self._writer.close()
            os.close(self._folder)
            self._folder = -1

    def _age_s(self, found: Found) -> float:
        if found.boot == self._buffer.boot:  # the wall clock may have been set since
            at_ns = found.at_ms * NS_PER_MS - found.offset_ns
            return max(0.0, (self._clock.monotonic_ns() - at_ns) / NS_PER_S)
        return max(0.0, (self._clock.now_ms() - found.at_ms) / 1000)


async def keep_committing(outbox: Outbox, group_commit_ms: int) -> None:
    """Commit in a worker thread `group_commit_ms` after each first append; runs until it is cancelled."""
    loop, appended = asyncio.get_running_loop(), asyncio.Event()
    outbox.on_append(lambda: loop.call_soon_threadsafe(appended.set))
    appended.set()  # messages may have been appended before the callback was set
    thread = ThreadPoolExecutor(1, "commit")  # its own: a job wakes two threads of a pool that has several
    try:
        while True:
            with contextlib.suppress(TimeoutError):  # without an append a commit still writes the marks
                async with asyncio.timeout(MARK_EVERY_S):
                    await appended.wait()
            appended.clear()
            await asyncio.sleep(group_commit_ms / 1000)
            if not await loop.run_in_executor(thread, outbox.commit):
                await asyncio.sleep(_RETRY_S)
                appended.set()
    finally:
        thread.shutdown(wait=False)


def _size(records: list[Record]) -> int:
    return sum(len(each.body) for each in records)


def _nothing() -> None:
    pass
