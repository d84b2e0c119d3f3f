"""Options of the CAN adapter, and of the bus, which the OBD-II adapter uses too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import can
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters import device_url
from adapters.base import Options, OptionsError
from adapters.can.slcan import BITRATES

MAX_FIELDS = 500


class Picking(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One field: its signal, and what overrides the DBC file."""

    signal: Annotated[str, Meta(max_length=300, description="Message.Signal as the DBC names them.")]
    t: Annotated[
        Literal["", "f32", "f64", "i64", "bool", "str"],
        Meta(description="Type; str = the names of the DBC's value table; empty = i64 or f64 as it scales."),
    ] = ""
    unit: Annotated[
        str,
        Meta(
            max_length=128,
            description="UCUM code to convert to; where the DBC has no unit, the unit of the signal.",
        ),
    ] = ""
    dec: Annotated[int, Meta(ge=0, le=12, description="Decimals that travel.")] | UnsetType = UNSET
    min: Annotated[float, Meta(description="Values below are flagged.")] | UnsetType = UNSET
    max: Annotated[float, Meta(description="Values above are flagged.")] | UnsetType = UNSET
    desc: Annotated[str, Meta(max_length=2_000, description="For people.")] = ""
    absent: (
        Annotated[
            list[int | Annotated[str, Meta(max_length=300)]],
            Meta(
                max_length=100,
                description="Names of the value table, or raw values, that mean no measurement: null."
                " Default: those named SNA, not available or the like.",
            ),
        ]
        | UnsetType
    ) = UNSET


class BusOptions(Options, frozen=True, kw_only=True):
    """How to reach a bus: the options that the CAN and the OBD-II adapter share."""

    interface: Annotated[
        str,
        Meta(min_length=1, max_length=50, description="python-can interface: socketcan, slcan, pcan, ..."),
    ]
    channel: Annotated[
        str, Meta(min_length=1, max_length=500, description="can0, /dev/ttyACM0, socket://host:port, ...")
    ]
    bitrate: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Bits a second; 0 = as the bus is already set.")
    ] = 500_000
    fd: Annotated[bool, Meta(description="Read CAN FD frames too, where the interface supports them.")] = (
        False
    )
    bus: Annotated[
        dict[str, bool | int | float | str],
        Meta(max_length=50, description="Further options of python-can for this interface."),
    ] = msgspec.field(default_factory=dict)
    queue: Annotated[
        int, Meta(ge=10, le=1_000_000, description="Frames kept for a slow reader; the oldest is dropped.")
    ] = 10_000
    timeout_s: Annotated[float, Meta(gt=0, le=60, description="Seconds that opening may take.")] = 8.0
    data_age_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds without data until the device has stalled.")
    ] = 5.0

    @property
    def where(self) -> str:
        """The name of the bus in errors."""
        return f"{self.interface} {self.channel}"


def check_bus(options: BusOptions) -> None:
    """Refuse options that no bus can be opened with.

    Raises:
        OptionsError: unknown interface, or a channel or bitrate that the interface does not support.
    """
    if options.interface not in can.VALID_INTERFACES:
        known = ", ".join(sorted(can.VALID_INTERFACES))
        raise OptionsError(f"interface {options.interface!r} is unknown to python-can; there are {known}")
    taken = {"interface", "channel", "bitrate", "fd", "can_filters"} & options.bus.keys()
    if taken:
        raise OptionsError(
            f"bus: {', '.join(sorted(taken))} cannot be set here: edgebed sets it from the other options"
        )
    if options.interface != "slcan":
        return
    if options.bitrate and options.bitrate not in BITRATES:
        known = ", ".join(map(str, BITRATES))
        raise OptionsError(f"bitrate {options.bitrate} is not a bit rate of SLCAN: {known}, or 0")
    if "://" in options.channel:
        _check_url(options.channel)


def _check_url(channel: str) -> None:
    parts = device_url.split(channel, "remove it, no CAN interface uses one", "channel")
    if parts.scheme != "socket" or not parts.hostname or not parts.port:
        raise OptionsError(f"channel {channel!r} is neither a serial port nor socket://host:port")


class CanOptions(BusOptions, frozen=True, kw_only=True):
    """One bus and its DBC file; without `signals`, all signals of the file."""

    dbc: Annotated[Path, Meta(description="DBC file that names messages and signals.")]
    encoding: Annotated[
        str, Meta(max_length=40, description="Of the DBC file, e.g. cp949; empty = UTF-8, else cp1252.")
    ] = ""
    row_on: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="Message whose arrival makes a row: the last of a cycle.",
        ),
    ]
    signals: Annotated[
        dict[str, str | Picking],
        Meta(max_length=MAX_FIELDS, description="Field name to Message.Signal, or to signal with unit."),
    ] = msgspec.field(default_factory=dict)
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    rate_hz: Annotated[
        float, Meta(ge=0, le=10_000, description="Rate of row_on; 0 = as in the DBC file.")
    ] = 0.0
    time: Annotated[
        str, Meta(max_length=300, description="Message.Signal of Unix time; empty = time of receipt.")
    ] = ""
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A device clock that is off by more is not believed.")
    ] = 86_400.0
    max_age_s: Annotated[
        float, Meta(gt=0, le=86_400, description="A value older than this is null in a row.")
    ] = 1.0
