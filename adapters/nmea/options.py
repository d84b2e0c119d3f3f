"""Options of the NMEA adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from adapters.base import Options


class NmeaOptions(Options, frozen=True, kw_only=True):
    """GGA, RMC, VTG and GSA of any talker are read, other sentences are passed over."""

    url: Annotated[
        str, Meta(max_length=2_000, description="serial:///dev/ttyUSB0?baud=9600 or tcp://host:port")
    ]
    stream: Annotated[str, Meta(description="Name of the stream.")] = "position"
    row_wait_s: Annotated[
        float, Meta(gt=0, le=10, description="How long a row waits for a sentence of its instant.")
    ] = 0.25
    time: Annotated[Literal["device", "receipt"], Meta(description="Whose clock stamps the rows.")] = "device"
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A receiver's time further off than this is not believed.")
    ] = 86_400.0
    silence_s: Annotated[float, Meta(gt=0, le=86_400, description="No row for so long: stalled.")] = 5.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Opening may take so long, the first sentence included.")
    ] = 5.0
    bad_lines: Annotated[
        int, Meta(ge=1, le=100_000, description="So many bad lines in a row: another device.")
    ] = 50
