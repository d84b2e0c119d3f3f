"""Topics that devices publish already become a stream: JSON, one number, text or CSV a message."""

from __future__ import annotations

import csv
from collections.abc import Iterable

from adapters.base import OptionsError, Reading, Value
from adapters.device_time import checked_time
from adapters.mqtt.options import MqttField, MqttTopicOptions, fields_of, steps_of
from adapters.mqtt.payload import (
    MISSING,
    Unusable,
    any_json,
    as_declared,
    find,
    from_text,
    instant_ns,
    text_of,
)
from adapters.mqtt.session import MqttAdapter, TopicMessage
from wire.clock import Clock
from wire.messages import Quality, Stream


class Mqtt(MqttAdapter[MqttTopicOptions]):
    """Whatever publishes on a broker: one row a message.

    A row is stamped with the device's time where `time` says where it stands, else at receipt. A retained
    message says nothing of when it was true: it is UNCERTAIN, and stamped the same way.
    """

    Options = MqttTopicOptions
    kind = "mqtt"

    def __init__(self, options: MqttTopicOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self._said = {
            name: MqttField(path=said) if isinstance(said, str) else said
            for name, said in options.fields.items()
        }
        self._fields = fields_of(options, self._said)
        self._paths = {name: steps_of(options.format, said.path) for name, said in self._said.items()}
        self._time = steps_of(options.format, options.time.path) if options.time else ()
        if options.time and options.format in ("number", "text"):
            raise OptionsError(f"a {options.format} message has no time in it: take `time` away")

    def topics(self) -> list[str]:
        """As the options say."""
        return self.options.topics

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        return {self.options.stream: Stream(fields=self._fields)}

    def rows(self, message: TopicMessage) -> Iterable[Reading]:
        """One row."""
        options = self.options
        if message.retained:
            self.counters["retained"] += 1
            if options.retained == "ignore":
                return
        document = self._document(message.body)
        values: dict[str, Value] = {}
        quality = Quality.UNCERTAIN if message.retained else Quality.GOOD
        found = 0
        for name, said in self._said.items():
            raw = find(document, self._paths[name]) if self._paths[name] else document
            values[name], doubt = self._value(raw, said.t)
            if raw is MISSING:
                doubt = Quality.GOOD if options.partial else Quality.UNCERTAIN
            else:
                found += 1
            quality = quality.worse(doubt)
        if not found:
            raise Unusable("no_fields", "none of the fields is in it")
        if found < len(self._said) and not options.partial:
            self.counters["incomplete"] += 1
        levels = message.topic.split("/")
        for name, level in options.keep.items():
            values[name] = levels[level - 1] if level <= len(levels) else None
        at_ns, doubt = self._at(document, message.at_ns)
        yield Reading(options.stream, at_ns, values, quality=quality.worse(doubt))

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
            raise Unusable("not_csv", f"the message is no CSV: {error}") from error
        return columns

    def _value(self, raw: object, kind: str) -> tuple[Value, Quality]:
        if self.options.format != "json" and isinstance(raw, str):
            return from_text(raw, kind)
        return as_declared(raw, kind)

    def _at(self, document: object, receipt_ns: int) -> tuple[int, Quality]:
        options = self.options
        if options.time is None:
            return receipt_ns, Quality.GOOD
        raw = find(document, self._time)
        if isinstance(raw, str):
            raw = raw.strip()
        said_ns = instant_ns(raw, options.time.format)
        return checked_time(said_ns, receipt_ns, options.max_skew_s, self.counters)
