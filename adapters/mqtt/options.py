"""Options of the MQTT adapter, and the options that all adapters of MQTT topics share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adapters.base import Options, OptionsError
from adapters.fields import FieldOptions, declared
from adapters.mqtt.payload import TimeFormat, path_steps
from adapters.set_point import WriteLimits
from wire.broker import Broker
from wire.messages import Field
from wire.topics import ROOT

_LONGEST_FILTER = 1_000  # bytes


CONVERT = 'Also take values that are JSON texts ("22.5", "ON"), 1 and 0 as bool, numbers as str.'


class MqttOptions(Options, frozen=True, kw_only=True):
    """How to reach the broker, and limits."""

    url: Annotated[str, Meta(max_length=300, description="mqtt://host[:port], or mqtts:// for TLS.")]
    username: Annotated[str, Meta(max_length=256, description="User name; empty = the client id.")] = ""
    password_file: Annotated[Path | None, Meta(description="File whose first line is the password.")] = None
    ca_file: Annotated[
        Path | None, Meta(description="PEM of the authority; without it, the system's authorities.")
    ] = None
    cert_file: Annotated[Path | None, Meta(description="PEM of the client's certificate, for mTLS.")] = None
    key_file: Annotated[Path | None, Meta(description="PEM of the client's key.")] = None
    protocol: Annotated[
        Literal["auto", "3.1.1", "5", 5], Meta(description="auto tries MQTT 3.1.1 and falls back to 5.")
    ] = "auto"  # YAML reads a bare 5 as a number
    client_id: Annotated[
        str, Meta(max_length=64, description="MQTT client id; empty = a new one for each connection.")
    ] = ""
    qos: Annotated[Literal[0, 1], Meta(description="Quality of service to request.")] = 1
    timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds that connecting and subscribing may take.")
    ] = 8.0
    silence_s: Annotated[
        float,
        Meta(gt=0, le=604_800, description="Seconds without a usable message until the device has stalled."),
    ] = 60.0
    queue: Annotated[
        int, Meta(ge=1, le=100_000, description="Messages kept for a slow reader; the oldest is dropped.")
    ] = 1_000
    max_message_bytes: Annotated[
        int, Meta(ge=100, le=2_097_152, description="Larger messages are dropped and counted.")
    ] = 262_144
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A device time that is off by more seconds is not believed.")
    ] = 86_400.0


def check_filters(topics: list[str]) -> None:
    """Refuse wrong topic filters, and filters that match edgebed's own topics.

    An agent that read its own data as those of a device would send and read them again, without end.

    Raises:
        OptionsError: the text names the filter and the reason.
    """
    for topic in topics:
        levels = bare_filter(topic).split("/")
        if not topic or "\0" in topic or len(topic.encode()) > _LONGEST_FILTER:
            raise OptionsError(f"topic {topic[:40]!r} is not a topic filter: 1 to {_LONGEST_FILTER} bytes")
        if any(("#" in level or "+" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]:
            raise OptionsError(f"topic {topic!r}: `+` is one whole level, `#` the whole last one")
        if levels[0] in (ROOT, "+", "#"):
            raise OptionsError(
                f"topic {topic!r} matches {ROOT}/..., where edgebed itself publishes: that would be a loop;"
                " write the device's own first level"
            )


def bare_filter(topic: str) -> str:
    """A filter without the `$share/<group>/` of a shared subscription."""
    return topic.split("/", 2)[-1] if topic.startswith("$share/") else topic


def matches_any(filters: list[str]) -> Callable[[str], bool]:
    """Return a function that returns whether a topic matches one of the filters."""
    bare = {bare_filter(each) for each in filters}
    exact = {each for each in bare if "+" not in each and "#" not in each}
    patterns = [each.split("/") for each in bare - exact]

    def matches(topic: str) -> bool:
        return topic in exact or any(_matches(each, topic.split("/")) for each in patterns)

    return matches


def _matches(pattern: list[str], levels: list[str]) -> bool:
    if pattern[-1] == "#":  # `a/#` matches `a` too
        pattern, levels = pattern[:-1], levels[: len(pattern) - 1]
    return len(pattern) == len(levels) and all(
        each in ("+", level) for each, level in zip(pattern, levels, strict=True)
    )


def broker_of(options: MqttOptions) -> Broker:
    broker = Broker(
        url=options.url,
        username=options.username,
        password_file=options.password_file,
        ca_file=options.ca_file,
        cert_file=options.cert_file,
        key_file=options.key_file,
        protocol=options.protocol,
    )
    for _, sentence in broker.mistakes():
        raise OptionsError(sentence)
    if options.username and options.password_file is None and options.cert_file is None:
        raise OptionsError(f"username {options.username!r} needs a password_file")
    return broker


_MAX_COLUMNS = 10_000


class MqttField(FieldOptions, frozen=True, kw_only=True):
    """One field and its place in a message."""

    path: Annotated[
        str,
        Meta(
            max_length=300,
            description="json: pointer /air/0/temp or path air.temp; csv: column from 1; else leave empty.",
        ),
    ] = ""


class TimeOptions(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The place and format of the device's time in a message."""

    path: Annotated[str, Meta(max_length=300, description="Its place, written as the path of a field.")]
    format: Annotated[
        TimeFormat,
        Meta(description="iso = ISO 8601, else a number since 1970 in this unit."),
    ] = "iso"
    timezone: Annotated[
        str, Meta(max_length=64, description="Time zone of ISO times that name none, e.g. Asia/Seoul.")
    ] = "UTC"


class MqttWrite(WriteLimits, frozen=True, kw_only=True):
    """The one topic that a pilot may set; a message is the number as text."""

    topic: Annotated[str, Meta(min_length=1, max_length=256, description="A whole topic, without + and #.")]


class MqttTopicOptions(MqttOptions, frozen=True, kw_only=True):
    """One stream from one or more topics whose messages have the same format."""

    topics: Annotated[
        list[str], Meta(min_length=1, max_length=200, description="Topic filters, with + and # as in MQTT.")
    ]
    format: Annotated[
        Literal["json", "number", "text", "csv"],
        Meta(description="Format of a message; number and text have one field."),
    ] = "json"
    fields: Annotated[
        dict[str, str | MqttField],
        Meta(min_length=1, max_length=500, description="Field name to path, or to path with unit and type."),
    ]
    stream: Annotated[str, Meta(description="Name of the stream.")] = "signals"
    time: (
        Annotated[TimeOptions, Meta(description="The device's time; without it, the time of receipt.")] | None
    ) = None
    keep: Annotated[
        dict[str, Annotated[int, Meta(ge=1, le=100)]],
        Meta(max_length=20, description="Field name to the level of the topic, from 1, that is its text."),
    ] = msgspec.field(default_factory=dict)
    retained: Annotated[
        Literal["flag", "ignore"],
        Meta(description="Retained messages have an unknown age: flag them as uncertain, or drop them."),
    ] = "flag"
    convert: Annotated[bool, Meta(description=CONVERT)] = False
    partial: Annotated[
        bool, Meta(description="Messages may lack fields; such rows are not flagged as uncertain.")
    ] = False
    separator: Annotated[
        str, Meta(min_length=1, max_length=1, description="csv: the character between columns.")
    ] = ","
    allow_write: Annotated[bool, Meta(description="A pilot may set the topic of `write`.")] = False
    write: (
        Annotated[MqttWrite, Meta(description="The topic that a pilot may set, and its limits.")] | None
    ) = None


def fields_of(options: MqttTopicOptions, given: dict[str, MqttField]) -> dict[str, Field]:
    if options.format in ("number", "text") and len(given) != 1:
        raise OptionsError(f"a {options.format} message has one field, not {len(given)}")
    if both := given.keys() & options.keep.keys():
        raise OptionsError(f"{', '.join(sorted(both))} is in `fields` and in `keep`")
    return declared({**given, **{name: FieldOptions(t="str") for name in options.keep}})


def steps_of(form: str, path: str) -> tuple[str, ...]:
    if form in ("number", "text"):
        if path:
            raise OptionsError(f"path {path!r}: a {form} message is one field, leave the path empty")
        return ()
    if form == "csv":
        if not (path.isascii() and path.isdigit() and 1 <= int(path[:6]) <= _MAX_COLUMNS):
            raise OptionsError(f"path {path!r} is not a column: 1 is the first column of a csv message")
        return (str(int(path) - 1),)
    try:
        return path_steps(path)
    except ValueError as error:
        raise OptionsError(str(error)) from error
