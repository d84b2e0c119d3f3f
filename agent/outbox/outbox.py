"""What is taken is on disk: numbered messages in segments, committed in groups, kept until acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.outbox.buffer import Buffer
from agent.outbox.gaps import Why
from agent.outbox.message import Message
from agent.outbox.reader import Journal, Record
from agent.outbox.recovery import Recovered, recover
from agent.outbox.row_counter import Part
from agent.outbox.segment import KINDS, Found, Kind
from agent.outbox.segment_pool import Pool
from agent.outbox.writer import MARK_EVERY_S, Committer
from wire.clock import NS_PER_MS, NS_PER_S, Clock
from wire.errors import TryAgain, unwritable
from wire.ranges import Range, Ranges

log = logging.getLogger(__name__)

_RETRY_S = 1.0


class OutboxSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `outbox:` section of an agent's configuration."""

    max_mb: Annotated[
        int, Meta(ge=1, le=16_384, description="Disk it may use; when full the oldest data are dropped.")
    ] = 256
    group_commit_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="How long messages wait to share one write to disk.")
    ] = 50
    drain_kb_per_s: Annotated[
        int,
        Meta(
            ge=0, le=1_000_000, description="A backlog is sent no faster; 0 = no limit. New data always are."
        ),
    ] = 1_000
    packs: Annotated[
        bool,
        Meta(description="A backlog may travel as several messages in one, where a collector reads that."),
    ] = True
    ack: Annotated[
        Literal["collector", "puback"],
        Meta(description="Who lets a message go: the collector's database, or (lossy) the broker."),
    ] = "collector"


@dataclass(slots=True)
class OutboxStats:
    """One look at the outbox, counting what is on disk, not what is buffered."""

    depth: int = 0  # messages not acknowledged
    oldest_s: float = 0.0  # age of the oldest of them
    bytes: int = 0  # their size on disk
    head: int = 0  # every seq up to here is on disk, was acknowledged, or is declared lost
    acked: int = 0  # no seq up to here waits any more
    taken_rows: int = 0  # since the outbox was created
    dropped_rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # class -> messages, since it was created
    torn_bytes: int = 0  # damaged bytes skipped since this start
    trouble: str = ""  # why nothing can be written now; "" when all is well


class Outbox:
    """Thread-safe. `append` is for the event loop and never waits for the disk; `commit` does, elsewhere.

    Use `open`. `ep` is the random id of this outbox, part of every message's identity.
    """

    def __init__(self, folder: int, pool: Pool, state: Recovered, clock: Clock) -> None:
        self.ep = state.ep
        self._folder = folder
        self._clock = clock
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
        self._committer = Committer(
            pool, state, self._journals, self._buffer, lock=self._lock, taking=self._taking
        )
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
    def trouble(self) -> str:
        """Why nothing can be written now; "" when all is well."""
        return self._committer.trouble

    @property
    def torn_bytes(self) -> int:
        """Damaged bytes that were skipped since the start."""
        return self._committer.torn_bytes

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
        return self._commit()

    def _commit(self, *, last: bool = False) -> bool:
        with self._disk:
            if self._folder < 0:
                return True
            wrote = self._committer.commit(last=last)
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
                try:
                    records += self._taken(kind, messages - len(records), size - _size(records))
                except OSError:
                    if not records:
                        raise
                    break  # a record is given out once: the next call meets the error again
            with self._lock:
                self._committer.collect()
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
                self._committer.collect()
        return records

    def _next_overtaken(self, messages: int, size: int) -> list[Record] | None:
        """Those of the kind whose turn it is, up to the turn of the other; None at the end."""
        firsts = {kind: self._journals[kind].next_overtaken() for kind in KINDS}
        known = sorted((seq, kind) for kind, seq in firsts.items() if seq is not None)
        if not known:
            return None
        (_, kind), below = known[0], known[1][0] if len(known) > 1 else None
        return self._taken(kind, messages, size, backlog=True, below=below)

    def _taken(
        self, kind: Kind, messages: int, size: int, *, backlog: bool = False, below: int | None = None
    ) -> list[Record]:
        found, lost = self._journals[kind].take(messages, size, backlog=backlog, below=below)
        for each in lost:
            self._committer.damaged(kind, each)
        return found

    def parts(self, *, closed: bool = False) -> list[Part]:
        """What was taken and is to be stated now; `closed`: only if a part of a day has ended."""
        with self._lock:
            tally = self._buffer.tally
            return [] if closed and not tally.turned else tally.parts()

    @property
    def unstated(self) -> bool:
        """Whether a message was taken that no statement covers."""
        return self._buffer.tally.unstated

    def drops(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Since the start, by class and reason: messages and rows that are declared lost."""
        with self._lock:
            return {kind: dict(reasons) for kind, reasons in self._buffer.drops.items()}

    def ack(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Let records go that were taken; returns how many. Unknown numbers are ignored."""
        known = ranges if isinstance(ranges, Ranges) else Ranges(ranges)
        with self._lock:
            count = sum(journal.ack(known) for journal in self._journals.values())
            self._committer.collect()
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
                taken_rows=sum(map(self._committer.rows, KINDS)),
                dropped_rows=sum(self._buffer.dropped_rows.values()),
                dropped={kind: self._buffer.dropped[kind] for kind in KINDS},
                torn_bytes=self.torn_bytes,
                trouble=self.trouble,
            )

    def close(self) -> None:
        """Commit, note what was acknowledged, release the folder. Safe to call twice."""
        self._commit(last=True)
        with self._disk, self._lock:
            if self._folder < 0:
                return
            if unwritten := len(self._buffer):
                why = self.trouble or "no reason was given"
                log.error("%d messages could not be written (%s) and end with this process", unwritten, why)
            self._committer.close()
            os.close(self._folder)
            self._folder = -1

    def _age_s(self, found: Found) -> float:
        if found.boot == self._buffer.boot:  # the wall clock may have been set since
            at_ns = found.at_ms * NS_PER_MS - found.offset_ns
            return max(0.0, (self._clock.monotonic_ns() - at_ns) / NS_PER_S)
        return max(0.0, (self._clock.now_ms() - found.at_ms) / 1000)


async def keep_committing(outbox: Outbox, group_commit_ms: int) -> None:
    """The committer task: for ever, commits in a worker thread `group_commit_ms` after a first append."""
    loop, appended = asyncio.get_running_loop(), asyncio.Event()
    outbox.on_append(lambda: loop.call_soon_threadsafe(appended.set))
    appended.set()  # something may have been appended before anybody listened
    while True:
        with contextlib.suppress(TimeoutError):  # now and then without cause: acknowledgements are noted
            async with asyncio.timeout(MARK_EVERY_S):
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
