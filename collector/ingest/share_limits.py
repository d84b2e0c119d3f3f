"""The shares of nodes and tenants, as the config sets them; docs/operations.md explains them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

PerSecond = Annotated[int, Meta(ge=1, le=10**9)]
Messages = Annotated[PerSecond, Meta(description="Publications a second; a pack counts as one.")]
Kilobytes = Annotated[PerSecond, Meta(description="Bytes a second before compression, in kB.")]
Values = Annotated[
    PerSecond,
    Meta(description="Values a second in `data` and `event` messages; a message counts as 20 at least."),
]


class NodeShares(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What one node may use."""

    messages_per_s: Messages = 2_000
    plain_kb_per_s: Kilobytes = 8_000
    values_per_s: Values = 500_000
    streams: Annotated[int, Meta(ge=1, le=10**6, description="Streams in a UTC day.")] = 1_000
    names_per_stream: Annotated[
        int, Meta(ge=1, le=10**6, description="Field names of one stream in a UTC day.")
    ] = 10_000
    names: Annotated[
        int, Meta(ge=1, le=10**7, description="Field names of all streams in a UTC day, added up.")
    ] = 20_000
    live_kb: Annotated[
        int, Meta(ge=1, le=10**6, description="Newest values, status and birth kept in memory, in kB.")
    ] = 1_000
    disk_mb_per_day: Annotated[
        int, Meta(ge=1, le=10**7, description="What is stored in a UTC day, in MB on disk.")
    ] = 5_000


class TenantShares(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What all nodes of one tenant may use together."""

    nodes: Annotated[int, Meta(ge=1, le=10**6, description="Nodes that are known.")] = 10_000
    messages_per_s: Messages = 40_000
    plain_kb_per_s: Kilobytes = 100_000
    values_per_s: Values = 5_000_000
    streams: Annotated[int, Meta(ge=1, le=150_000, description="Streams in a UTC day.")] = 100_000
    names: Annotated[int, Meta(ge=1, le=150_000, description="Different field names in a UTC day.")] = 100_000
    live_kb: Annotated[
        int, Meta(ge=1, le=10**8, description="Newest values, status and birth kept in memory, in kB.")
    ] = 200_000
    disk_mb_per_day: Annotated[
        int, Meta(ge=1, le=10**9, description="What is stored in a UTC day, in MB on disk.")
    ] = 200_000


class Shares(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What exceeds a share is refused: it is not acknowledged and waits in the outbox of its node."""

    node: Annotated[NodeShares, Meta(description="What one node may use.")] = field(
        default_factory=NodeShares
    )
    tenant: Annotated[TenantShares, Meta(description="What all nodes of one tenant may use together.")] = (
        field(default_factory=TenantShares)
    )
