"""What is taken is on disk: numbered messages in segments, committed in groups, kept until acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.message import Message
from wire.clock import Clock


class OutboxSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `outbox:` section of an agent's configuration."""

    max_mb: Annotated[
        int, Meta(ge=1, le=16_384, description="Disk it may use; when full the oldest data are dropped.")
    ] = 256
    group_commit_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="How long messages wait to share one write to disk.")
    ] = 50
    ack: Annotated[
        Literal["collector", "puback"],
        Meta(description="Who lets a message go: the collector's database, or (lossy) the broker."),
    ] = "collector"


@dataclass(slots=True)
class OutboxStats:
    """One look at the outbox. `head` and what follows count what is on disk, not what is buffered."""

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
    """Thread-safe. `append` is for the event loop and never waits for the disk; `commit` does, elsewhere."""

    ep: str  # random id of this outbox, part of every message's identity
    head: int  # highest seq given, on disk or not

    @classmethod
    def open(cls, folder: Path, settings: OutboxSettings, clock: Clock) -> Outbox:
        """Open or create the outbox in `folder`; torn and corrupted files are read as far as they go.

        Blocks for tens of milliseconds. A full disk is no error: see `OutboxStats.trouble`.

        Raises:
            ConfigError: the folder cannot be created, read or written.
            TryAgain: another process has it open.
        """
        raise NotImplementedError

    def append(self, message: Message) -> int:
        """Number, stamp and buffer a message; returns its seq. It counts as taken only after `commit`.

        Writes `ep` and `seq` into the body. Never raises for what the message holds, never blocks on the
        disk: what cannot be kept is counted and declared in a gap.
        """
        raise NotImplementedError

    def commit(self) -> None:
        """Write what is buffered and wait until the disk has it. Never raises for disk reasons."""
        raise NotImplementedError

    def take(self, messages: int, size: int) -> list[Record]:
        """The next committed records that were not taken since open, events first, oldest first.

        At most `messages` of them and about `size` bytes. Reads the disk: call it in a thread.
        """
        raise NotImplementedError

    def ack(self, ranges: Iterable[tuple[int, int]]) -> int:
        """Let records go that were taken; returns how many. Unknown numbers are ignored."""
        raise NotImplementedError

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Have `callback` called in the committing thread after each commit that wrote something."""
        raise NotImplementedError

    def stats(self) -> OutboxStats:
        """A look at the numbers; reads at most a few bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Commit, note what was acknowledged, release the folder. Safe to call twice."""
        raise NotImplementedError


async def keep_committing(outbox: Outbox, group_commit_ms: int) -> None:
    """The committer task: for ever, commits in a worker thread `group_commit_ms` after a first append."""
    raise NotImplementedError


class Record:
    """One committed message on its way out."""

    seq: int
    cls: Literal["data", "event"]
    device: str
    name: str
    body: bytes
