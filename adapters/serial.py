"""Reads devices without a protocol: each line of text on a serial port or over TCP is one row."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from msgspec import Meta

from adapters.base import Adapter, DeviceStalled, Options, OptionsError, Reading, Value
from adapters.device_time import checked_time, time_zone, why_uncertain
from adapters.fields import FieldOptions, declared
from adapters.lines.formats import (
    Found,
    LineReader,
    as_declared,
    csv_reader,
    json_reader,
    pair_reader,
    pattern_reader,
    unix_ns,
    why_not,
)
from adapters.lines.lines import BadLines, Lines, LineSource
from adapters.number_text import DecimalMark
from wire.clock import Clock
from wire.messages import Quality, Stream

log = logging.getLogger("edgebed.adapters.serial")

_CONTROL = "".join(map(chr, range(33))) + "\x7f"  # STX and ETX of a scale, NUL, blanks
_TIME = "@time"  # the key of the time in what a reader returns; a field cannot have this name


class TextField(FieldOptions, frozen=True, kw_only=True):
    """One field and its place in a line."""

    at: Annotated[
        int | str, Meta(description="Column from 1, path in JSON, key, or group; empty = the field's name.")
    ] = ""


class SerialOptions(Options, frozen=True, kw_only=True):
    """Options of the serial adapter: `format` is the format of a line, `fields` are its contents."""

    url: Annotated[
        str, Meta(max_length=2_000, description="serial:///dev/ttyUSB0?baud=9600 or tcp://host:port")
    ]
    format: Annotated[Literal["csv", "json", "key-value", "regex"], Meta(description="Format of a line.")]
    fields: Annotated[
        dict[str, TextField], Meta(min_length=1, max_length=1_000, description="Field name to its place.")
    ]
    separator: Annotated[
        str,
        Meta(
            max_length=8,
            description="Between columns or pairs; empty = comma; between pairs also semicolon or blank.",
        ),
    ] = ""
    pattern: Annotated[
        str, Meta(max_length=2_000, description="regex: the expression, with one (?P<group>...) per field.")
    ] = ""
    decimal: Annotated[
        DecimalMark,
        Meta(description="Decimal mark; auto = either, but `1,234` is not read, because it can be 1234 too."),
    ] = "auto"
    encoding: Annotated[str, Meta(max_length=40, description="Encoding of the text, e.g. utf-8, euc-kr.")] = (
        "utf-8"
    )
    stream: Annotated[str, Meta(description="Name of the stream.")] = "lines"
    time_at: Annotated[
        int | str, Meta(description="Place of the device's time, written as in `at`; empty = no time.")
    ] = ""
    time_unit: Annotated[
        Literal["iso", "s", "ms", "us", "ns"],
        Meta(description="iso = ISO 8601, else a number since 1970 in this unit."),
    ] = "iso"
    timezone: Annotated[
        str, Meta(max_length=64, description="Time zone of ISO times that name none, e.g. Asia/Seoul.")
    ] = "UTC"
    max_skew_s: Annotated[
        float, Meta(gt=0, description="A device time that is off by more seconds is not believed.")
    ] = 86_400.0
    first_line: Annotated[
        bool, Meta(description="Read the first line too, although its beginning may be missing.")
    ] = False
    max_line: Annotated[int, Meta(ge=16, le=4_194_304, description="Bytes of the longest line.")] = 65_536
    bad_lines: Annotated[
        int, Meta(ge=1, le=100_000, description="Bad lines in a row that mean another device.")
    ] = 50
    silence_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds without a row until the device has stalled.")
    ] = 5.0
    timeout_s: Annotated[
        float, Meta(gt=0, le=3_600, description="Seconds that opening may take, the first row included.")
    ] = 5.0


class SerialLines(Adapter[SerialOptions]):
    """One device, one signal stream."""

    Options = SerialOptions
    kind = "serial"

    def __init__(self, options: SerialOptions, clock: Clock) -> None:
        super().__init__(options, clock)
        self._fields = declared(options.fields)
        self._zone = time_zone(options.timezone)
        self._read = _reader(options)
        self._frame = "".join(sign for sign in _CONTROL if sign not in options.separator)
        self._source = LineSource.parse(options.url)
        try:
            b" ".decode(options.encoding)
        except (LookupError, UnicodeError) as error:
            raise OptionsError(f"encoding {options.encoding!r} is unknown: use e.g. utf-8") from error
        self._lines = Lines(self._source, clock, self.counters, max_line=options.max_line)
        self._bad_lines = BadLines(self._source, self.counters, log, options.bad_lines)
        self._first: Reading | None = None

    @property
    def silence_s(self) -> float:
        """The option."""
        return self.options.silence_s

    def streams(self) -> dict[str, Stream]:
        """One signal stream."""
        return {self.options.stream: Stream(fields=self._fields)}

    async def open(self) -> None:
        """Connect and wait for a readable line: a port opens even if no device is connected."""
        options = self.options
        deadline = self.clock.flowing_s() + options.timeout_s
        try:
            await self._lines.open(options.timeout_s)
            self._first = await self._next(deadline, cut=not options.first_line)
            if self._first is None:
                raise self._stalled(options.timeout_s)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Release the port at once."""
        self._lines.close()

    async def readings(self) -> AsyncIterator[Reading]:
        """Yield a row for each readable line, without end."""
        silence_s = self.options.silence_s
        reading, self._first = self._first, None
        while True:
            if reading is not None:
                yield reading
            reading = await self._next(self.clock.flowing_s() + silence_s)
            if reading is None:
                raise self._stalled(silence_s)

    def _stalled(self, seconds: float) -> DeviceStalled:
        return self._lines.stalled("line that can be read", seconds, self._bad_lines.last)

    async def _next(self, by_s: float, *, cut: bool = False) -> Reading | None:
        """The next row; None if there is none by `by_s`. `cut`: the next line may lack its beginning."""
        while (line := await self._lines.next(by_s)) is not None:
            if cut and not self._lines.first_is_whole:
                cut = False
                continue
            cut = False
            found = self._parse(line)
            if found:
                self._bad_lines.reset()
                return self._reading(found)
            if self.clock.flowing_s() >= by_s:
                break
        return None

    def _parse(self, line: bytes) -> Found | None:
        """The values of a line; a line that does not match is counted and gives None."""
        try:
            text = line.decode(self.options.encoding)
        except UnicodeError:
            self._bad_lines.count(
                "bad_encoding", line, f"{self.options.encoding} text (see the option `encoding`)"
            )
            return None
        found = self._read(text.strip(self._frame))
        if not found or found.keys() == {_TIME}:
            self._bad_lines.count("no_match", line, f"{self.options.format} lines that have `fields`")
            return None
        return found

    def _reading(self, found: Found) -> Reading:
        values: dict[str, Value] = {}
        worst = Quality.GOOD
        for name, field in self._fields.items():
            raw = found.get(name)
            values[name], quality = as_declared(raw, field.t, self.options.decimal, field.unit)
            worst = worst.worse(quality)
            if quality is Quality.WRONG_TYPE:
                why = why_not(raw, field.t, self.options.decimal, field.unit)
                self.not_read(f"`{name}`: {raw!r}: {why}", name)
            elif name in self.unread and values[name] is not None:
                self.was_read(name)
            if quality is Quality.BAD:
                self.counters["no_value"] += 1
                self.not_read(f"`{name}`: {raw!r}: the device has no value", name)
        at_ns, time_quality = self._stamp(found.get(_TIME))
        return Reading(self.options.stream, at_ns, values, quality=worst.worse(time_quality))

    def _stamp(self, raw: object) -> tuple[int, Quality]:
        now_ns = self.clock.now_ns()
        if self.options.time_at == "":
            return now_ns, Quality.GOOD
        options = self.options
        device_ns = unix_ns(raw, options.time_unit, self._zone)
        why = why_uncertain(device_ns, now_ns, options.max_skew_s)
        cure = "set its clock, `time_unit`, or `timezone` if they name no zone"
        self.times_are(f"{why}, e.g. {raw!r}" if why else "", cure=cure)
        return checked_time(device_ns, now_ns, options.max_skew_s, self.counters)


def _reader(options: SerialOptions) -> LineReader:
    if options.format == "csv":
        numbered = enumerate(options.fields.items(), start=1)
        places = {name: str(column if field.at == "" else field.at) for column, (name, field) in numbered}
    else:
        places = {name: str(name if field.at == "" else field.at) for name, field in options.fields.items()}
    if options.time_at != "":
        places[_TIME] = str(options.time_at)
    if (options.format == "regex") != bool(options.pattern):
        raise OptionsError("`format: regex` needs a `pattern`; the other formats must have none")
    if options.format == "regex":
        return pattern_reader(places, options.pattern)
    readers = {"csv": csv_reader, "json": json_reader, "key-value": pair_reader}
    return readers[options.format](places, options.separator)
