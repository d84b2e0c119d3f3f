"""Options of the ChirpStack adapter, and the fields and places that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from adapters.base import OptionsError
from adapters.chirpstack.lorawan_payload import RawPart, raw_part
from adapters.fields import FieldOptions, declared
from adapters.mqtt.options import CONVERT, MqttOptions
from adapters.mqtt.payload import path_steps
from wire.messages import Field

RADIO = {
    "rssi": Field(unit="{dBm}", dec=0, desc="At the gateway with the best reception"),
    "snr": Field(unit="dB", dec=1),
    "gateways": Field(t="i64", min=0, desc="Number of gateways that received it"),
    "f_cnt": Field(t="i64", min=0, desc="Frame counter of the sensor"),
}


class UplinkField(FieldOptions, frozen=True, kw_only=True):
    """One field and its place in an uplink: in the decoded `object`, or in the bytes."""

    path: Annotated[
        str, Meta(max_length=300, description="JSON pointer or path in `object`, the result of the codec.")
    ] = ""
    raw: Annotated[
        str,
        Meta(
            max_length=20,
            description="Byte and type: 0:u8, 1:i16, 4:u32le, 2:f32, 0:bit3; big-endian without le.",
        ),
    ] = ""
    scale: Annotated[float, Meta(description="raw: the number is multiplied by this.")] = 1.0
    offset: Annotated[float, Meta(description="raw: this is then added.")] = 0.0


class ChirpStackOptions(MqttOptions, frozen=True, kw_only=True):
    """Sensors of one kind in one application; each has its own stream."""

    application: Annotated[str, Meta(min_length=1, max_length=64, description="Application id, a UUID.")]
    sensors: Annotated[
        dict[str, Annotated[str, Meta(pattern=r"^[0-9A-Fa-f]{16}\Z")]],
        Meta(min_length=1, max_length=200, description="Stream name to DevEUI, 16 hexadecimal digits."),
    ]
    fields: Annotated[
        dict[str, str | UplinkField],
        Meta(max_length=200, description="Field name to path in `object`, or to path or raw with unit."),
    ]
    f_port: Annotated[
        int, Meta(ge=0, le=255, description="Only uplinks of this FPort; 0 = all but MAC commands.")
    ] = 0
    convert: Annotated[bool, Meta(description=CONVERT)] = False
    radio: Annotated[bool, Meta(description="Also the fields rssi, snr, gateways and f_cnt.")] = True
    silence_s: Annotated[
        float,
        Meta(gt=0, le=604_800, description="Seconds without an uplink of any sensor until it has stalled."),
    ] = 7_200.0


def place_of(name: str, given: UplinkField) -> RawPart | tuple[str, ...]:
    if bool(given.path) == bool(given.raw):
        raise OptionsError(f"field {name!r} needs either `path` or `raw`")
    if given.path and (given.scale, given.offset) != (1.0, 0.0):
        raise OptionsError(f"field {name!r}: scale and offset need `raw`; a path is read without them")
    try:
        return (
            raw_part(given.raw, given.scale, given.offset, given.t) if given.raw else path_steps(given.path)
        )
    except ValueError as error:
        raise OptionsError(f"field {name!r}: {error}") from error


def fields_of(options: ChirpStackOptions, given: Mapping[str, UplinkField]) -> dict[str, Field]:
    if not given and not options.radio:
        raise OptionsError("there is nothing to read: give `fields` or `radio`")
    if options.radio and (both := given.keys() & RADIO.keys()):
        raise OptionsError(f"{', '.join(sorted(both))} is a field of `radio` already")
    return {**declared(given), **(RADIO if options.radio else {})}
