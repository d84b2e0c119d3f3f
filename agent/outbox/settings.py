"""Settings of the outbox, and the numbers that it reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta, Struct


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
    ack_from: Annotated[
        list[str],
        Meta(
            max_length=8,
            description="Ids of the collectors that must all have a message before it is deleted; "
            "with none, the ack of any collector is enough.",
        ),
    ] = []


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
