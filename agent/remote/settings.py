"""Settings of changes at run time: the `remote:` section of an agent's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct


class RemoteSettings(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The `remote:` section of an agent's configuration."""

    config: Annotated[
        bool,
        Meta(
            description="Take devices, models and publish settings from `desired/config`. Turn it on only "
            "where the broker lets no unknown client publish there."
        ),
    ] = False
    pilot: Annotated[
        bool,
        Meta(
            description="Follow the plan of a pilot from `desired/pilot`, if keys of `trust.keys` signed it."
        ),
    ] = False
    pilot_signers: Annotated[
        int,
        Meta(
            ge=1,
            le=8,
            description="How many of these keys must have signed it: 2 where company and operator both sign.",
        ),
    ] = 1
    files: Annotated[
        tuple[Path, ...],
        Meta(max_length=20, description="Folders whose files a desired document may name."),
    ] = ()
    soak_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="How long changed devices and models have until they must work: else the agent goes "
            "back to the configuration before.",
        ),
    ] = 60.0
