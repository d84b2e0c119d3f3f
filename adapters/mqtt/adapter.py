"""Topics that devices publish already become a stream: JSON, one number, text or CSV a message."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adapters.base import OptionsError, Reading, Value
from adapters.device_time import believed
from adapters.fields import FieldOptions, declared
from adapters.mqtt.payload import (
    MISSING,
    TimeFormat,
    Unusable,
    any_json,
    as_declared,
    find,
    from_text,
    instant_ns,
    path_steps,
    text_of,
    worse,
)
from adapters.mqtt.session import MqttAdapter, MqttOptions, Received
from wire.clock import Clock
from wire.messages import Field, Quality, Stream

_MAX_COLUMNS = 10_000


class MqttField(FieldOptions, frozen=True, kw_only=True):
    """Where a field stands in a message."""

    path: Annotated[
        str,
        Meta(
            max_length=300,
            description="json: pointer /air/0/temp or path air.temp; csv: column from 1; else leave empty.",
        ),
    ] = ""


class TimeOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Where the device's own time stands in a message."""

    path: Annotated[str, Meta(max_length=300, description="As the path of a field.")]
    format: Annotated[
        TimeFormat, Meta(description="iso = ISO 8601 (UTC without a zone); else a number since 1970.")
    ] = "iso"


class MqttTopicOptions(MqttOptions, frozen=True, kw_only=True):
    """One stream from one or more topics whose messages look alike."""

    topics: Annotated[
        list[str], Meta(min_length=1, max_length=200, description="Topic filters, with + and # as in MQTT.")
    ]
    format: Annotated[
        Literal["json", "number", "text", "csv"],
        Meta(description="What a message is; number and text have one field."),
    ] = "json"
    fields: Annotated[
        dict[str, str | MqttField],
        Meta(min_length=1, max_length=500, description="Field name to path, or to path with unit and type."),
    ]
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    time: Annotated[TimeOptions, Meta(description="The device's time; without it, receipt.")] | None = None
    keep: Annotated[
        dict[str, Annotated[int, Meta(ge=1, le=100)]],
        Meta(max_length=20, description="Field name to the topic level, from 1, that it holds as text."),
    ] = msgspec.field(default_factory=dict)
    retained: Annotated[
        Literal["flag", "ignore"],
        Meta(description="A message the broker kept is of unknown age: flagged uncertain, or dropped."),
    ] = "flag"
    partial: Annotated[bool, Meta(description="Messages may lack fields: no flag for those.")] = False
    separator: Annotated[str, Meta(min_length=1, max_length=1, description="csv: between columns.")] = ","


class Mqtt(MqttAdapter):
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
        self._fields = _fields(options, self._said)
        self._paths = {name: _steps(options.format, said.path) for name, said in self._said.items()}
        self._time = _steps(options.format, options.time.path) if options.time else ()
        if options.time and options.format in ("number", "text"):
            raise OptionsError(f"a {options.format} message has no time in it: take `time` away")

    def topics(self) -> list[str]:
        """As the options say."""
        options: MqttTopicOptions = self.options
        return options.topics

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        options: MqttTopicOptions = self.options
        return {options.stream: Stream(fields=self._fields)}

    def rows(self, message: Received) -> Iterable[Reading]:
        """One row."""
        options: MqttTopicOptions = self.options
        if message.retained:
            self.count("retained")
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
            quality = worse(quality, doubt)
        if not found:
            raise Unusable("no_fields", "none of the fields is in it")
        if found < len(self._said) and not options.partial:
            self.count("incomplete")
        levels = message.topic.split("/")
        for name, level in options.keep.items():
            values[name] = levels[level - 1] if level <= len(levels) else None
        at_ns, doubt = self._at(document, message.at_ns)
        yield Reading(options.stream, at_ns, values, quality=worse(quality, doubt))

    def _document(self, body: bytes) -> object:
        options: MqttTopicOptions = self.options
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
        options: MqttTopicOptions = self.options
        if options.format != "json" and isinstance(raw, str):
            return from_text(raw, kind)
        return as_declared(raw, kind)

    def _at(self, document: object, receipt_ns: int) -> tuple[int, Quality]:
        options: MqttTopicOptions = self.options
        if options.time is None:
            return receipt_ns, Quality.GOOD
        raw = find(document, self._time)
        if isinstance(raw, str):
            raw = raw.strip()
        said_ns = instant_ns(raw, options.time.format)
        return believed(said_ns, receipt_ns, options.max_skew_s, self.counters)


def _fields(options: MqttTopicOptions, said: dict[str, MqttField]) -> dict[str, Field]:
    if options.format in ("number", "text") and len(said) != 1:
        raise OptionsError(f"a {options.format} message has one field, not {len(said)}")
    if both := said.keys() & options.keep.keys():
        raise OptionsError(f"{', '.join(sorted(both))} is in `fields` and in `keep`")
    return declared({**said, **{name: FieldOptions(t="str") for name in options.keep}})


def _steps(form: str, path: str) -> tuple[str, ...]:
    if form in ("number", "text"):
        if path:
            raise OptionsError(f"path {path!r}: a {form} message is its one field, leave the path empty")
        return ()
    if form == "csv":
        if not (path.isascii() and path.isdigit() and 1 <= int(path[:6]) <= _MAX_COLUMNS):
            raise OptionsError(f"path {path!r} is no column: 1 is the first of a csv message")
        return (str(int(path) - 1),)
    try:
        return path_steps(path)
    except ValueError as error:
        raise OptionsError(str(error)) from error
