"""Options of the VDA 5050 adapter."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from adapters.mqtt.options import MqttOptions

_Name = Annotated[str, Meta(min_length=1, max_length=128)]


class Vda5050Options(MqttOptions, frozen=True, kw_only=True):
    """The vehicle, and what is read of it."""

    manufacturer: Annotated[_Name, Meta(description="Manufacturer, as in the topics and messages.")]
    serial: Annotated[_Name, Meta(description="serialNumber, as in the topics and messages.")]
    interface: Annotated[_Name, Meta(description="First level of the topics.")] = "uagv"
    topic_version: Annotated[
        str,
        Meta(min_length=1, max_length=32, description="Second level of the topics; version 2 is read."),
    ] = "v2"
    orders: Annotated[bool, Meta(description="Also read the orders that the fleet control sends.")] = True
    visualization: Annotated[bool, Meta(description="Also read the frequent position messages.")] = False
    silence_s: Annotated[
        float,
        Meta(
            gt=0,
            le=604_800,
            description="Seconds without a state until it has stalled; VDA 5050 requires one per 30 s.",
        ),
    ] = 35.0
