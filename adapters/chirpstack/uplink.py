"""Reads the parts of an uplink event one by one: a part of another type costs only itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from adapters.mqtt.payload import Unusable

_NOTHING: Mapping[str, Any] = {}


class Reception(Struct):
    """The reception of an uplink by one gateway."""

    rssi: float | None = 0.0
    snr: float | None = 0.0


class UplinkEvent(Struct):
    """The parts of an uplink event that are read; `odd` names those of another type, which have no value."""

    dev_eui: str
    application_id: str
    deduplication_id: str
    time: str
    dev_addr: str
    f_cnt: int | None
    f_port: int | None
    data: str
    object: Any
    rx_info: list[Reception]
    odd: list[str]


def uplink_of(document: Mapping[str, Any]) -> UplinkEvent:
    """An uplink event from its JSON; a part that is missing or null has its default, as in protobuf.

    Raises:
        Unusable: it is not an uplink of ChirpStack v4.
    """
    info = document.get("deviceInfo")
    if not isinstance(info, dict):
        older = "devEUI" in document or "applicationID" in document
        why = "an uplink of ChirpStack v3: version 4 is read" if older else "`deviceInfo` is not an object"
        raise Unusable("unexpected_json", f"the message is not as expected: {why}")
    odd: list[str] = []
    receptions = document.get("rxInfo") or []
    if not isinstance(receptions, list):
        odd.append("rxInfo")
        receptions = []
    return UplinkEvent(
        dev_eui=_text(info, "devEui", odd),
        application_id=_text(info, "applicationId", odd),
        deduplication_id=_text(document, "deduplicationId", odd),
        time=_text(document, "time", odd),
        dev_addr=_text(document, "devAddr", odd),
        f_cnt=_whole(document, "fCnt", 2**32 - 1, odd),
        f_port=_whole(document, "fPort", 255, odd),
        data=_text(document, "data", odd),
        object=document.get("object"),
        rx_info=[_reception(each if isinstance(each, dict) else _NOTHING, odd) for each in receptions],
        odd=odd,
    )


def _text(source: Mapping[str, Any], key: str, odd: list[str]) -> str:
    raw = source.get(key)
    if isinstance(raw, str):
        return raw
    if raw is not None:
        odd.append(key)
    return ""


def _whole(source: Mapping[str, Any], key: str, most: int, odd: list[str]) -> int | None:
    raw = source.get(key)
    if raw is None:
        return 0
    if type(raw) is int and 0 <= raw <= most:
        return raw
    odd.append(key)
    return None


def _reception(source: Mapping[str, Any], odd: list[str]) -> Reception:
    found: dict[str, float | None] = {}
    for key in ("rssi", "snr"):
        raw = source.get(key, 0.0)
        if raw is None or (isinstance(raw, int | float) and not isinstance(raw, bool)):
            found[key] = raw
        else:
            odd.append(key)
            found[key] = None
    return Reception(**found)
