"""Settings of the store of model versions: the `versions:` section of an agent's configuration."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agent.slots.update_window import UpdateWindow

MAX_MB = 1_000.0


class VersionSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `versions:` section of an agent's configuration."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^/?#@ ]+)?/?\Z",
            description="http:// or https:// address of the collector from which offered packages are"
            " downloaded, as its page has it. None without it.",
        ),
    ] = ""
    kb_per_s: Annotated[
        float, Meta(ge=0, le=10_000_000, description="Kilobytes a second of a download at most; 0: any.")
    ] = 0.0
    max_mb: Annotated[
        float,
        Meta(
            ge=1,
            le=1_000_000,
            description="Megabytes of model packages that may be kept in `state`/models. The oldest that no"
            " slot uses are removed.",
        ),
    ] = MAX_MB
    window: Annotated[
        UpdateWindow,
        Meta(description="When a version that was offered may begin to run; without it, at any time."),
    ] = UpdateWindow()
