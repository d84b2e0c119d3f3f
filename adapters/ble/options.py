"""Options of the Bluetooth adapter, and their check."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from adapters.base import Options, OptionsError
from adapters.fields import FieldOptions


class LayoutPart(FieldOptions, frozen=True, kw_only=True):
    """One field of a characteristic's value."""

    scale: Annotated[float, Meta(description="The number that was sent is multiplied by this.")] = 1.0
    offset: Annotated[float, Meta(description="This is then added.")] = 0.0


class Characteristic(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A value that a device notifies; it becomes one stream."""

    uuid: Annotated[str, Meta(max_length=36, description="16 bit (2A1C) or 128 bit UUID, in quotes.")]
    layout: Annotated[
        str,
        Meta(min_length=1, max_length=64, description="Format of Python's struct, little-endian, e.g. BhH."),
    ]
    fields: Annotated[
        dict[str, LayoutPart],
        Meta(min_length=1, max_length=100, description="Field names in the layout's order."),
    ]


HEART_RATE = "2A37"
BATTERY = "2A19"

_TRANSPORTS = ("hci-socket", "usb", "serial", "tcp-client")
_ADDRESS = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_UUID = re.compile(r"[0-9A-Fa-f]{4}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class BleOptions(Options, frozen=True, kw_only=True):
    """Options of the Bluetooth adapter: a controller (`hci`), and a device by its `address` or `name`."""

    hci: Annotated[
        str,
        Meta(
            max_length=200,
            description="hci-socket:0, usb:0, serial:/dev/ttyACM0,1000000 or tcp-client:host:port.",
        ),
    ]
    address: Annotated[str, Meta(description="Address of the device, F0:F1:F2:F3:F4:F5.")] = ""
    name: Annotated[
        str, Meta(max_length=248, description="Name that the device advertises, instead of an address.")
    ] = ""
    heart: Annotated[bool, Meta(description="Read the heart rate (service 180D).")] = True
    battery: Annotated[bool, Meta(description="Read the battery level (180F), if the device has one.")] = True
    characteristics: Annotated[
        dict[str, Characteristic],
        Meta(max_length=32, description="Stream name to a value that the device notifies."),
    ] = msgspec.field(default_factory=dict)
    manufacturer: Annotated[str, Meta(description="Manufacturer it must report (2A29); empty = any.")] = ""
    model: Annotated[str, Meta(description="Model it must report (2A24); empty = any.")] = ""
    serial_number: Annotated[str, Meta(description="Serial number it must report (2A25); empty = any.")] = ""
    stream: Annotated[str, Meta(description="Name of the stream of the heart rate.")] = "heart"
    silence_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds without a value until the device has stalled.")
    ] = 10.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="Seconds that finding the device and connecting may take.")
    ] = 20.0


def check(options: BleOptions) -> None:
    """Check the options.

    Raises:
        OptionsError: they cannot work.
    """
    transport, _, rest = options.hci.partition(":")
    if transport not in _TRANSPORTS or not rest:
        raise OptionsError(f"hci {options.hci!r} is not one of {', '.join(f'{t}:...' for t in _TRANSPORTS)}")
    if transport == "tcp-client" and not re.fullmatch(r".+:\d{1,5}", rest):
        raise OptionsError(f"hci {options.hci!r} is not tcp-client:host:port")
    if bool(options.address) == bool(options.name):
        raise OptionsError("give either the `address` or the `name` of the device: others may be nearby")
    if options.address and not _ADDRESS.fullmatch(options.address):
        raise OptionsError(f"address {options.address!r} is not like F0:F1:F2:F3:F4:F5")
    if not options.heart and not options.characteristics:
        raise OptionsError("`heart: false` needs `characteristics`: there is nothing else to read")
    uuids = [given.uuid.upper() for given in options.characteristics.values()]
    if len(set(uuids)) != len(uuids):
        raise OptionsError("characteristics: two streams read the same uuid; put their fields into one")
    for name, given in options.characteristics.items():
        if given.uuid.upper() in ((HEART_RATE,) * options.heart + (BATTERY,) * options.battery):
            raise OptionsError(f"{name}: {given.uuid} is already read: set `heart` or `battery` to false")
        if not _UUID.fullmatch(given.uuid):
            raise OptionsError(f"{name}: uuid {given.uuid!r} is not like 2A1C or 0000xxxx-0000-1000-...")
