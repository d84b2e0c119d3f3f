"""What an outbox is told and what it tells: its section of the configuration, its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta, Struct


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
