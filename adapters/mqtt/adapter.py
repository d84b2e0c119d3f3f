"""Reads MQTT topics of any device: each message is JSON, one number, text or CSV, and becomes one row."""

from __future__ import annotations

import csv
from collections.abc import Iterable

from adapters.base import OptionsError, Reading, Value, allowed_write
from adapters.device_time import time_zone
from adapters.mqtt.options import MqttField, MqttTopicOptions, fields_of, steps_of
from adapters.mqtt.payload import (
    MISSING,
    Unusable,
    any_json,
    find,
    instant_ns,
    only_keys,
    text_of,
)
from adapters.mqtt.session import MqttAdapter, TopicMessage
from adapters.mqtt.set_point import MqttSetPoint
from wire.clock import Clock
from wire.messages import Quality, Stream


class Mqtt(MqttAdapter[MqttTopicOptions]):
    """One or more topics of a broker, one signal stream: one row for each message.

    If `time` names its place, a row has the time in the message, else the time of receipt. The age of a
    retained message is unknown: its row is UNCERTAIN and gets its time in the same way.
    """

    Options = MqttTopicOptions
    kind = "mqtt"
    time_cure = ", or `format` of `time`, or `timezone` of `time` if its times name no zone"

    def __init__(self, options: MqttTopicOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self._field_options = {
            name: MqttField(path=given) if isinstance(given, str) else given
            for name, given in options.fields.items()
        }
        self._fields = fields_of(options, self._field_options)
        self._paths = {
            name: steps_of(options.format, given.path) for name, given in self._field_options.items()
        }
        self._time = steps_of(options.format, options.time.path) if options.time else ()
        self._zone = time_zone(options.time.timezone if options.time else "UTC")
        if options.partial:
            self.may_be_null |= self._fields.keys()
        if options.time and options.format in ("number", "text"):
            raise OptionsError(f"a {options.format} message contains no time: remove `time`")
        write = allowed_write(options.write, allow_write=options.allow_write)
        self._set_point = None if write is None else MqttSetPoint(write, options, self._broker)

    @property
    def set_point(self) -> MqttSetPoint | None:
        """The topic of `write`, where `allow_write` is true."""
        return self._set_point

    def topics(self) -> list[str]:
        """The topic filters of the options."""
        return self.options.topics

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        return {self.options.stream: Stream(fields=self._fields)}

    def rows(self, message: TopicMessage) -> Iterable[Reading]:
        """The row of one message."""
        options = self.options
        if message.retained:
            self.counters["retained"] += 1
            if options.retained == "ignore":
                return
        document = self._document(message.body)
        values: dict[str, Value] = {}
        quality = Quality.UNCERTAIN if message.retained else Quality.GOOD
        found = 0
        for name, given in self._field_options.items():
            raw = find(document, self._paths[name]) if self._paths[name] else document
            values[name], value_quality = self._value(name, raw, given.t)
            if raw is MISSING:
                value_quality = Quality.GOOD if options.partial else Quality.UNCERTAIN
            else:
                found += 1
            quality = quality.worse(value_quality)
        if not found:
            raise Unusable("no_fields", f"the message contains no field of `fields`{only_keys(document)}")
        if found < len(self._field_options) and not options.partial:
            self.counters["incomplete"] += 1
        levels = message.topic.split("/")
        for name, level in options.keep.items():
            values[name] = levels[level - 1] if level <= len(levels) else None
        at_ns, time_quality = self._at(document, message)
        yield Reading(options.stream, at_ns, values, quality=quality.worse(time_quality))

    def _document(self, body: bytes) -> object:
        options = self.options
        if options.format == "json":
            return any_json(body)
        text = text_of(body)
        if options.format != "csv":
            return text
        lines = text.strip("\r\n").splitlines()
        if len(lines) != 1 or len(text) > 65_536:
            raise Unusable("not_csv", "the message is not one line of CSV")
        try:
            columns = next(csv.reader(lines, delimiter=options.separator, strict=True))
        except csv.Error as error:
            raise Unusable("not_csv", f"the message is not CSV: {error}") from error
        return columns

    def _value(self, name: str, raw: object, kind: str) -> tuple[Value, Quality]:
        text = self.options.format != "json"
        return self.typed(name, raw, kind, convert=text or self.options.convert)

    def _at(self, document: object, message: TopicMessage) -> tuple[int, Quality]:
        options = self.options
        if options.time is None:
            return message.at_ns, Quality.GOOD
        raw = find(document, self._time)
        if isinstance(raw, str):
            raw = raw.strip()
        at_ns = instant_ns(raw, options.time.format, self._zone)
        return self.device_time(at_ns, message, needed=True)
