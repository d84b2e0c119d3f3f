"""Options of the VDA 5050 adapter."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from adapters.mqtt.options import MqttOptions

_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Vda5050Options(MqttOptions, frozen=True, kw_only=True):
    """Which vehicle."""

    manufacturer: Annotated[_Name, Meta(description="As in its topics and messages.")]
    serial: Annotated[_Name, Meta(description="serialNumber, as in its topics and messages.")]
    interface: Annotated[_Name, Meta(description="First level of its topics.")] = "uagv"
    orders: Annotated[bool, Meta(description="Also read the orders its fleet control sends it.")] = True
    visualization: Annotated[bool, Meta(description="Also read its quick position messages.")] = False
    silence_s: Annotated[
        float,
        Meta(gt=0, le=604_800, description="No state for so long: stalled. VDA 5050 demands one in 30."),
    ] = 35.0
