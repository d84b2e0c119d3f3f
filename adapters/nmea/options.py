"""Options of the NMEA adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from adapters.base import Options


class NmeaOptions(Options, frozen=True, kw_only=True):
    """Options of the NMEA adapter, which reads GGA, RMC, VTG and GSA of any talker and ignores the rest."""

    url: Annotated[
        str, Meta(max_length=2_000, description="serial:///dev/ttyUSB0?baud=9600 or tcp://host:port")
    ]
    stream: Annotated[str, Meta(description="Name of the stream.")] = "position"
    row_wait_s: Annotated[
        float, Meta(gt=0, le=10, description="Seconds that a row waits for further sentences of its time.")
    ] = 0.25
    time: Annotated[
        Literal["device", "receipt"],
        Meta(description="Time of the rows: the receiver's, or of receipt."),
    ] = "device"
    checksum: Annotated[
        Literal["required", "optional"],
        Meta(description="optional = also sentences without a checksum, as some old receivers send them."),
    ] = "required"
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A receiver time that is off by more seconds is not believed.")
    ] = 86_400.0
    silence_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds without a row until the device has stalled.")
    ] = 5.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds that opening may take, the first sentence included.")
    ] = 5.0
    bad_lines: Annotated[
        int, Meta(ge=1, le=100_000, description="Bad lines in a row that mean another device.")
    ] = 50
