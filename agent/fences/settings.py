"""Settings of the fence: the most that one agent may use of its machine and of its uplink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

LEAST_MB = 64  # of an agent without models
LEAST_KB_PER_S = 2  # what status and heartbeats need


class FenceSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `fence:` section of an agent's configuration; the disk has `outbox.max_mb`."""

    cpu_pct: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Per cent of one core, on average; above it models skip input, readings go on. "
            "0 = no limit.",
        ),
    ] = 0
    memory_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Resident memory; above it no model is opened and the newest one is stopped. "
            "0 = no limit.",
        ),
    ] = 0
    uplink_kb_per_s: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="All that is sent, in 1,000 bytes a second: a backlog is slowed first, then "
            "pictures, then new messages, live values last. 0 = no limit.",
        ),
    ] = 0
    inferences_per_s: Annotated[
        float,
        Meta(
            ge=0, le=1e6, description="Inferences of all models; what is above it is skipped. 0 = no limit."
        ),
    ] = 0.0

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """The keys with values that cannot work, each with a sentence."""
        if 0 < self.memory_mb < LEAST_MB:
            yield (
                "memory_mb",
                f"an agent without models needs up to {LEAST_MB} MB: allow more, or 0 for no limit",
            )
        if 0 < self.uplink_kb_per_s < LEAST_KB_PER_S:
            yield (
                "uplink_kb_per_s",
                f"status and heartbeats alone need {LEAST_KB_PER_S} kB/s: allow more, or 0 for no limit",
            )

    def limits(self) -> dict[str, float]:
        """The limits that are set, by their keys."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: limit for name, limit in found.items() if limit}
