"""Reads LoRaWAN sensors of a ChirpStack v4 network server from its MQTT integration.

    application/{application id}/device/{DevEUI}/event/up | join | status | log | ...

The JSON is the protobuf mapping of `integration.UplinkEvent`: a number that is 0 may be omitted. The adapter
publishes nothing, so it never queues a downlink.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from adapters.base import OptionsError, Reading, Value
from adapters.chirpstack.lorawan_payload import RawPart
from adapters.chirpstack.options import ChirpStackOptions, UplinkField, fields_of, place_of
from adapters.chirpstack.uplink import Reception, UplinkEvent, uplink_of
from adapters.mqtt.payload import MISSING, Unusable, find, iso_ns, json_object, only_keys
from adapters.mqtt.session import MqttAdapter, TopicMessage
from wire.clock import Clock
from wire.messages import Quality, Stream
from wire.topics import ID

_EVENTS = ("join", "status", "ack", "txack", "log", "location", "integration")
_REMEMBERED = 64  # uplinks of one sensor


@dataclass(slots=True)
class _Sensor:
    """The state of one sensor."""

    stream: str
    f_cnt: int | None = None
    dev_addr: str = ""
    seen: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class ChirpStack(MqttAdapter[ChirpStackOptions]):
    """One stream for each sensor; its rows have the network server's time of the uplink.

    A repeated uplink is dropped and counted. A gap of the frame counter is counted as uplinks lost on the
    air. Repeats and gaps are detected only from the opening of this connection on.
    """

    Options = ChirpStackOptions
    kind = "chirpstack"

    def __init__(self, options: ChirpStackOptions, clock: Clock) -> None:
        if any(sign in options.application for sign in "/+#\0"):
            raise OptionsError(
                f"application {options.application!r} is not a topic level: it contains / + or #"
            )
        super().__init__(options, clock)
        given = {
            name: UplinkField(path=where) if isinstance(where, str) else where
            for name, where in options.fields.items()
        }
        self._places = {name: place_of(name, each) for name, each in given.items()}
        self._types = {name: each.t for name, each in given.items()}
        self._fields = fields_of(options, given)
        self._sensors = _sensors(options.sensors)
        self.may_be_null |= {"rssi", "snr"}  # ChirpStack hides private gateways of other tenants

    def topics(self) -> list[str]:
        """All events of each sensor: events other than uplinks are counted."""
        options = self.options
        return [
            f"application/{options.application}/device/{eui.lower()}/event/+"
            for eui in options.sensors.values()
        ]

    def streams(self) -> dict[str, Stream]:
        """One signal stream for each sensor."""
        return {name: Stream(fields=self._fields) for name in self.options.sensors}

    def rows(self, message: TopicMessage) -> Iterable[Reading]:
        """The row of an uplink with data."""
        _, _, _, eui, _, event = message.topic.split("/")  # the subscription ensures this form
        if event != "up":
            self.counters[f"{event}_events" if event in _EVENTS else "other_events"] += 1
            return
        if message.retained:
            raise Unusable("retained", "a retained uplink is of unknown age", expected=True)
        uplink = uplink_of(json_object(message.body))
        options = self.options
        if uplink.dev_eui.lower() != eui or uplink.application_id.lower() != options.application.lower():
            raise Unusable("wrong_identity", f"the topic of {eui} has an uplink of {uplink.dev_eui[:32]!r}")
        sensor = self._sensors[eui]
        if self._repeated(sensor, uplink):
            return
        if uplink.f_port == 0 or options.f_port not in (0, uplink.f_port):
            self.counters["other_ports"] += 1  # FPort 0 carries MAC commands, not data of the sensor
            return
        values, quality = self._values(uplink)
        part = f"parts of {sensor.stream}"
        if uplink.odd:
            self.counters["odd_fields"] += len(uplink.odd)
            quality = quality.worse(Quality.WRONG_TYPE)
            names = ", ".join(sorted(set(uplink.odd)))
            self.not_read(f"{names} in an uplink of {sensor.stream}: not of the type of ChirpStack v4", part)
        elif self.unread:
            self.was_read(part)
        at_ns, time_quality = self.device_time(iso_ns(uplink.time or ""), message)
        yield Reading(sensor.stream, at_ns, values, quality=quality.worse(time_quality))

    def _repeated(self, sensor: _Sensor, uplink: UplinkEvent) -> bool:
        """Whether the uplink was read before; counts the uplinks that the frame counter shows as missing."""
        # no single id identifies an uplink: some sensors and bridges send a constant one
        same = (
            uplink.time or uplink.deduplication_id,
            uplink.dev_addr,
            uplink.f_cnt,
            uplink.f_port,
            uplink.data,
            uplink.object,
        )
        known = blake2b(_text_of(same).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if same[0] and known in sensor.seen:
            self.counters["duplicates"] += 1
            return True
        sensor.seen[known] = None
        if len(sensor.seen) > _REMEMBERED:
            sensor.seen.popitem(last=False)
        before, same_session = sensor.f_cnt, uplink.dev_addr == sensor.dev_addr
        sensor.f_cnt, sensor.dev_addr = uplink.f_cnt, uplink.dev_addr
        if before is None or uplink.f_cnt is None:
            return False
        if not same_session or uplink.f_cnt <= before:
            # the sensor joined again: the number of uplinks lost before this one is unknown
            self.counters["counter_resets"] += 1
        elif uplink.f_cnt > before + 1:
            self.counters["lost_uplinks"] += uplink.f_cnt - before - 1
        return False

    def advice(self, kind: str) -> str:
        """How to make ChirpStack send JSON."""
        return "set the marshaler of ChirpStack's MQTT integration to json" if "protobuf" in kind else ""

    def _data(self, uplink: UplinkEvent) -> bytes:
        """The bytes of the uplink; none if they are not base64 and other fields do not need them."""
        try:
            return _bytes(uplink.data or "")
        except Unusable:
            if any(not isinstance(place, RawPart) for place in self._places.values()):
                return b""
            raise

    def _values(self, uplink: UplinkEvent) -> tuple[dict[str, Value], Quality]:
        data = self._data(uplink)
        values: dict[str, Value] = {}
        quality, found = Quality.GOOD, 0
        for name, place in self._places.items():
            raw = place.read(data) if isinstance(place, RawPart) else find(uplink.object, place)
            if raw is None and isinstance(place, RawPart):
                raw = MISSING
            convert = self.options.convert
            values[name], value_quality = self.typed(name, raw, self._types[name], convert=convert)
            found += raw is not MISSING
            quality = quality.worse(value_quality)
        if self._places and not found:
            why = f"the uplink has no field of `fields`{only_keys(uplink.object)}"
            if uplink.object is None:
                why = (
                    f"the uplink of FPort {uplink.f_port} has no `object`: give its device profile a codec,"
                    " or read its bytes with `raw` in `fields`"
                )
            raise Unusable("no_fields", why)
        if found < len(self._places):
            self.counters["incomplete"] += 1
        if self.options.radio:
            values.update(_radio(uplink))
        return values, quality


def _text_of(same: object) -> str:
    try:
        return repr(same)
    except ValueError as error:  # a number of more digits than Python writes
        raise Unusable("unexpected_json", "the uplink contains a number of too many digits") from error


def _radio(uplink: UplinkEvent) -> dict[str, Value]:
    heard = [one for one in uplink.rx_info if one.rssi is not None]
    best = max(heard, key=lambda one: one.rssi or -math.inf, default=Reception(None, None))
    return {"rssi": best.rssi, "snr": best.snr, "gateways": len(uplink.rx_info), "f_cnt": uplink.f_cnt}


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("not_base64", "the payload is not base64") from error


# --- options


def _sensors(named: Mapping[str, str]) -> dict[str, _Sensor]:
    found: dict[str, _Sensor] = {}
    for stream, eui in named.items():
        if not ID.fullmatch(stream):
            raise OptionsError(f"sensor {stream!r} is not an id (a-z, 0-9 and '-', 1 to 32 characters)")
        if eui.lower() in found:
            raise OptionsError(f"DevEUI {eui} is twice in `sensors`")
        found[eui.lower()] = _Sensor(stream)
    return found
